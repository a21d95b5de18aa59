"""A sweep in words: its headline, its tables in Markdown, and a page that needs no other file."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lntrain.runs import folders
from lntrain.sweeps.table import Table, is_seed, show

# metric -> (title, falls by decades, the value that means "as predicted", the key that theory expects, its name)
METRICS: dict[str, tuple[str, bool, float | None, str | None, str]] = {
    "distance_mean": (
        "distance of the mean to the predicted Lasso",
        True,
        None,
        "expected_distance",
        "at best, by theory",
    ),
    "lambda_ratio": ("penalty reached / predicted", False, 1.0, "expected_lambda_ratio", "by theory, for finite steps"),
    "support_f1": ("support: F1 against the Lasso's", False, None, None, ""),
}
SHORT = 9  # lines of a table that is shown unasked


def headline(table: Table, metrics: Sequence[str]) -> list[str]:
    """The story in a few sentences."""
    count = {
        status: sum(row.status == status for row in table.rows)
        for status in sorted({r.status for r in table.rows}, key=lambda status: (status not in folders.DONE, status))
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
    return [*lines, *table.notes]


def _pm(mean: tuple[float, float, int]) -> str:
    return show(mean[0]) + ("" if math.isnan(mean[1]) else f" ± {show(mean[1], 2)}")


def group_lines(table: Table, metrics: Sequence[str]) -> list[list[str]]:
    """Heads and a line for each setting."""
    lines = [[*table.drawn, "jobs done", *metrics]]
    for group in table.groups:
        done, short = (
            sum(map(of, group.rows)) for of in (lambda row: row.status in folders.DONE, lambda row: row.short)
        )
        cells = [_pm(group.means[name]) if name in group.means else "" for name in metrics]
        lines.append(
            [
                *map(show, group.axes.values()),
                f"{done} of {len(group.rows)}{f', {short} short of steps' if short else ''}",
                *cells,
            ]
        )
    return lines


def missing_lines(table: Table) -> list[list[str]]:
    """Heads and a line for each job that is not done."""
    rows = [row for row in table.rows if row.status not in folders.DONE]
    return [["job", "status", "reason"], *([row.folder.name, row.status, row.reason] for row in rows)]


def as_markdown(title: str, table: Table, metrics: Sequence[str]) -> str:
    """The tables for people."""
    parts = [f"# {title}", *headline(table, metrics), _markdown(group_lines(table, metrics)), INTERVAL]
    if len(missing := missing_lines(table)) > 1:
        parts += ["## Not done", _markdown(missing)]
    return "\n\n".join(parts) + "\n"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    heads, *rest = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([heads, "|" + "---|" * len(lines[0]), *rest])


INTERVAL = "± is half the width of the 95 % interval of the mean over seeds."
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1180px;
  margin: 32px auto; padding: 0 20px }
h1 { font-size: 24px; margin: 0 0 6px }
h2 { font-size: 17px; margin: 34px 0 8px; border-bottom: 1px solid #e3e6ea; padding-bottom: 4px }
p { margin: 4px 0 } .note { color: #667; font-size: 13px } img { max-width: 100%; margin: 8px 0 }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid #edf0f3; vertical-align: top }
th { font-weight: 600 }
.bad { background: #fdf1ef; border-left: 4px solid #c4413b; padding: 8px 14px; margin: 16px 0 }
.bad > summary { color: #a8322a; font-weight: 600 }
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
        [
            *map(show, row.axes.values()),
            f"{row.status}, short of steps" if row.short else row.status,
            *(show(row.summary.get(m), 4) for m in metrics),
        ]
        for row in table.rows
    ]
    body.append(f"<h2>Every job</h2><details><summary>{len(table.rows)} jobs</summary>{_html(every)}</details>")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en">{head}{"".join(body)}</html>\n'


def _html(lines: Sequence[Sequence[str]]) -> str:
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in lines[0])
    rest = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines[1:])
    return f'<div class="wide"><table><tr>{heads}</tr>{rest}</table></div>'


def _inline(figure: Figure) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()
