"""The command `lntrain-report SWEEP_FOLDER`: one table, its figures, a page and a TensorBoard run of a whole sweep."""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lntrain import runfolder, sweep_plots
from lntrain.dashboard import Dashboard, write_hparams
from lntrain.files import write_atomically
from lntrain.sweep_plots import Axis, Panel
from lntrain.table import Group, Row, Table, as_csv, as_jsonl, collect, groups_as_csv, is_seed, show

# metric -> (title, falls by decades, the value that means "as predicted", the key that theory expects, its name)
METRICS: dict[str, tuple[str, bool, float | None, str | None, str]] = {
    "distance_mean": (
        "distance of the mean to the predicted Lasso",
        True,
        None,
        "expected_distance",
        "at best, by theory",
    ),
    "lambda_ratio": ("penalty reached / predicted", False, 1.0, "bias", "by theory, for finite steps"),
    "support_f1": ("support: F1 against the Lasso's", False, None, None, ""),
}
STORY = 3  # numbers drawn where the sweep is no plain training
SHORT = 9  # lines of a table that is shown unasked
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


def _panel(table: Table, metric: str, axes: Sequence[Axis], fixed: Mapping[str, Any] | None = None) -> Panel:
    """One metric over one or two axes; further axes that are not fixed are averaged over."""
    title, log, centre, expected, expects = METRICS.get(metric, (metric.replace("_", " "), None, None, None, ""))
    rows = axes[0].values if len(axes) == 2 else [None]
    shape = (len(rows), len(axes[-1].values))
    mean, half, theory = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    marks = [["" for _ in range(shape[1])] for _ in range(shape[0])]
    for i, j in np.ndindex(shape):
        place = {
            axes[-1].name: axes[-1].values[j],
            **(fixed or {}),
            **({axes[0].name: rows[i]} if len(axes) == 2 else {}),
        }
        groups = [g for g in table.groups if all(g.axes[key] == value for key, value in place.items())]
        found = [g.means[metric] for g in groups if metric in g.means]
        if found:
            mean[i, j] = np.mean([m for m, _, _ in found])
            half[i, j] = found[0][1] if len(found) == 1 else np.nan
        theory[i, j] = (
            np.mean([g.means[expected][0] for g in groups if expected in g.means] or [np.nan]) if expected else np.nan
        )
        marks[i][j] = ", ".join(
            dict.fromkeys(row.status for g in groups for row in g.rows if row.status not in runfolder.DONE)
        )
    if expected == "bias":
        theory = 1 + theory
    if log is None:
        known = mean[np.isfinite(mean)]
        log = bool(len(known)) and float(known.min()) > 0 and float(known.max()) > 30 * float(known.min())
    bounds = (0.0, 1.0) if metric.startswith("support_") and metric != "support_size" else (-math.inf, math.inf)
    expected_values = theory if np.isfinite(theory).any() else None
    return Panel(title, mean, half, expected_values, expects, log, centre, marks, bounds)


def headline(table: Table, metrics: Sequence[str]) -> list[str]:
    """The story in a few sentences."""
    count = {
        status: sum(row.status == status for row in table.rows)
        for status in sorted({r.status for r in table.rows}, key=lambda status: (status not in runfolder.DONE, status))
    }
    product = " x ".join(
        f"{len(values)} {key}{'s' if is_seed(key) and len(values) > 1 else ''}" for key, values in table.axes.items()
    )
    lines = [
        f"{product or 'one setting'}. {len(table.rows)} jobs: "
        + ", ".join(f"{number} {status}" for status, number in count.items())
        + "."
    ]
    for name in metrics:
        found = {group.name: group.means[name] for group in table.groups if name in group.means}
        if len(found) < 2:
            continue
        low, high = (pick(found, key=lambda key: found[key][0]) for pick in (min, max))
        title = METRICS[name][0] if name in METRICS else name.replace("_", " ")
        if math.isclose(found[low][0], found[high][0], rel_tol=1e-9):
            lines.append(f"{title[0].upper()}{title[1:]}: {show(found[low][0])} in every setting.")
        else:
            lines.append(
                f"{title[0].upper()}{title[1:]}: from {_pm(found[low])} ({low}) to {_pm(found[high])} ({high})."
            )
    codes = {row.code for row in table.rows if row.code}
    if len(codes) > 1:
        lines.append(f"Take care: the jobs were made by {len(codes)} different versions of the code.")
    return lines  # fmt: skip


