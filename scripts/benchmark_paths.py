"""The speed-up of each engine path over the next best one: steps per second, both in turn, median of several repeats.

    python scripts/benchmark_paths.py [--repeats 5] [--seconds 0.2]

A path that gains less than 5 % everywhere is one to delete. Then noise.stream=gram of tall X against as many rows as
columns, which its steps should cost, and against noise.stream=labels.
"""

from __future__ import annotations

import argparse

import torch
from benchmark import STD, ours, side_by_side

from lntrain import ColumnSpaceNoise, sparse_regression
from lntrain.engine import Path

# path, the path it is measured against, (n, d), batch size, replicas, threads
CASES: tuple[tuple[Path, Path, tuple[int, int], int | None, int | None, int], ...] = (
    (Path.WHOLE_BATCH, Path.GENERAL, (40, 100), None, None, 1),
    (Path.PANELS, Path.WHOLE_BATCH, (40, 100), None, None, 1),
    (Path.PANELS, Path.WHOLE_BATCH, (100, 1000), None, None, 1),
    (Path.GRAM, Path.PANELS, (400, 40), None, None, 1),
    (Path.GRAM, Path.WHOLE_BATCH, (3000, 12), None, None, 1),
    (Path.GRAM, Path.WHOLE_BATCH, (3000, 300), None, None, 1),
    (Path.LANES, Path.PANELS, (40, 100), None, 16, 1),
    (Path.LANES, Path.PANELS, (100, 1000), None, 16, 1),
    (Path.SINGLE_ROW, Path.GENERAL, (40, 100), 1, None, 1),
    (Path.SINGLE_ROW, Path.GENERAL, (100, 1000), 1, None, 1),
    (Path.THREADS, Path.GENERAL, (1000, 10_000), None, None, 2),
)
STREAMS = ((3000, 12), (3000, 300))  # (n, d)


def streams(n: int, d: int, seconds: float, repeats: int) -> None:
    """A row of the table of streams."""
    tall, square = (sparse_regression(n=rows, d=d, k=3, seed=0).to(torch.float32) for rows in (n, d))
    rivals = {
        "gram": ours(tall, None, "auto", noise=ColumnSpaceNoise(STD, X=tall.X)),
        "square": ours(square, None, "auto"),
        "labels": ours(tall, None, "auto"),
    }
    rates = side_by_side(rivals, seconds, repeats)
    over = f"{rates['square'] / rates['gram']:>14.2f} {rates['gram'] / rates['labels']:>12.2f}"
    print(f"{f'{n} x {d}':<12} {rates['gram']:>10.3g} {over}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2)
    options = parser.parse_args()
    print(f"{'path':<12} {'against':<12} {'n x d':<12} {'batch':<6} {'replicas':<9} {'steps/s':>10} {'gain':>6}")
    for one, other, (n, d), batch, replicas, threads in CASES:
        torch.set_num_threads(threads)
        problem = sparse_regression(n=n, d=d, k=3, seed=0).to(torch.float32)
        rivals = {str(path): ours(problem, batch, path, replicas) for path in (one, other)}
        rates = side_by_side(rivals, options.seconds, options.repeats)
        words = f"{one:<12} {other:<12} {f'{n} x {d}':<12} {batch or 'all'!s:<6} {replicas or 1:<9}"
        print(f"{words} {rates[one]:>10.3g} {rates[one] / rates[other]:>6.2f}", flush=True)
    torch.set_num_threads(1)
    print(f"\n{'stream=gram':<12} {'steps/s':>10} {'time over n=d':>14} {'over labels':>12}")
    for n, d in STREAMS:
        streams(n, d, 5 * options.seconds, options.repeats)  # longer: a run begins by Q' X


if __name__ == "__main__":
    main()
