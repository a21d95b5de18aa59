"""What every long run shows and survives: a progress bar, checkpoints now and then, a clean stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from tqdm import tqdm


class Stepped(Protocol):
    """What a run reports: where it stands."""

    @property
    def step(self) -> int: ...


S = TypeVar("S", bound=Stepped)
T = TypeVar("T")
SHARE = 0.01  # of a run's time that checkpoints may take


@dataclass(frozen=True)
class Signals:
    """The signals that came, and the handlers of submitit, which queues a job again."""

    asked: list[int] = field(default_factory=list)
    scheduler: dict[int, Callable[[int, FrameType | None], object]] = field(default_factory=dict)

    def give_way(self, folder: Path) -> None:
        """Stop, or do what the scheduler does: queue the job again and exit, or take no notice."""
        if self.asked[0] not in self.scheduler:
            raise Interruption(self.asked[0], folder)
        signum = self.asked.pop(0)
        self.scheduler[signum](signum, None)


class Interruption(Exception):  # noqa: N818
    """A signal asked the run to stop; its checkpoint is written."""

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(f"stopped; go on with: lntrain resume={folder}")
        self.code = 128 + signum


@contextmanager
def signals() -> Iterator[Signals]:
    """The first SIGINT or SIGTERM only asks: the run stops at its next heartbeat; a second one acts at once.

    In a job of submitit its own handlers have the last word, after the checkpoint.
    """
    came = Signals()

    def ask(signum: int, _: FrameType | None) -> None:
        came.asked.append(signum)
        if signum not in came.scheduler:
            signal.signal(signum, signal.SIG_DFL)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if "SUBMITIT_EXECUTOR" in os.environ:
        numbers += [signal.SIGUSR1, signal.SIGUSR2]  # notice of pre-emption or of a time-out
    with _handled(numbers, ask) as before:
        if "SUBMITIT_EXECUTOR" in os.environ:
            came.scheduler.update(
                {n: handler for n, handler in before.items() if n != signal.SIGINT and callable(handler)}
            )
        yield came


@contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]) -> Iterator[dict[int, Any]]:
    """Signals go to `handler`; gives their handlers before. Outside the main thread (launchers) nothing changes."""
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:
        before = {}
    try:
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def watch(
    snapshots: Iterable[S],
    *,
    steps: int,
    start: int,
    every: float,
    save: Callable[[S], None],
    came: Signals,
    folder: Path,
    label: str | None = None,
) -> Iterator[S]:
    """Pass snapshots on; after the caller has used one, save it when `every` seconds have passed or a stop was asked.

    Where saving takes over SHARE of that, the pauses grow; `every` 0 saves at each snapshot.

    Raises:
        Interruption: a stop was asked and the last snapshot is saved.
        SystemExit: the scheduler has queued the job again.
    """
    saved, pause = time.monotonic(), every
    with tqdm(total=steps, initial=start, unit=" steps", unit_scale=True, disable=None) as bar:
        bar.set_description("starting (the engine compiles at its first use)")
        for snapshot in snapshots:
            bar.set_description(label)
            bar.update(snapshot.step - bar.n)
            yield snapshot
            began = time.monotonic()
            if came.asked or began - saved > pause:
                save(snapshot)
                saved = time.monotonic()
                pause = max(every, (saved - began) / SHARE) if every else 0.0
            if came.asked and snapshot.step < steps:
                came.give_way(folder)


def one_by_one(parts: Mapping[str, T], folder: Path) -> Iterator[tuple[str, T]]:
    """The named parts of a run, with a bar; the first SIGINT or SIGTERM stops the part that is at work.

    Raises:
        Interruption: a stop was asked; parts that the caller has saved stay.
    """

    def stop(signum: int, _: FrameType | None) -> None:
        raise Interruption(signum, folder)

    with _handled((signal.SIGINT, signal.SIGTERM), stop), tqdm(parts.items(), unit=" parts", disable=None) as bar:
        for name, part in bar:
            bar.set_description(name)
            yield name, part
