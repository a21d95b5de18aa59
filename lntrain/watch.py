"""What every long run shows and survives: a progress bar, checkpoints now and then, a clean stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

from tqdm import tqdm


class Stepped(Protocol):
    """What a run reports: where it stands."""

    @property
    def step(self) -> int: ...


S = TypeVar("S", bound=Stepped)


class Interruption(Exception):  # noqa: N818
    """A signal asked the run to stop; its checkpoint is written."""

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(f"stopped; go on with: lntrain resume={folder}")
        self.code = 128 + signum


@contextmanager
def signals() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM only asks: the run stops at its next heartbeat; a second one acts at once."""
    asked: list[int] = []

    def ask(signum: int, _: FrameType | None) -> None:
        asked.append(signum)
        signal.signal(signum, signal.SIG_DFL)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: a launcher's worker
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(
    snapshots: Iterable[S],
    *,
    steps: int,
    start: int,
    every: float,
    save: Callable[[S], None],
    asked: list[int],
    folder: Path,
    label: str | None = None,
) -> Iterator[S]:
    """Pass snapshots on; after the caller has used one, save it when `every` seconds have passed or a stop was asked.

    Raises:
        Interruption: a stop was asked and the last snapshot is saved.
    """
    saved = time.monotonic()
    with tqdm(total=steps, initial=start, unit=" steps", unit_scale=True, disable=None) as bar:
        bar.set_description("starting (the engine compiles at its first use)")
        for snapshot in snapshots:
            bar.set_description(label)
            bar.update(snapshot.step - bar.n)
            yield snapshot
            if asked or time.monotonic() - saved > every:
                save(snapshot)
                saved = time.monotonic()
            if asked and snapshot.step < steps:
                raise Interruption(asked[0], folder)
