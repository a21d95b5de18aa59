"""A text file with a header line and a row a line, read as a table: the delimiter and decimal commas are recognised."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lntrain.data.tabular import Table, counted, listed

MARKERS = frozenset({"", "NA", "NaN", "nan", "null", "None", "?", "N/A", "-", "."})  # of a missing value
DELIMITERS = ",;\t|"
NAMED = {"tab": "\t", "\\t": "\t"}
LOOKED_AT = 20  # lines from which the delimiter is told
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")  # or a number with three decimals

Rows = list[tuple[int, list[str]]]


def read_delimited(path: Path, delimiter: str | None = None) -> Table:
    """The table in a text file, which may be gzipped.

    Args:
        path: UTF-8, with or without a byte order mark; blank lines are passed over.
        delimiter: one character, "tab", or None: of `,` `;` tab and `|` the one that cuts the first lines evenly.
            Where it is no comma, a column of numbers such as 3,14 has decimal commas.

    Raises:
        ValueError: no text table, lines of unequal length, numbers that could mean two things; by file and line.
    """
    delimiter = None if delimiter is None else NAMED.get(delimiter, delimiter)
    if delimiter is not None and len(delimiter) != 1:
        raise ValueError(f"problem.delimiter={delimiter!r}: give one character, tab, or null to recognise it")
    try:
        text = _text(path)
        delimiter = delimiter or _sniff(text)
        reader = _reader(text, delimiter)
        rows: Rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name}: not a readable text table ({error}): save it as UTF-8 CSV") from None
    if not rows:
        raise ValueError(f"{path.name}: the file is empty: a header line and rows of numbers are needed")
    if text.count('"') % 2 and "\n" in "".join(rows[-1][1]):
        raise ValueError(
            f"{path.name}: a quote is opened and never closed, the rest of the file is one field: close it"
        )
    header, rows, notes = _even(path.name, rows)
    cells = list(zip(*(row for _, row in rows), strict=True)) or [()] * len(header)
    columns = _columns(path.name, header, cells, commas=delimiter != ",")
    table = Table(path.name, header, columns, [line for line, _ in rows], notes)
    return _without_row_names(table)


def _text(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode("utf-8-sig")


def _reader(text: str, delimiter: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)


def _sniff(text: str) -> str:
    """The delimiter that cuts the first lines into equally many fields, the most; else the header into the most."""

    def score(delimiter: str) -> tuple[bool, int]:
        try:
            widths = [len(row) for row in islice(_filled(text, delimiter), LOOKED_AT)]
        except csv.Error:  # a field longer than csv takes
            return False, 0
        return (len(set(widths)) == 1 and widths[0] > 1, widths[0]) if widths else (False, 0)

    return max(DELIMITERS, key=score)


def _filled(text: str, delimiter: str) -> Iterator[list[str]]:
    return (row for row in _reader(text, delimiter) if any(map(str.strip, row)))


def _even(where: str, rows: Rows) -> tuple[list[str], Rows, tuple[str, ...]]:
    """Header and rows of one width: empty fields at the end and lines without a value go, with a note."""
    (_, first), *body = rows
    header = [cell.strip() for cell in first]
    filled = [(line, row) for line, row in body if any(map(str.strip, row))]
    width = len(header)
    while width and not header[width - 1] and not any("".join(row[width - 1 :]).strip() for _, row in filled):
        width -= 1
    notes, cut = [], width < len(header)
    for line, row in filled:
        if len(row) > width and not "".join(row[width:]).strip():
            cut = True
            del row[width:]
        if len(row) != width:
            raise ValueError(f"{where}, line {line}: {len(row)} fields, the header has {width}: mend the line")
    if cut:
        notes.append("dropped what is empty at the end of the lines: no name, no value")
    if len(filled) < len(body):
        notes.append(f"passed over {counted(len(body) - len(filled), 'line')} without any value")
    return header[:width], filled, tuple(notes)


def _columns(where: str, header: Sequence[str], cells: Sequence[Sequence[str]], *, commas: bool) -> list[NDArray[Any]]:
    columns = [_column(column) for column in cells]
    if not commas:
        return columns
    changed: dict[int, str] = {}  # column -> a number in it whose comma can only be a decimal one, or ""
    for j, column in enumerate(columns):
        if column.dtype == object and (numbers := _decimal_commas(column)) is not None:
            columns[j] = numbers
            changed[j] = next((cell for cell in column if cell and "," in cell and not THOUSANDS.fullmatch(cell)), "")
    if changed:
        _refuse_two_meanings(where, header, cells, columns, changed)
    return columns


def _column(cells: Sequence[str]) -> NDArray[Any]:
    """Numbers with nan where missing, else text with None where missing."""
    known = cells
    for _ in range(2):  # as they are; then, which takes longer, with nan for what marks a missing value
        try:
            numbers = np.array(known, dtype=np.float64)
        except ValueError:
            known = ["nan" if cell.strip() in MARKERS else cell for cell in cells]
            continue
        if "_" not in "".join(known):  # Python reads 2019_01 as 201901
            return numbers
        break
    stripped = [cell.strip() for cell in cells]
    return np.array([None if cell in MARKERS else cell for cell in stripped], dtype=object)


def _decimal_commas(column: NDArray[Any]) -> NDArray[np.float64] | None:
    texts = ["nan" if cell is None else cell for cell in column]
    if any("." in text or "_" in text for text in texts):
        return None
    try:
        return np.array([text.replace(",", ".") for text in texts], dtype=np.float64)
    except ValueError:
        return None


def _refuse_two_meanings(
    where: str, header: Sequence[str], cells: Sequence[Sequence[str]], columns: Sequence[Any], changed: dict[int, str]
) -> None:
    first = next(iter(changed))
    for j, column in enumerate(columns):
        if j not in changed and column.dtype != object and any("." in cell.strip(" .") for cell in cells[j]):
            raise ValueError(
                f"{where}: column {header[first]!r} has numbers with a comma, column {header[j]!r} with a point: "
                "write all as 1234.5"
            )
    if not any(changed.values()):
        cell = next(cell.strip() for cell in cells[first] if "," in cell)
        raise ValueError(
            f"{where}: {cell!r} in column {header[first]!r} could be thousands or decimals: write numbers as 1234.5"
        )


def _without_row_names(table: Table) -> Table:
    """Without a first column that has no name and names or counts the rows, as R and pandas write one."""
    first = bool(table.names and not table.names[0] and table.lines and _names_rows(table.columns[0]))
    names = [name or f"column {j}" for j, name in enumerate(table.names, 1)][first:]
    unnamed = [name for name, old in zip(names, table.names[first:], strict=True) if not old]
    notes = ["dropped the first column, which has no name and names the rows"] * first
    if unnamed:
        notes.append(f"named {counted(len(unnamed), 'column')} by place: {listed(unnamed)}")
    return replace(table, names=names, columns=table.columns[first:], notes=(*table.notes, *notes))


def _names_rows(column: NDArray[Any]) -> bool:
    if column.dtype == object:
        return None not in column and len(set(column)) == len(column)
    return any(np.array_equal(column, np.arange(len(column)) + start) for start in (0, 1))
