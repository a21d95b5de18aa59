"""Tables that nobody tuned to, by the command with its defaults: `python scripts/tables.py [--own] [--only NAME ...]`.

Each table is written as a CSV and trained by `lntrain problem=file problem.path=... problem.target=... run_dir=...`, as
a user would. Prints a Markdown table, a line as each run ends, and judges it; the exit code is 0 if all pass. Seconds
are of the whole process: the first run after an installation compiles, so run one beforehand if this counts.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tables_data import MADE, OWN, TABLES, Table

from lntrain.runs.files import read_json, write_json

SECONDS, EXCESS, FIT, DISTANCE, FACTOR = 60.0, 0.003, 0.02, 0.03, 1.3  # what passes
NAMES = {  # what a number is called in summary.json
    "excess": ("suboptimality", "suboptimality_mean"),
    "fit": ("distance_fit",),
    "distance": ("distance", "distance_mean"),
    "expected": ("expected_distance",),
}
HEAD = (
    "table",
    "n x d",
    "seconds",
    "exit",
    "support",
    "excess",
    "fit",
    "distance",
    "expected",
    "ill-determined",
    "antithetic",
    "lr",
    "steps",
    "replicas",
    "verdict",
)


def judge(summary: Mapping[str, Any], *, exit_code: int | None, seconds: float) -> list[str]:
    """What is wrong with a run, nothing if it passes.

    Args:
        summary: of summary.json; a number that is not there does not pass.
        exit_code: None where the time limit stopped it.
        seconds: of the whole process.

    >>> good = {"suboptimality": 1e-3, "distance_fit": 0.01, "distance": 0.02, "expected_distance": 0.018}
    >>> judge(good, exit_code=0, seconds=12.0), judge(good | {"distance": 0.05}, exit_code=0, seconds=12.0)
    ([], ['distance 0.05', 'expected 0.018'])
    """
    if exit_code != 0:
        return ["stopped by the time limit" if exit_code is None else f"exit {exit_code}"]
    excess, fit, distance, expected = (number(summary, name) for name in NAMES)
    low, high = summary.get("expected_low"), summary.get("expected_high")
    inside = low is not None and high is not None and low <= distance <= high
    passes = {
        f"{seconds:.3g} s": seconds <= SECONDS,
        f"excess {told(excess)}": excess <= EXCESS,
        f"fit {told(fit)}": fit <= FIT,
        f"distance {told(distance)}": distance <= DISTANCE or bool(summary.get("ill_determined")),
        f"expected {told(expected)}": inside or distance / FACTOR <= expected <= distance * FACTOR,
    }
    return [what for what, passed in passes.items() if not passed]


def number(summary: Mapping[str, Any], what: str) -> float:
    """The value under the first of its keys that is present; NaN if none is."""
    values = [summary[name] for name in NAMES[what] if summary.get(name) is not None]
    return float(values[0]) if values else float("nan")


def told(value: float) -> str:
    """A number in a verdict."""
    return "not told" if value != value else f"{value:.2g}"


def run(name: str, table: Table, folder: Path, overrides: list[str], limit: float) -> dict[str, Any]:
    """Write the table to `folder` and train there; returns what the command printed and wrote, and the verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    table.write(folder / f"{name}.csv")
    shutil.rmtree(folder / "run", ignore_errors=True)  # left by an earlier call of this script
    settings = ["problem=file", f"problem.path={name}.csv", f"problem.target={table.target}", "run_dir=run"]
    begun = time.monotonic()
    code, out, err = call([command(), *settings, *table.overrides, *overrides], folder, limit)
    seconds = time.monotonic() - begun
    summary = read_json(folder / "run" / "summary.json") or {}
    shape = re.search(r"n=(\d+) rows, d=(\d+) columns", out)  # as the plan has it, after encoding and dropping
    return {
        "table": name,
        "n": table.shape[0],
        "columns": table.shape[1],
        "seconds": seconds,
        "exit": code,
        "trained_shape": [int(size) for size in shape.groups()] if shape else None,
        "overrides": [*table.overrides, *overrides],
        "plan": out.split("\n\n")[0].splitlines(),
        "error": (err.strip().splitlines() or [""])[-1],
        "summary": summary,
        "failures": judge(summary, exit_code=code, seconds=seconds),
    }


