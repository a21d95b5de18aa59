"""`lntrain-claims`: run the table, write it, exit 1 if a row fails."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from lntrain.claims import report
from lntrain.claims.mutations import broken
from lntrain.claims.table import ROWS
from lntrain.experiments.verdicts import At, Result, judge_all
from lntrain.runs.files import write_atomically

FIRST = ("gamma-law", "steps-needed", "open-band", "support", "mean")  # the longest, so that none runs alone at the end
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def measure(name: str, seed: int, full: bool, mutate: bool, folder: str | None) -> Result:
    """A row, judged and drawn; a row that cannot be measured is an error, and fails."""
    torch.set_num_threads(1)
    row, began, cpu = ROWS[name], time.monotonic(), time.process_time()
    try:
        with broken(row.formula if mutate else None):
            outcome = row.measure(At(name, seed, full))
        checks = judge_all(outcome.checks, len(ROWS))
        spent = time.monotonic() - began, time.process_time() - cpu
        result = Result(name, row.source, row.setting, checks, *spent, note=outcome.note)
    except Exception as error:  # the other rows still count
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Result(name, row.source, row.setting, seconds=time.monotonic() - began, error=text)
    if folder is not None:
        report.draw(Path(folder) / name, result, row.claim, outcome.picture)
    return result


def measure_all(
    names: Sequence[str], seed: int, full: bool, mutated: Sequence[str], folder: Path | None, jobs: int
) -> Iterator[Result]:
    """Rows in the order in which they end, `jobs` at a time, a thread each."""
    for variable in THREADS:
        os.environ.setdefault(variable, "1")
    names = sorted(names, key=lambda name: name not in FIRST)
    where = None if folder is None else str(folder)
    if jobs == 1:
        yield from (measure(name, seed, full, name in mutated, where) for name in names)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(measure, name, seed, full, name in mutated, where) for name in names]
        yield from (future.result() for future in as_completed(futures))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; argparse exits with 2 on a mistake."""
    parser = argparse.ArgumentParser("lntrain-claims", description="Check every claim of theory.md by simulation.")
    parser.add_argument("--full", action="store_true", help="longer runs, tighter intervals: under 20 minutes, not 2")
    parser.add_argument("--only", action="append", metavar="NAME", help="this row alone; may be given again")
    parser.add_argument("--seed", type=int, default=0, help="of all data and noise; choose your own (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="rows at a time (default 2)")
    parser.add_argument("--out", type=Path, default=Path("outputs/claims"), help="folder to write to")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument(
        "--mutate", metavar="NAME", help="test use: this row's formula times 1.2; the row must turn red"
    )
    parser.add_argument("--mutations", action="store_true", help="test use: every row with its formula times 1.2")
    options = parser.parse_args(arguments)
    for name in [*(options.only or ()), *([options.mutate] if options.mutate else ())]:
        if name not in ROWS:
            parser.error(f"{name!r} is no row: choose from {', '.join(ROWS)}")
    if options.jobs < 1 or options.seed < 0:
        parser.error(f"--jobs {options.jobs} must be at least 1 and --seed {options.seed} not negative")
    return options


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 if every row holds (with --mutations: fails), else 1."""
    options = parse(arguments)
    if options.list:
        print("\n".join(f"{name:<20} {row.source:<17} {row.claim}" for name, row in ROWS.items()))
        return 0
    names = options.only or ([options.mutate] if options.mutate else list(ROWS))
    mutated = names if options.mutations else [options.mutate] if options.mutate else []
    folder = None if options.mutations else options.out
    began, results = time.monotonic(), {}
    for result in measure_all(names, options.seed, options.full, mutated, folder, min(options.jobs, len(names))):
        results[result.name] = result
        print_result(result)
    ordered = [results[name] for name in ROWS if name in results]
    seconds = time.monotonic() - began
    if options.mutations:
        return mutations_table(ordered, options.out)
    heading = (
        f"Claims, {'full' if options.full else 'quick'} mode, seed {options.seed}: {len(ordered)} rows, {seconds:.0f} s"
    )
    cpu = sum(result.cpu_seconds for result in ordered)
    about = {
        "mode": "full" if options.full else "quick",
        "seed": options.seed,
        "mutated": options.mutate,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
    }
    report.write(options.out, ordered, about, heading + (f", {options.mutate} MUTATED" if options.mutate else ""))
    bad = [result.name for result in ordered if result.verdict != "holds"]
    print(
        f"{len(ordered) - len(bad)} of {len(ordered)} rows hold; "
        f"{seconds:.0f} s, {cpu:.0f} s of CPU; wrote {options.out}"
    )
    return int(bool(bad))


def print_result(result: Result) -> None:
    """Print a line for the row, and one for each of its checks that does not hold."""
    spent = f"{result.seconds:6.1f} s  {result.cpu_seconds:6.1f} s of CPU"
    print(f"{result.verdict:<10}{result.name:<22}{spent}  {result.error}", flush=True)
    for judged in result.checks:
        if judged.verdict != "holds":
            check = judged.check
            wanted = f"{check.relation} {check.predicted:.4g} (allowed {check.allowance:.1g})"
            print(f"    {judged.verdict}: {check.name}: {report.measured(judged)}, wanted {wanted}", flush=True)


def mutations_table(results: Sequence[Result], folder: Path) -> int:
    """Print and write which rows failed, as they should; 1 if one did not."""
    lines = ["| row | formula, times 1.2 | verdict | turned red |", "|---|---|---|---|"]
    for result in results:
        red = "yes" if result.verdict != "holds" else "NO"
        lines.append(f"| {result.name} | `{ROWS[result.name].formula}` | {result.verdict} | {red} |")
    print("\n".join(lines))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "mutations.md", ("\n".join(lines) + "\n").encode())
    return int(any(result.verdict == "holds" for result in results))


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())
