"""A table of numbers and text as X (n, d) and y (n,): missing values and categories, as asked and never in silence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MISSING = ("refuse", "drop", "mean")
CATEGORICAL = ("refuse", "onehot")
BOOLEANS = ({"false", "true"}, {"no", "yes"})
STRAY = 10  # a column of text with more numbers than this among its values is one of numbers with a flaw
SEPARATED = re.compile(r"[+-]?\d{1,3}([.,'\u00a0\u202f ]\d{3})+([.,]\d+)?|[+-]?\d+,\d+")


@dataclass(frozen=True)
class Table:
    """Columns as they were read, each (n,): float64 with nan where missing, or text with None where missing.

    `where` is the file's name, `lines` each row's line in it (none where it has no lines).
    """

    where: str
    names: Sequence[str]
    columns: Sequence[NDArray[Any]]
    lines: Sequence[int] = ()
    notes: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        """Where a row stands, for a message."""
        return f"{self.where}, line {self.lines[row]}" if self.lines else f"{self.where}, row {row + 1}"


class Arrays(NamedTuple):
    """X (n, d) and y (n,), the columns' names and what was done."""

    X: Array
    y: Array
    names: tuple[str, ...]
    notes: tuple[str, ...]


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first few names.

    >>> listed(["a", "b", "c"], most=2)
    'a, b, ...'
    """
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def counted(number: int, what: str) -> str:
    """A number with its noun.

    >>> counted(1, "row"), counted(3, "row")
    ('1 row', '3 rows')
    """
    return f"{number} {what}" + ("" if number == 1 else "s")


def take_target(table: Table, target: str | None) -> tuple[Table, Array]:
    """The table without its target, and the target (n,); a name that stands twice gets a number.

    Raises:
        ValueError: no such column, or it is no column of numbers.
    """
    names = list(table.names)
    if target is None:
        raise ValueError(f"problem.target: name the target column of {table.where}: {listed(names)}")
    if names.count(target) != 1:
        what = f"{names.count(target)} columns have this name in" if target in names else "not a column of"
        numbers = " (its first line is numbers: a header line is needed)" if all(map(is_number, names)) else ""
        raise ValueError(f"problem.target={target!r}: {what} {table.where}: it has {listed(names)}{numbers}")
    if len(names) < 2:
        raise ValueError(f"{table.where}: only the target column is there: at least one more is needed")
    at = names.index(target)
    y = table.columns[at]
    if y.dtype == object:
        row, cell = _not_a_number(y)
        raise ValueError(f"{table.place(row)}: {cell!r} in the target {target!r} is no number: write it as a number")
    columns = [*table.columns[:at], *table.columns[at + 1 :]]
    names, note = _unique(names[:at] + names[at + 1 :], target)
    return replace(table, names=names, columns=columns, notes=table.notes + note), y


def _unique(names: list[str], target: str) -> tuple[list[str], tuple[str, ...]]:
    taken, count, renamed = {*names, target}, Counter[str](), []
    for j, name in enumerate(names):
        count[name] += 1
        if count[name] > 1:
            while f"{name}.{count[name]}" in taken:
                count[name] += 1
            names[j] = f"{name}.{count[name]}"
            renamed.append(names[j])
    return names, (f"renamed {counted(len(renamed), 'column')} whose name stood before: {listed(renamed)}",) * bool(
        renamed
    )


def to_arrays(table: Table, y: Array, *, missing: str = "refuse", categorical: str = "refuse") -> Arrays:
    """Numbers from the columns (d of them) and the target y (n,).

    Args:
        missing: "refuse", "drop" (the rows), or "mean" (the column's, over what was observed; for a category,
            each level's share). Rows without a target, and columns without any value, are dropped by both.
        categorical: "refuse", or "onehot": a column of 0 and 1 for each level, one alone where there are two.

    Raises:
        ValueError: what is refused, by file, line and column, with the option that would take it.
    """
    for name, value, known in (("missing", missing, MISSING), ("categorical", categorical, CATEGORICAL)):
        if value not in known:
            raise ValueError(f"problem.{name}={value!r} is unknown: choose one of {', '.join(known)}")
    if len(y) < 2:
        raise ValueError(f"{table.where}: {counted(len(y), 'row')} of data, at least 2 are needed")
    _refuse_infinite(table, y)
    gone = np.column_stack([_gone(column) for column in table.columns])
    if missing == "refuse":
        _refuse_missing(table, y, gone)
    notes, rows = list(table.notes), ~np.isnan(y)
    if not rows.all():
        notes.append(f"dropped {np.sum(~rows)} of {counted(len(y), 'row')}: no target")
    empty = np.asarray(gone[rows].all(0))
    if empty.any():
        names = [name for name, none in zip(table.names, empty, strict=True) if none]
        notes.append(f"dropped {counted(len(names), 'column')} without any value: {listed(names)}")
    if missing == "drop":
        rows = _complete(table, rows, gone & ~empty, notes)
    kept = [j for j in range(len(empty)) if not empty[j]]
    if not kept or rows.sum() < 2:
        what = "no column has any value" if rows.sum() >= 2 else f"{counted(int(rows.sum()), 'row')} with a target"
        raise ValueError(f"{table.where}: {what}: at least 2 rows and 1 column are needed")
    encoded = [_encode(table, j, rows, categorical) for j in kept]
    notes += _encoding_note([table.names[j] for j in kept], encoded)
    X = np.column_stack([values for columns in encoded for _, values in columns])
    if missing == "mean":
        _fill(X, [(table.names[j], int(gone[rows, j].sum())) for j in kept], notes)
    return Arrays(X, y[rows], tuple(name for columns in encoded for name, _ in columns), tuple(notes))


def _gone(column: NDArray[Any]) -> NDArray[np.bool_]:
    return np.array([cell is None for cell in column]) if column.dtype == object else np.isnan(column)


def _refuse_infinite(table: Table, y: Array) -> None:
    for name, column in ((None, y), *zip(table.names, table.columns, strict=True)):
        if column.dtype != object and np.isinf(column).any():
            row = int(np.argmax(np.isinf(column)))
            what = "the target" if name is None else f"column {name!r}"
            raise ValueError(f"{table.place(row)}: {what} is {column[row]}: give a finite number or leave it empty")


def _refuse_missing(table: Table, y: Array, gone: NDArray[np.bool_]) -> None:
    if np.isnan(y).any():
        place = table.place(int(np.argmax(np.isnan(y))))
        raise ValueError(f"{place}: the target has no value: fill it, or problem.missing=drop|mean drops the row")
    if gone.any():
        row = int(np.argmax(gone.any(1)))
        name = table.names[int(np.argmax(gone[row]))]
        raise ValueError(f"{table.place(row)}: column {name!r} is empty: fill it, or problem.missing=drop|mean")


def _complete(table: Table, rows: NDArray[np.bool_], gone: NDArray[np.bool_], notes: list[str]) -> NDArray[np.bool_]:
    """Rows with a target and every value."""
    complete = rows & ~gone.any(1)
    if complete.sum() < 2 <= rows.sum():
        most = table.names[int(np.argmax(gone[rows].sum(0)))]
        raise ValueError(
            f"{table.where}: problem.missing=drop leaves {complete.sum()} of {counted(len(rows), 'row')} "
            f"(column {most!r} is the emptiest): drop columns, or problem.missing=mean"
        )
    if (lost := int(rows.sum() - complete.sum())) > 0:
        notes.append(f"dropped {lost} of {counted(len(rows), 'row')}: a value is missing")
    return complete


def _encode(table: Table, j: int, rows: NDArray[np.bool_], categorical: str) -> list[tuple[str, Array]]:
    """A column as the columns of numbers it becomes, with their names."""
    name, column = table.names[j], table.columns[j]
    if column.dtype != object:
        return [(name, column[rows])]
    _refuse_text(table, name, column, categorical)
    cells = list(column[rows])
    if {str(cell).lower() for cell in cells if cell is not None} in (
        *BOOLEANS,
        *({word} for b in BOOLEANS for word in b),
    ):
        cells = [cell and cell.lower() for cell in cells]
    levels = sorted({cell for cell in cells if cell is not None})
    if len(levels) == len(cells) or len(levels) > max(STRAY, len(cells) / 2):
        raise ValueError(
            f"{table.where}: column {name!r} has {len(levels)} levels in {len(cells)} rows, an identifier: drop it"
        )
    number = {level: float(k) for k, level in enumerate(levels)}
    codes = np.array([number.get(cell, np.nan) for cell in cells])
    shown = levels[-1:] if len(levels) == 2 else levels
    return [(f"{name}={level}", np.where(np.isnan(codes), np.nan, codes == number[level])) for level in shown]


def _refuse_text(table: Table, name: str, column: NDArray[Any], categorical: str) -> None:
    levels = {cell for cell in column if cell is not None}
    numbers = sum(map(is_number, levels))
    row, cell = _not_a_number(column)
    if separated := next((level for level in column if level is not None and SEPARATED.fullmatch(level)), None):
        place = table.place(list(column).index(separated))
        raise ValueError(
            f"{place}: {separated!r} in column {name!r}: write numbers as 1234.5, without other separators"
        )
    if numbers > STRAY:
        text = "is no number" if not is_number(cell) else "is text"
        raise ValueError(
            f"{table.place(row)}: {cell!r} in column {name!r} {text}, though {numbers} of its values are numbers: "
            "mend it or leave it empty"
        )
    if categorical == "refuse":
        raise ValueError(
            f"{table.place(row)}: {cell!r} in column {name!r} is no number: encode it, or problem.categorical=onehot"
        )


def _not_a_number(column: NDArray[Any]) -> tuple[int, str]:
    """The first cell that is no number, else the first there is."""
    there = [(row, cell) for row, cell in enumerate(column) if cell is not None]
    return next(((row, cell) for row, cell in there if not is_number(cell)), there[0])


def is_number(text: str) -> bool:
    """Whether a text is a number; Python would also take underscores.

    >>> is_number("1e3"), is_number("2019_01"), is_number("red")
    (True, False, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _encoding_note(names: Sequence[str], encoded: Sequence[Sequence[tuple[str, Array]]]) -> list[str]:
    made = [(name, len(columns)) for name, columns in zip(names, encoded, strict=True) if columns[0][0] != name]
    if not made:
        return []
    parts = [f"{name} ({counted(count, 'level') if count > 1 else 'one for its 2 levels'})" for name, count in made]
    total = sum(count for _, count in made)
    return [f"made {counted(total, 'column')} of 0 and 1 from {len(made)} of text: {listed(parts)}"]


def _fill(X: Array, missing: Sequence[tuple[str, int]], notes: list[str]) -> None:
    """Each column's mean, over what was observed, where it has no value."""
    some = [(name, count) for name, count in missing if count]
    if not some:
        return
    X[:] = np.where(np.isnan(X), np.nanmean(X, 0), X)
    parts = [f"{name} ({count})" for name, count in some]
    total = sum(count for _, count in some)
    notes.append(f"filled {counted(total, 'missing value')} with the column's mean: {listed(parts)}")