def command() -> str:
    """The `lntrain` beside this Python."""
    found = shutil.which("lntrain", path=str(Path(sys.executable).parent))
    if found is None:
        raise SystemExit(f"tables: no lntrain beside {sys.executable}: pip install it there")
    return found


def call(words: list[str], folder: Path, limit: float) -> tuple[int | None, str, str]:
    """Exit code, output and errors of a command; no exit code where the limit stopped it."""
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as late:
        return None, (late.stdout or b"").decode(), ""
    return done.returncode, done.stdout, done.stderr


def line(row: Mapping[str, Any]) -> str:
    """A row of the Markdown table."""
    summary, shape = row["summary"], f"{row['n']} x {row['columns']}"
    if row["trained_shape"] not in (None, [row["n"], row["columns"]]):
        shape += " (trained {} x {})".format(*row["trained_shape"])
    expected = shown(number(summary, "expected"))
    if summary.get("expected_low") is not None:
        expected += f" ({shown(summary['expected_low'])} to {shown(summary.get('expected_high'))})"
    ill = summary.get("ill_determined")
    cells = [
        row["table"],
        shape,
        f"{row['seconds']:.1f}",
        shown(row["exit"]),
        shown(summary.get("support_size")),
        *(shown(number(summary, what)) for what in ("excess", "fit", "distance")),
        expected,
        f"+/- {ill:.2g}" if isinstance(ill, float) and ill else shown(ill),
        *(shown(summary.get(name)) for name in ("antithetic", "lr", "steps", "replicas")),
        "; ".join(row["failures"]) or "pass",
    ]
    return f"| {' | '.join(cells)} |"


def shown(value: Any) -> str:
    """A cell: three digits of a fraction, nothing for None and NaN.

    >>> shown(0.012345), shown(7000.0), shown(None), shown(True)
    ('0.0123', '7000', '', 'yes')
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) and not value.is_integer() else f"{value:.0f}"


def cases(names: list[str], seeds: int) -> Iterator[tuple[str, Table, list[str]]]:
    """(name, table, overrides) of each run; a line on standard error for a table whose package is not installed."""
    for name in names:
        for seed in range(seeds):
            try:
                table = TABLES[name](seed)
            except ModuleNotFoundError as error:
                print(f'tables: {name} needs {error.name}: pip install "lntrain[tables]"', file=sys.stderr)
                break
            yield (name, table, []) if seeds == 1 else (f"{name}_{seed}", table, [f"seed={seed}"])


def main() -> None:
    """Run the tables; print, judge and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TABLES, metavar="NAME", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--own", action="store_true", help=f"only {', '.join(OWN)}")
    parser.add_argument("--noise", help="noise=... of every run: gaussian for independent noise")
    parser.add_argument("--overrides", nargs="+", default=[], help="passed on to lntrain, e.g. steps=2000")
    parser.add_argument(
        "--seeds", type=int, default=1, help=f"runs of each table, with seed=0, 1, ...; {', '.join(MADE)} drawn anew"
    )
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a run is stopped")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the tables and runs stay")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, after each run")
    parser.add_argument(
        "--lasso", action="store_true", help="the Lasso alone on random tables: scripts/tables_lasso.py"
    )
    parser.add_argument("--count", type=int, default=5000, help="random tables of --lasso")
    options = parser.parse_args()
    names = options.only or list(OWN if options.own else TABLES)
    if options.lasso:
        sys.exit(importlib.import_module("tables_lasso").main(options.count, 0) > 0)
    noise = [f"noise={options.noise}"] if options.noise else []
    rows: list[dict[str, Any]] = []
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name, table, extra in cases(names, options.seeds):
            folder = Path(options.keep or temporary, name)
            rows.append(run(name, table, folder, [*noise, *extra, *options.overrides], options.limit))
            print(line(rows[-1]), flush=True)
            if rows[-1]["exit"] and rows[-1]["error"]:
                print(f"{name}: {rows[-1]['error']}", file=sys.stderr)
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                write_json(options.json, {"noise": options.noise, "rows": rows})
    passed = sum(not row["failures"] for row in rows)
    print(f"\n{passed} of {len(rows)} pass")
    raise SystemExit(passed < len(rows))


if __name__ == "__main__":
    main()
