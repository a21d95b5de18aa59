"""What a sweep of 60 jobs costs: one core, two by joblib, and as replicas of one job.

`python scripts/benchmark_sweep.py [--steps N] [--repeats N]`. Each repeat makes the sweep of 5 step sizes, 4 noise levels and
3 seeds anew in each way, one after the other; a figure is the median over repeats. The jobs' span runs from the first one's
begin to the last one's end; the command's start-up is told apart. Writes outputs/benchmark/sweep.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lntrain.files import write_json
from lntrain.table import collect

AXES = ["optimizer.lr=0.002,0.003,0.004,0.006,0.008", "noise.std=4,6,8,12", "seed=0,1,2"]
LAUNCHERS = {
    "one core": ["hydra/launcher=basic"],
    "two cores": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "batched": ["hydra/launcher=basic", "sweep.batched=true"],
}


def sweep(options: list[str], steps: int) -> dict[str, Any]:
    """Seconds of the command, of the jobs' span and within the jobs, and every job's numbers."""
    command = [sys.executable, "-c", "from lntrain.cli import main; main()", "-m", *AXES, *options]
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        subprocess.run(
            [*command, f"steps={steps}", "model.replicas=null", "sweep.name=s"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        seconds = time.monotonic() - start
        rows = collect(Path(folder, "outputs", "sweeps", "s")).rows
        begun = min((row.folder / "job.json").stat().st_mtime for row in rows)
        ended = max((row.folder / "summary.json").stat().st_mtime for row in rows)
        numbers = {row.folder.name: row.summary["distance_mean"] for row in rows}
        own = sum(row.summary["seconds"] for row in rows)
    return {"command": seconds, "span": ended - begun, "within": own, "numbers": numbers}


def apart(one: dict[str, float], other: dict[str, float]) -> float:
    """The largest relative difference of two sweeps' numbers."""
    return max(abs(other[name] / value - 1) for name, value in one.items())


def main() -> None:
    """Print what was measured, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark/sweep.json"))
    options = parser.parse_args()
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in LAUNCHERS}
    for _ in range(options.repeats):
        for name, launcher in LAUNCHERS.items():
            seen[name].append(sweep(launcher, options.steps))
    median = {
        name: {key: statistics.median(each[key] for each in runs) for key in ("command", "span", "within")}
        for name, runs in seen.items()
    }
    one, two, batch = (median[name] for name in LAUNCHERS)
    result = {
        "steps": options.steps, "jobs": 60, "seconds": median,
        "two_cores_over_one": one["span"] / two["span"], "command_two_cores_over_one": one["command"] / two["command"],
        "batched_over_one_core": one["span"] / batch["span"], "batched_over_two_cores": two["span"] / batch["span"],
        "overhead_per_job": (one["span"] - one["within"]) / 60,
        "joblib_differs": apart(seen["one core"][0]["numbers"], seen["two cores"][0]["numbers"]),
        "batched_differs": apart(seen["one core"][0]["numbers"], seen["batched"][0]["numbers"]),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    write_json(options.out, result)


if __name__ == "__main__":
    main()
