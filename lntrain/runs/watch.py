"""What every long run shows and survives: a progress bar, checkpoints now and then, a clean stop."""

from __future__ import annotations

import os
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
_scheduler: dict[
    int, Callable[[int, FrameType | None], object]
] = {}  # the handlers of submitit, which queues a job again


class Interruption(Exception):  # noqa: N818
    """A signal asked the run to stop; its checkpoint is written."""

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(f"stopped; go on with: lntrain resume={folder}")
        self.code = 128 + signum


@contextmanager
def signals() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM only asks: the run stops at its next heartbeat; a second one acts at once.

    In a job of submitit its own handlers have the last word, after the checkpoint.
    """
    asked: list[int] = []

    def ask(signum: int, _: FrameType | None) -> None:
        asked.append(signum)
        if signum not in _scheduler:
            signal.signal(signum, signal.SIG_DFL)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if "SUBMITIT_EXECUTOR" in os.environ:
        numbers += [signal.SIGUSR1, signal.SIGUSR2]  # notice of pre-emption or of a time-out
    try:
        before = {number: signal.signal(number, ask) for number in numbers}
    except ValueError:  # not the main thread: a launcher's worker
        yield asked
        return
    if "SUBMITIT_EXECUTOR" in os.environ:
        _scheduler.update({n: handler for n, handler in before.items() if n != signal.SIGINT and callable(handler)})
    try:
        yield asked
    finally:
        _scheduler.clear()
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
        SystemExit: the scheduler has queued the job again.
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
                _give_way(asked, folder)


def _give_way(asked: list[int], folder: Path) -> None:
    """Stop, or do what the scheduler does: queue the job again and exit, or take no notice."""
    if asked[0] not in _scheduler:
        raise Interruption(asked[0], folder)
    signum = asked.pop(0)
    _scheduler[signum](signum, None)
