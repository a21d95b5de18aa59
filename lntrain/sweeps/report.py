"""The command `lntrain-report SWEEP_FOLDER`: one table, its figures, a page and a TensorBoard run of a whole sweep."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lntrain.runs import folders
from lntrain.runs.dashboard import Dashboard, write_hparams
from lntrain.runs.files import Damaged, read_arrays, read_json_lines, write_atomically, write_figures
from lntrain.sweeps import figures as sweep_plots
from lntrain.sweeps.figures import Axis, Panel
from lntrain.sweeps.page import METRICS, as_html, as_markdown, headline
from lntrain.sweeps.table import Group, Row, Table, as_csv, as_jsonl, collect, groups_as_csv, show

PAGES = ("table.csv", "groups.csv", "jobs.jsonl", "table.md", "index.html")
STORY = 3  # numbers drawn where the sweep is no plain training
LINES = 6  # curves that one panel bears
SETTINGS = ("steps", "seed", "replicas", "alpha", "alpha_ratio", "std", "lr", "points")  # numbers that are no results


def chosen_metrics(table: Table, wished: Sequence[str] = ()) -> list[str]:
    """What is drawn: the wished, else the story of a training, else the first results that differ between jobs.

    Raises:
        ValueError: a wished metric that no job has.
    """
    for name in wished:
        if name not in table.metrics:
            raise ValueError(f"--metric {name}: no finished job has it; there are {', '.join(table.metrics) or 'none'}")
    if wished:
        return list(wished)
    if "distance_mean" in table.metrics:
        return [name for name in METRICS if name in table.metrics]
    varied = [
        name
        for name in table.metrics
        if len({group.means[name][0] for group in table.groups if name in group.means}) > 1
        and name not in (*SETTINGS, "seconds", "steps_per_second")
        and not name.endswith("_sd")
    ]
    return varied[:STORY]


def figures(table: Table, metrics: Sequence[str]) -> dict[str, Figure]:
    """What the axes ask for: a curve over one, heat maps over two, and a page of maps for each value of a third."""
    axes = [Axis(key, values) for key, values in table.drawn.items() if len(values) > 1]
    if not axes or not metrics or not any(group.means for group in table.groups):
        return {}
    if len(axes) == 1:
        panels = [_panel(table, name, [axes[0]]) for name in metrics]
        return {"sweep": sweep_plots.curves(axes[0], None, panels)}
    first, second, *rest = sorted(axes, key=lambda axis: -len(axis.values))
    drawn = {}
    for fixed in _corners(rest[:1]):
        title = ", ".join(f"{key}={show(value)}" for key, value in fixed.items())
        name = "sweep" + (f"_{title}" if title else "")
        panels = [_panel(table, metric, [second, first], fixed) for metric in metrics]
        drawn[name] = sweep_plots.maps(second, first, panels, title=title)
        if not rest and first.numeric and len(second.values) <= LINES:
            drawn[f"{name}_curves"] = sweep_plots.curves(first, second, panels)
    return drawn


def _corners(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    return [{axis.name: value} for axis in axes for value in axis.values] or [{}]


class _Cell(NamedTuple):
    """One metric at one place of the axes: what was found, half its interval, what theory says, and marks.

    A mark says why there is no number, or that it is of jobs that are short of steps.
    """

    mean: float
    half: float
    theory: float
    marks: str


def _panel(table: Table, metric: str, axes: Sequence[Axis], fixed: Mapping[str, Any] | None = None) -> Panel:
    """One metric over one or two axes; further axes that are not fixed are averaged over."""
    title, log, centre, expected, expects = METRICS.get(metric, (metric.replace("_", " "), None, None, None, ""))
    *lines, points = axes
    cells = [
        [_cell(table, {**(fixed or {}), **line, points.name: value}, metric, expected) for value in points.values]
        for line in _corners(lines)
    ]
    mean = np.array([[cell.mean for cell in line] for line in cells])
    half = np.array([[cell.half for cell in line] for line in cells])
    theory = np.array([[cell.theory for cell in line] for line in cells])
    bounds = (0.0, 1.0) if metric.startswith("support_") and metric != "support_size" else (-math.inf, math.inf)
    return Panel(
        title,
        mean,
        half,
        theory if np.isfinite(theory).any() else None,
        expects,
        _spans_decades(mean) if log is None else log,
        centre,
        [[cell.marks for cell in line] for line in cells],
        bounds,
    )


def _cell(table: Table, place: Mapping[str, Any], metric: str, expected: str | None) -> _Cell:
    groups = [group for group in table.groups if place.items() <= group.axes.items()]
    found = [group.means[metric] for group in groups if metric in group.means]
    theory = [group.means[expected][0] for group in groups if expected is not None and expected in group.means]
    rows = [row for group in groups for row in group.rows]
    marks = dict.fromkeys(
        "short" if row.short else row.status for row in rows if row.short or row.status not in folders.DONE
    )
    return _Cell(
        float(np.mean([mean for mean, _, _ in found])) if found else math.nan,
        found[0][1] if len(found) == 1 else math.nan,
        float(np.mean(theory)) if theory else math.nan,
        ", ".join(marks),
    )


def _spans_decades(values: Any) -> bool:
    known = values[np.isfinite(values)]
    return bool(len(known)) and float(known.min()) > 0 and float(known.max()) > 30 * float(known.min())


def write_settings(folder: Path, title: str, table: Table, metrics: Sequence[str]) -> list[str]:
    """TensorBoard: a run for each setting, its bands over seeds and its HParams; a note for each damaged file."""
    notes: list[str] = []
    for group in table.groups:
        rows = seed_rows([row for row in group.rows if row.status in folders.DONE], notes)
        if not rows:
            continue
        place = folder / group.name.replace("/", ".")
        place.mkdir(parents=True, exist_ok=True)
        board = Dashboard(place, replicas=True, settled=int(rows[-1]["step"]) // 100)
        lines = {"one": 1.0, **_reference_lines(group, notes)}
        for row in rows:
            board.row(row, None, lines)
        values = {key: value if isinstance(value, (str, float)) else str(value) for key, value in group.axes.items()}
        results = {f"result/{name}": group.means[name][0] for name in metrics if name in group.means}
        write_hparams(board.writer, values or {"sweep": title}, results, int(rows[-1]["step"]))
        board.close()
    return notes


def write_whole(folder: Path, text: str, drawn: Mapping[str, Figure]) -> None:
    """TensorBoard: a run with the table and the figures."""
    folder.mkdir(parents=True)
    board = Dashboard(folder, layout={})
    board.writer.add_text("table", text)
    for name, figure in drawn.items():
        board.writer.add_figure(name, figure)
    board.close()


def seed_rows(rows: Sequence[Row], notes: list[str]) -> list[dict[str, float]]:
    """metrics.jsonl of jobs that differ in their seeds: the mean at each common step, and name_sd over them."""
    histories = []
    for job in rows:
        try:
            lines = read_json_lines(job.folder / "metrics.jsonl")
            histories.append({line["step"]: line for line in lines if not isinstance(line.get("arm"), str)})
        except (Damaged, KeyError) as error:
            told = f"{job.folder / 'metrics.jsonl'} is damaged (no {error})" if isinstance(error, KeyError) else error
            notes.append(f"{told}; TensorBoard's curves are without it.")
    if not histories:
        return []
    merged = []
    for step in sorted(set.intersection(*(set(history) for history in histories))):
        lines = [history[step] for history in histories]
        names = [n for n in lines[0] if n != "step" and all(isinstance(line.get(n), (int, float)) for line in lines)]
        row: dict[str, float] = {"step": step, **{n: float(np.mean([line[n] for line in lines])) for n in names}}
        if len(lines) > 1:
            row |= {
                f"{n}_sd": float(np.std([line[n] for line in lines], ddof=1)) for n in names if not n.endswith("_sd")
            }
        merged.append(row)
    return merged


def _reference_lines(group: Group, notes: list[str]) -> dict[str, float]:
    """The Lasso's l1 norm and support size, from the first job that kept its solution."""
    for row in group.rows:
        try:
            coef = read_arrays(row.folder / "result.npz").get("reference_coef")
        except Damaged as error:
            notes.append(f"{error}; TensorBoard's lines of the Lasso are another job's.")
            continue
        if coef is not None and coef.ndim == 1:
            return {"l1": float(np.abs(coef).sum()), "support": float((coef != 0).sum())}
    return {}


