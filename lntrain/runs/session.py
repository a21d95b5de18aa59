"""The life of a run: signals, progress, checkpoints, resume, seconds, metrics.jsonl, dashboard, figures, summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from numpy.typing import NDArray
from omegaconf import DictConfig

from lntrain.runs import events
from lntrain.runs.dashboard import Dashboard
from lntrain.runs.files import (
    read_checkpoint,
    to_json,
    write_arrays,
    write_atomically,
    write_checkpoint,
    write_figures,
    write_json,
)
from lntrain.runs.history import Curves, Memory
from lntrain.runs.watch import Interruption, Signals, signals, watch
from lntrain.training.divergence import DivergenceError


class Reported(Protocol):
    """What a training yields: where it stands, whether that is to be measured, and all that it needs to go on."""

    @property
    def step(self) -> int: ...

    @property
    def scheduled(self) -> bool: ...

    def state_dict(self) -> dict[str, Any]: ...


S = TypeVar("S", bound=Reported)
State = dict[str, Any] | None  # None: from the start
Training = Callable[[State], Iterable[S]]


@dataclass(frozen=True)
class Outcome:
    """What a run ends with: its summary, arrays and figures, and what of it goes to TensorBoard."""

    summary: dict[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    draw: Callable[[], Mapping[str, Any]]  # name -> figure; asked for only where figures are wanted
    hparams: Mapping[str, Any]
    step: int
    texts: Mapping[str, str] = field(default_factory=dict)
    table: str | None = None  # Markdown


class Session:
    """One run in its folder: `with session:` a dashboard is closed and a stop is told, however the run ends.

    Args:
        cfg: checkpoint_every, figures and seed are read. folder: of the run. resume: go on from its checkpoint.
        jobs: that share the clock, when several are trained at once. seed: in place of the configuration's.
    """

    def __init__(
        self, cfg: DictConfig, folder: Path, *, resume: bool = False, jobs: int = 1, seed: int | None = None
    ) -> None:
        self.folder, self.every, self.seed = Path(folder), cfg.checkpoint_every, cfg.seed if seed is None else seed
        self.draws, self.jobs = cfg.figures is not False, jobs
        if not self.every >= 0:
            raise ValueError(f"checkpoint_every={self.every} must be a number of seconds, at least 0")
        checkpoint = read_checkpoint(self.folder) if resume else {"state": None, "history": {}}
        self.resumed, self.state, self.events = resume, checkpoint["state"], checkpoint.get("events")
        self.remembered: dict[str, Any] = checkpoint["history"]
        self.config, self.memory = "", Memory()
        self._last: Reported | None = None
        self._began = time.monotonic()

    @property
    def step(self) -> int:
        """Where the checkpoint stands; 0 without one."""
        return 0 if self.state is None else int(self.state["step"])

    @property
    def seconds(self) -> float:
        """Of this run, those before its resumes too."""
        return float(self.remembered.get("seconds", 0.0)) + (time.monotonic() - self._began) / self.jobs

    def begin(self, config: str, memory: Memory, **dashboard: Any) -> Self:
        """What checkpoints hold beside the state, and the dashboard's options; the clock starts."""
        if self.events is not None:  # as of the checkpoint, like metrics.jsonl below
            events.restore(self.folder, self.events)
        self.config, self.memory, self.dashboard = config, memory, Dashboard(self.folder, **dashboard)
        self._began = time.monotonic()
        self.write_metrics()  # as of the checkpoint: an interrupted run may have written past it
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if isinstance(error, Interruption):
                told = {**self.memory.told(), "seed": self.seed, "status": "interrupted"}
                write_json(self.folder / "summary.json", told)
            elif isinstance(error, DivergenceError) and self._last is not None:
                self.save(self._last.state_dict())  # the last good state
            elif error is not None and not isinstance(error, OSError):
                self.write_metrics()
        finally:
            with suppress(OSError) if isinstance(error, OSError) else nullcontext():  # one such line is enough
                self.dashboard.close()

    def train(
        self,
        training: Training[S],
        steps: int,
        take: Callable[[S], None] | None = None,
        *,
        label: str | None = None,
        save: Callable[[S], None] | None = None,
    ) -> S:
        """Train from the checkpoint to `steps`, measure by `take`, and save the end; the last snapshot.

        Args:
            take: gets each scheduled snapshot past the checkpoint. save: does what `Session.save` does, otherwise.
        """
        save = save or self._save
        with signals() as came:
            last = self._follow(training, steps, take, came, save, label)
        save(last)
        return last

    def train_each(
        self, trainings: Mapping[str, Training[S]], curves: Curves, steps: int, take: Callable[[str, S], None]
    ) -> None:
        """Train one after the other; `curves` remembers which are done, and a stop in one is a stop of all."""
        with signals() as came:
            for name, training in trainings.items():
                if curves.done(name):
                    continue
                self._follow(training, steps, lambda at, name=name: take(name, at), came, self._save, name)  # type: ignore[misc]
                curves.finish(name)
                self.state = self._last = None
                self.save(None)

    def _follow(
        self,
        training: Training[S],
        steps: int,
        take: Callable[[S], None] | None,
        came: Signals,
        save: Callable[[S], None],
        label: str | None,
    ) -> S:
        start, last = self.step, None
        for last in watch(
            training(self.state),
            steps=steps,
            start=start,
            every=self.every,
            save=save,
            came=came,
            folder=self.folder,
            label=label,
        ):
            self._last = last
            if take is not None and last.scheduled and last.step > start:
                take(last)
        assert last is not None
        return last

    def _save(self, at: Reported) -> None:
        self.save(at.state_dict())

    def save(self, state: State) -> None:
        """checkpoint.pt, and with it the metrics and events up to here."""
        self.dashboard.flush()  # a checkpoint counts on the events before it
        self.write_metrics()
        history = {**self.memory.state(), "seconds": self.seconds}
        kept = {"config": self.config, "state": state, "history": history, "events": events.sizes(self.folder)}
        write_checkpoint(self.folder, kept)

    def write_metrics(self) -> None:
        """metrics.jsonl, the rows that are remembered."""
        lines = "".join(to_json(row) for row in self.memory.rows())
        path = self.folder / "metrics.jsonl"
        if lines or path.exists():
            write_atomically(path, lines.encode(), durable=False)

    def finish(self, outcome: Outcome) -> dict[str, Any]:
        """result.npz, figures, summary.json and the end of the dashboard; the summary."""
        write_arrays(self.folder / "result.npz", outcome.arrays)
        figures = dict(outcome.draw()) if self.draws else {}
        write_figures(self.folder / "figures", figures)
        texts = dict(outcome.texts)
        if outcome.table is not None:
            write_atomically(self.folder / "table.md", f"{outcome.table}\n".encode())
            texts["table"] = outcome.table
        write_json(self.folder / "summary.json", outcome.summary)
        for tag, text in texts.items():
            self.dashboard.text(tag, text)
        self.dashboard.finish(figures, outcome.hparams, outcome.summary, outcome.step)
        return outcome.summary
