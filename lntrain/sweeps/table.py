"""A sweep's folder as one table: a row a job, whatever became of it, and means over seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lntrain.runs import folders, locks
from lntrain.runs.files import Damaged
from lntrain.sweeps.jobs import listed_jobs

TIMING = ("seconds", "steps_per_second")  # another number each time: kept out of the table, which can then be compared
SHORT = "short_of_steps"  # of a summary: how many are needed, where there are too few
LEVEL = 0.95  # of the intervals
Value = float | str | None


@dataclass(frozen=True)
class Row:
    """A job: its folder, what was swept, its status with a reason, its numbers, and the code that made it.

    The reason of a job that is done is that its steps are too few for its Lasso.
    """

    folder: Path
    axes: Mapping[str, Value]
    status: str
    reason: str
    summary: Mapping[str, Any]
    code: str | None

    @property
    def short(self) -> bool:
        return self.status in folders.DONE and bool(self.reason)


@dataclass(frozen=True)
class Group:
    """Jobs that differ in their seeds alone; name -> (mean, half width of its interval, how many)."""

    axes: Mapping[str, Value]
    rows: Sequence[Row]
    means: Mapping[str, tuple[float, float, int]]

    @property
    def name(self) -> str:
        return ", ".join(f"{key}={show(value)}" for key, value in self.axes.items()) or "all seeds"


@dataclass(frozen=True)
class Table:
    """axes: short name -> its values in order, seeds among them; metrics: the numbers all rows may have.

    notes: what a reader has to know of the table as a whole.
    """

    rows: Sequence[Row]
    axes: Mapping[str, Sequence[Value]]
    metrics: Sequence[str]
    groups: Sequence[Group] = field(default=())
    notes: Sequence[str] = field(default=())

    @property
    def drawn(self) -> dict[str, Sequence[Value]]:
        """The axes that are no seeds."""
        return {key: values for key, values in self.axes.items() if not is_seed(key)}


def is_seed(key: str) -> bool:
    """Whether an axis only repeats.

    >>> is_seed("problem.seed"), is_seed("lr")
    (True, False)
    """
    return key.rpartition(".")[2] == "seed"


def number(text: Any) -> Value:
    """The number a text is, else the text.

    >>> number("0.01"), number("3"), number("sgd")
    (0.01, 3.0, 'sgd')
    """
    try:
        return float(text)
    except (TypeError, ValueError):
        return None if text is None else str(text)


def show(value: Any, digits: int = 3) -> str:
    """A value for people.

    >>> show(0.012345), show(2.0), show("sgd"), show(None)
    ('0.0123', '2', 'sgd', '')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def collect(folder: Path) -> Table:
    """Read a sweep's folder, also one that still runs or is half failed.

    Raises:
        ValueError: no such folder, or no job in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give the folder of a sweep, such as outputs/sweeps/NAME")
    notes: list[str] = []
    swept = _swept(folder, notes)
    if not swept:
        raise ValueError(f"{folder} holds no jobs: give the folder of a sweep, such as outputs/sweeps/NAME")
    short = folders.short_keys(sorted({key for values in swept.values() for key in values}, key=_order(swept)))
    rows = [
        _row(folder / name, {short[key]: number(values.get(key)) for key in short}) for name, values in swept.items()
    ]
    rows.sort(key=lambda row: [_sortable(value) for value in row.axes.values()])
    axes = {key: sorted({row.axes[key] for row in rows}, key=_sortable) for key in short.values()}
    metrics = list(dict.fromkeys(name for row in rows for name in row.summary))
    groups = _groups(rows, axes, metrics)
    return Table(rows, axes, metrics, groups, [*notes, *_unlike(groups), *_short(rows)])


def _unlike(groups: Sequence[Group]) -> list[str]:
    """A note where one mean is of jobs of different steps."""
    found = {}
    for group in groups:
        steps = {row.summary["steps"] for row in group.rows if row.status in folders.DONE and "steps" in row.summary}
        if len(steps) > 1:
            found[group.name] = f"{min(steps):g} to {max(steps):g} in {group.name}"
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [f"Take care: means are over jobs of different steps: {next(iter(found.values()))}{more}."] if found else []


def _short(rows: Sequence[Row]) -> list[str]:
    short = sum(row.short for row in rows)
    told = "theory speaks of longer ones (the column `reason` of table.csv says how long)"
    return [f"Take care: {short} of {len(rows)} jobs are short of steps, {told}."] if short else []


def _swept(folder: Path, notes: list[str]) -> dict[str, dict[str, str]]:
    """job -> key -> value of what was swept: from sweep.json, or what differs between another sweeper's jobs."""
    jobs: dict[str, dict[str, str]] = {}
    try:
        jobs = listed_jobs(folder)
    except Damaged as error:
        notes.append(f"{error}; what was swept is told from the jobs' own overrides.")
    others = {
        path.parent.parent.name: folders.read_overrides(path.parent.parent)
        for path in sorted(folder.glob("*/.hydra/overrides.yaml"))
        if path.parent.parent.name not in jobs
    }
    if not others:
        return jobs
    keys = dict.fromkeys(key for values in others.values() for key in values)
    varied = [key for key in keys if len({values.get(key) for values in others.values()}) > 1]
    kept = dict.fromkeys([*varied, *(key for values in jobs.values() for key in values)])
    return jobs | {name: {key: values[key] for key in kept if key in values} for name, values in others.items()}


