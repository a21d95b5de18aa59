"""What each path of the engine gains over the next leaner choice: steps a second, both in turn, best of several.

    python scripts/benchmark_paths.py [--repeat 5]

A path that gains less than 5 % everywhere is one to delete.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from lntrain import DiagonalLinear, GaussianNoise, LabelNoiseSGD, Problem, sparse_regression
from lntrain.engine import Path, cpu
from lntrain.engine.state import Run

# path, the path it is measured against, (n, d), batch size, replicas, threads
CASES: tuple[tuple[Path, Path, tuple[int, int], int | None, int | None, int], ...] = (
    (Path.WHOLE_BATCH, Path.GENERAL, (40, 100), None, None, 1),
    (Path.PANELS, Path.WHOLE_BATCH, (40, 100), None, None, 1),
    (Path.PANELS, Path.WHOLE_BATCH, (100, 1000), None, None, 1),
    (Path.LANES, Path.PANELS, (40, 100), None, 8, 1),
    (Path.LANES, Path.PANELS, (100, 1000), None, 8, 1),
    (Path.SINGLE_ROW, Path.GENERAL, (40, 100), 1, None, 1),
    (Path.SINGLE_ROW, Path.GENERAL, (100, 1000), 1, None, 1),
    (Path.THREADS, Path.GENERAL, (1000, 5000), None, None, 2),
)


def run_of(shape: tuple[int, int], batch_size: int | None, replicas: int | None) -> Run:
    """A run of the main job's kind; its lr is small, for only its speed counts."""
    n, d = shape
    problem: Problem = sparse_regression(n=n, d=d, k=3, seed=0)
    model = DiagonalLinear(d, init=0.1, replicas=replicas)
    optimizer = LabelNoiseSGD(model.parameters(), lr=1e-5, noise=GaussianNoise(0.5))
    sampling = "full" if batch_size is None else "replacement"
    return Run(model, optimizer, problem.X, problem.y, batch_size or n, sampling, 0.5)


def rates(case: Any, repeat: int) -> tuple[float, float]:
    """Steps a second of both paths, the best of `repeat` turns of about a tenth of a second."""
    one, other, shape, batch_size, replicas, threads = case
    torch.set_num_threads(threads)
    best, runs = {}, {path: run_of(shape, batch_size, replicas) for path in (one, other)}
    for path, run in runs.items():
        cpu.advance(run, 256, path)  # compiles
        start = time.perf_counter()
        cpu.advance(run, 512, path)
        best[path] = 256 / (time.perf_counter() - start)
    for _ in range(repeat):
        for path, run in runs.items():
            steps = max(256, int(best[path] / 10))
            start = time.perf_counter()
            cpu.advance(run, run.step + steps, path)
            best[path] = max(best[path], steps / (time.perf_counter() - start))
    return best[one], best[other]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    print(f"{'path':<12} {'against':<12} {'n x d':<12} {'batch':<6} {'replicas':<9} {'steps/s':>10} {'gain':>6}")
    for case in CASES:
        one, other, (n, d), batch_size, replicas, _ = case
        fast, slow = rates(case, repeat)
        words = f"{one:<12} {other:<12} {f'{n} x {d}':<12} {batch_size or 'all'!s:<6} {replicas or 1:<9}"
        print(f"{words} {fast:>10.3g} {fast / slow:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
