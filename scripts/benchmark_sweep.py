"""What a sweep of 60 jobs costs: on one core, on two by joblib, and batched as replicas of one job.

`python scripts/benchmark_sweep.py [--steps N ...] [--repeats N] [override ...]`. Each repeat runs the sweep of 5 step
sizes, 4 noise levels and 3 seeds in each of the three ways, one after the other; a figure is the median over repeats.
`whole` is the time from the command's first line of output to its last, with the start of joblib's workers and the
planning of the batch; `span` is the time from the first job's start to the last one's end.
Writes outputs/benchmark/sweep.json.
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

from lntrain.runs.files import write_json
from lntrain.sweeps.table import collect

AXES = ["optimizer.lr=0.002,0.003,0.004,0.006,0.008", "noise.std=4,6,8,12", "seed=0,1,2"]
LAUNCHERS = {
    "one core": ["hydra/launcher=basic"],
    "two cores": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "batched": ["hydra/launcher=basic", "sweep.batched=true"],
}


def sweep(options: list[str], steps: int) -> dict[str, Any]:
    """Seconds of the whole sweep, of the jobs' span and within the jobs, and every job's numbers."""
    command = [sys.executable, "-c", "from lntrain.cli import main; main()", "-m", *AXES, *options]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*command, f"steps={steps}", "model.replicas=null", "sweep.name=s"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        told = [(time.monotonic(), line) for line in process.stdout]
        if process.wait() != 0:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
        rows = collect(Path(folder, "outputs", "sweeps", "s")).rows
        begun = min((row.folder / "job.json").stat().st_mtime for row in rows)
        ended = max((row.folder / "summary.json").stat().st_mtime for row in rows)
        numbers = {row.folder.name: row.summary["distance_mean"] for row in rows}
        own = sum(row.summary["seconds"] for row in rows)
    return {"whole": told[-1][0] - told[0][0], "span": ended - begun, "within": own, "numbers": numbers}


def apart(one: dict[str, float], other: dict[str, float]) -> float:
    """The largest relative difference of two sweeps' numbers."""
    return max(abs(other[name] / value - 1) for name, value in one.items())


def compare(steps: int, repeats: int, overrides: list[str]) -> dict[str, Any]:
    """Compare the three ways, with jobs of `steps` steps."""
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in LAUNCHERS}
    for _ in range(repeats):
        for name, launcher in LAUNCHERS.items():
            seen[name].append(sweep([*launcher, *overrides], steps))
    median = {
        name: {key: statistics.median(each[key] for each in runs) for key in ("whole", "span", "within")}
        for name, runs in seen.items()
    }
    one, two, batch = (median[name] for name in LAUNCHERS)
    return {
        "steps": steps,
        "jobs": 60,
        "overrides": overrides,
        "seconds": median,
        "two_cores_over_one": one["span"] / two["span"],
        "whole_two_cores_over_one": one["whole"] / two["whole"],
        "batched_over_one_core": one["whole"] / batch["whole"],
        "batched_over_two_cores": two["whole"] / batch["whole"],
        "overhead_per_job": (one["span"] - one["within"]) / 60,
        "joblib_differs": apart(seen["one core"][0]["numbers"], seen["two cores"][0]["numbers"]),
        "batched_differs": apart(seen["one core"][0]["numbers"], seen["batched"][0]["numbers"]),
    }


def main() -> None:
    """Print what was measured, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("overrides", nargs="*", help="for every job, e.g. engine=torch")
    parser.add_argument("--steps", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark/sweep.json"))
    options = parser.parse_args()
    results = []
    for steps in options.steps:
        results.append(compare(steps, options.repeats, options.overrides))
        print(json.dumps(results[-1], indent=2), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"results": results})


if __name__ == "__main__":
    main()