def constant_overrides(table: Table) -> str:
    """What the command set for every job alike."""
    found = [
        folders.read_overrides(row.folder) for row in table.rows if (row.folder / ".hydra" / "overrides.yaml").is_file()
    ]
    if not found:
        return ""
    return " ".join(f"{key}={value}" for key, value in found[0].items() if all(f.get(key) == value for f in found))


def report(folder: Path, wished: Sequence[str] = ()) -> Path:
    """Write FOLDER/report/: table.csv, groups.csv, jobs.jsonl, table.md, index.html, figures, tensorboard/."""
    table = collect(folder)
    metrics, title, out = chosen_metrics(table, wished), f"Sweep {folder.resolve().name}", folder / "report"
    drawn = figures(table, metrics)
    _clear(out)
    out.mkdir(exist_ok=True)
    notes = write_settings(out / "tensorboard", title, table, metrics)
    table = replace(table, notes=[*table.notes, *notes])
    text, html = as_markdown(title, table, metrics), as_html(title, table, metrics, drawn, constant_overrides(table))
    pages = (as_csv(table), groups_as_csv(table), as_jsonl(table), text, html)
    for name, page in zip(PAGES, pages, strict=True):
        write_atomically(out / name, page.encode())
    write_figures(out, {name.replace("/", "."): figure for name, figure in drawn.items()})
    write_whole(out / "tensorboard" / "sweep", text, drawn)
    print("\n".join(headline(table, metrics)) + f"\nwrote     {out / 'index.html'}")
    return out


def _clear(out: Path) -> None:
    """An earlier report makes way, known by its names and pictures; what else lies there does not."""
    held = list(out.iterdir()) if out.is_dir() else []
    known = (*PAGES, "tensorboard")
    foreign = [path.name for path in held if path.name not in known and path.suffix not in (".png", ".tmp")]
    if foreign:
        raise ValueError(f"{out} holds {foreign[0]}, which is of no report: move it away, for a report clears {out}")
    if held:
        shutil.rmtree(out)


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser("lntrain-report", description=__doc__)
    parser.add_argument("folder", type=Path, help="outputs/sweeps/NAME; it may still be running")
    parser.add_argument(
        "--metric", action="append", default=[], help="a number of summary.json to draw; may be repeated"
    )
    arguments = parser.parse_args()
    try:
        report(arguments.folder, arguments.metric)
    except ValueError as error:
        print(f"lntrain-report: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"lntrain-report: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