def _pm(mean: tuple[float, float, int]) -> str:
    return show(mean[0]) + ("" if math.isnan(mean[1]) else f" ± {show(mean[1], 2)}")


def group_lines(table: Table, metrics: Sequence[str]) -> list[list[str]]:
    """Heads and a line for each setting."""
    lines = [[*table.drawn, "jobs done", *metrics]]
    for group in table.groups:
        done = sum(row.status in runfolder.DONE for row in group.rows)
        cells = [_pm(group.means[name]) if name in group.means else "" for name in metrics]
        lines.append([*map(show, group.axes.values()), f"{done} of {len(group.rows)}", *cells])
    return lines


def missing_lines(table: Table) -> list[list[str]]:
    """Heads and a line for each job that is not done."""
    rows = [row for row in table.rows if row.status not in runfolder.DONE]
    return [["job", "status", "reason"], *([row.folder.name, row.status, row.reason] for row in rows)]


def as_markdown(title: str, table: Table, metrics: Sequence[str]) -> str:
    """The tables for people."""
    parts = [f"# {title}", *headline(table, metrics), _markdown(group_lines(table, metrics)), "± is half the width of the 95 % interval of the mean over seeds."]  # fmt: skip
    if len(missing := missing_lines(table)) > 1:
        parts += ["## Not done", _markdown(missing)]
    return "\n\n".join(parts) + "\n"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    heads, *rest = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([heads, "|" + "---|" * len(lines[0]), *rest])


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1180px; margin: 32px auto; padding: 0 20px }
h1 { font-size: 24px; margin: 0 0 6px } h2 { font-size: 17px; margin: 34px 0 8px; border-bottom: 1px solid #e3e6ea; padding-bottom: 4px }
p { margin: 4px 0 } .note { color: #667; font-size: 13px } img { max-width: 100%; margin: 8px 0 }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid #edf0f3; vertical-align: top } th { font-weight: 600 }
.bad { background: #fdf1ef; border-left: 4px solid #c4413b; padding: 8px 14px; margin: 16px 0 } .bad > summary { color: #a8322a; font-weight: 600 }
.wide { overflow-x: auto } summary { cursor: pointer; color: #2563a8 } code { font-size: 13px }
"""


def as_html(title: str, table: Table, metrics: Sequence[str], drawn: Mapping[str, Figure], constant: str) -> str:
    """A page that needs no other file."""
    body = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(line)}</p>" for line in headline(table, metrics))]
    if constant:
        body.append(f'<p class="note">The same in every job: <code>{html.escape(constant)}</code></p>')
    if len(missing := missing_lines(table)) > 1:
        opened = " open" if len(missing) <= SHORT else ""
        head = f"<summary>{len(missing) - 1} jobs are not done</summary>"
        body.append(f'<details class="bad"{opened}>{head}{_html(missing)}</details>')
    body += [f'<img alt="{html.escape(name)}" src="{_inline(figure)}">' for name, figure in drawn.items()]
    body += ["<h2>Means over seeds</h2>", _html(group_lines(table, metrics))]
    body.append('<p class="note">± is half the width of the 95 % interval of the mean over seeds.</p>')
    every = [[*table.axes, "status", *metrics]]
    every += [
        [*map(show, row.axes.values()), row.status, *(show(row.summary.get(m), 4) for m in metrics)]
        for row in table.rows
    ]
    body.append(f"<h2>Every job</h2><details><summary>{len(table.rows)} jobs</summary>{_html(every)}</details>")
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>{"".join(body)}</html>\n'  # fmt: skip


def _html(lines: Sequence[Sequence[str]]) -> str:
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in lines[0])
    rest = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines[1:])
    return f'<div class="wide"><table><tr>{heads}</tr>{rest}</table></div>'


def _inline(figure: Figure) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


def write_tensorboard(
    folder: Path, title: str, table: Table, metrics: Sequence[str], drawn: Mapping[str, Figure]
) -> None:
    """A run for each setting, its bands over seeds and its HParams; and one with the figures and the table."""
    for group in table.groups:
        rows = seed_rows([row for row in group.rows if row.status in runfolder.DONE])
        if not rows:
            continue
        board = Dashboard(folder / group.name.replace("/", "."), replicas=True, settled=int(rows[-1]["step"]) // 100)
        lines = {"one": 1.0, **_reference_lines(group)}
        for row in rows:
            board.row(row, None, lines)
        values = {key: value if isinstance(value, (str, float)) else str(value) for key, value in group.axes.items()}
        results = {f"result/{name}": group.means[name][0] for name in metrics if name in group.means}
        write_hparams(board.writer, values or {"sweep": title}, results, int(rows[-1]["step"]))
        board.close()
    board = Dashboard(folder / "sweep", layout={})
    board.writer.add_text("table", as_markdown(title, table, metrics))
    for name, figure in drawn.items():
        board.writer.add_figure(name, figure)
    board.close()  # fmt: skip


def seed_rows(rows: Sequence[Row]) -> list[dict[str, float]]:
    """metrics.jsonl of jobs that differ in their seeds: the mean over them at each common step, and name_sd over them."""
    histories = []
    for job in rows:
        path = job.folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        histories.append({line["step"]: line for line in lines if not isinstance(line.get("arm"), str)})
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


def _reference_lines(group: Group) -> dict[str, float]:
    """The Lasso's l1 norm and support size, from the first job that kept its solution."""
    for row in group.rows:
        path = row.folder / "result.npz"
        if path.is_file():
            with np.load(path) as result:
                if "reference_coef" in result.files and result["reference_coef"].ndim == 1:
                    coef = result["reference_coef"]
                    return {"l1": float(np.abs(coef).sum()), "support": float((coef != 0).sum())}
    return {}


def constant_overrides(table: Table) -> str:
    """What the command set for every job alike."""
    found = [
        runfolder.read_overrides(row.folder)
        for row in table.rows
        if (row.folder / ".hydra" / "overrides.yaml").is_file()
    ]
    if not found:
        return ""
    return " ".join(f"{key}={value}" for key, value in found[0].items() if all(f.get(key) == value for f in found))


def report(folder: Path, wished: Sequence[str] = ()) -> Path:
    """Write FOLDER/report/: table.csv, groups.csv, jobs.jsonl, table.md, index.html, figures, tensorboard/."""
    table = collect(folder)
    metrics, title, out = chosen_metrics(table, wished), f"Sweep {folder.resolve().name}", folder / "report"
    drawn = figures(table, metrics)
    shutil.rmtree(out, ignore_errors=True)
    texts = {
        "table.csv": as_csv(table), "groups.csv": groups_as_csv(table), "jobs.jsonl": as_jsonl(table),
        "table.md": as_markdown(title, table, metrics),
        "index.html": as_html(title, table, metrics, drawn, constant_overrides(table)),
    }  # fmt: skip
    for name, text in texts.items():
        write_atomically(out / name, text.encode())
    for name, figure in drawn.items():
        figure.savefig(out / f"{name.replace('/', '.')}.png")
    write_tensorboard(out / "tensorboard", title, table, metrics, drawn)
    print("\n".join(headline(table, metrics)) + f"\nwrote     {out / 'index.html'}")
    return out


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
