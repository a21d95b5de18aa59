"""Commands in forked children, and what they leave: for soak.py."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lntrain import cli
from lntrain.runs import files
from lntrain.sweeps import report

LONGEST = 120.0  # seconds after which a life is said to hang


@dataclass(frozen=True)
class End:
    """How a life ended: its exit code (negative: the signal), what it printed and its seconds."""

    code: int
    out: str
    err: str
    seconds: float


class Life:
    """A command in a child of this process, in `folder`; `before` is called there first."""

    def __init__(self, arguments: Sequence[str], folder: Path, before: Callable[[], object] = lambda: None) -> None:
        self.folder, self.began = folder, time.monotonic()
        self.names = [folder / f"{stream}-{time.monotonic_ns()}" for stream in ("out", "err")]
        for name in self.names:
            name.touch()  # the child may be killed before it does
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(arguments, before)

    def _live(self, arguments: Sequence[str], before: Callable[[], object]) -> None:
        code = 99
        try:
            os.chdir(self.folder)
            for number, name in enumerate(self.names, 1):
                os.dup2(os.open(name, os.O_WRONLY), number)
            before()
            GlobalHydra.instance().clear()
            program, entry = ("lntrain-report", report.main) if arguments[0] == "report" else ("lntrain", cli.main)
            sys.argv = [program, *arguments[int(arguments[0] == "report") :]]
            entry()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def end(self, kill_after: float = LONGEST) -> End:
        """Wait for it, and kill it after so many seconds."""
        while time.monotonic() - self.began < kill_after:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.002)
        else:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
        out, err = (name.read_text(errors="replace") for name in self.names)
        for name in self.names:
            name.unlink()
        return End(os.waitstatus_to_exitcode(status), out, err, time.monotonic() - self.began)


def results(folder: Path) -> dict[str, Any]:
    """What a run leaves: arrays, metrics, the summary but for its times, and TensorBoard's points in their order."""
    arrays = {name: values.tobytes() for name, values in files.read_arrays(folder / "result.npz").items()}
    summary = {k: v for k, v in (files.read_json(folder / "summary.json") or {}).items() if "second" not in k}
    metrics = files.read_json_lines(folder / "metrics.jsonl")
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    found.Reload()
    tags = found.Tags()
    points: dict[str, Any] = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags["scalars"]}
    points |= {f"histogram {tag}": [e.step for e in found.Histograms(tag)] for tag in tags["histograms"]}
    return {"arrays": arrays, "summary": summary, "metrics": metrics, "points": points}


def close(one: Any, other: Any) -> bool:
    """Equal to rounding: a job that is stopped within a batch and goes on alone is measured by other sums."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)
    return bool(one == other)


def of_sweep(folder: Path) -> dict[str, Any]:
    """`results` of each job."""
    return {path.parent.name: results(path.parent) for path in sorted(folder.glob("*/job.json"))}