def _order(swept: Mapping[str, Mapping[str, str]]) -> Any:
    order = list(dict.fromkeys(key for values in swept.values() for key in values))
    return order.index


def _sortable(value: Value) -> tuple[int, float, str]:
    return (0, value, "") if isinstance(value, float) else (1, 0.0, str(value))


def _row(folder: Path, axes: dict[str, Value]) -> Row:
    summary, record = folders.summary_of(folder), folders.record_of(folder)
    code = None if record is None else record.get("code")
    numbers = {
        name: value
        for name, value in summary.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in (*axes, SHORT)
    }
    if (busy := locks.holder(folder)) is not None:
        return Row(folder, axes, "running", busy, {}, code)
    if damage := folders.damage_of(record):
        return Row(folder, axes, "damaged", damage, {}, None)
    if not summary:
        begun = record is not None
        return Row(folder, axes, "cut off" if begun else "waiting", "its process is gone" if begun else "", {}, code)
    needed = summary.get(SHORT)
    short = f"short of steps: about {needed} are needed" if needed else ""
    return Row(folder, axes, str(summary.get("status")), str(summary.get("reason") or short), numbers, code)


def _groups(rows: Sequence[Row], axes: Iterable[str], metrics: Sequence[str]) -> list[Group]:
    drawn, members = [key for key in axes if not is_seed(key)], {}  # type: ignore[var-annotated]
    for row in rows:
        members.setdefault(tuple(row.axes[key] for key in drawn), []).append(row)
    groups = []
    for values, some in members.items():
        done = [row for row in some if row.status in folders.DONE]
        found = {name: [row.summary[name] for row in done if name in row.summary] for name in metrics}
        means = {name: interval(numbers) for name, numbers in found.items() if numbers}
        groups.append(Group(dict(zip(drawn, values, strict=True)), some, means))
    return groups


def interval(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean, half width of Student's 95 % interval about it (nan for one value), and how many.

    >>> mean, half, count = interval([1.0, 2.0, 3.0])
    >>> mean, round(half, 3), count
    (2.0, 2.484, 3)
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return float(array.mean()), math.nan, len(array)
    spread = float(array.std(ddof=1)) / math.sqrt(len(array))
    return float(array.mean()), float(stats.t.ppf(0.5 + LEVEL / 2, len(array) - 1)) * spread, len(array)


def as_csv(table: Table) -> str:
    """A row a job: equal text for equal results."""
    numbers = [name for name in table.metrics if name not in TIMING]
    lines = [[*table.axes, "status", *numbers, "reason"]]
    for row in table.rows:
        values = [row.summary.get(name) for name in numbers]
        lines.append([*map(_exact, row.axes.values()), row.status, *map(_exact, values), row.reason])
    return _csv(lines)


def groups_as_csv(table: Table) -> str:
    """A row for each setting: jobs done, and the mean and the half width of its interval for each number."""
    numbers = [name for name in table.metrics if name not in TIMING]
    heads = [head for name in numbers for head in (name, f"{name}_half_width")]
    lines = [[*table.drawn, "done", "jobs", *heads]]
    for group in table.groups:
        done = sum(row.status in folders.DONE for row in group.rows)
        values = [value for name in numbers for value in group.means.get(name, (math.nan, math.nan, 0))[:2]]
        lines.append([*map(_exact, group.axes.values()), str(done), str(len(group.rows)), *map(_exact, values)])
    return _csv(lines)


def as_jsonl(table: Table) -> str:
    """A line a job with everything known of it."""
    told = ("status", "reason", "code")
    return "".join(
        json.dumps({"job": row.folder.name, **row.axes, **{key: getattr(row, key) for key in told}, **row.summary})
        + "\n"
        for row in table.rows
    )


def _exact(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _csv(lines: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
