"""Real data: scikit-learn's diabetes and files in CSV, TSV, NPZ or svmlight form."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lntrain.problem import Problem

Array = NDArray[np.float64]


def from_arrays(
    X: Any,
    y: Any,
    *,
    columns: tuple[str, ...] = (),
    center: bool = True,
    scale: bool = True,
    name: str = "data",
    where: str = "data",
) -> Problem:
    """A Problem from raw columns, centred and scaled to unit variance (the target too) unless told otherwise.

    Raises:
        ValueError: n < 2, a value that is missing or not finite, a constant column or target, by name.

    >>> from_arrays([[1.0, 0.0], [3.0, 1.0], [5.0, 5.0]], [1.0, 2.0, 4.0]).X.mean(0).abs().max().item() < 1e-12
    True
    """
    X, y = np.array(X, dtype=np.float64), np.array(y, dtype=np.float64)
    columns = columns or tuple(str(j) for j in range(X.shape[1]))
    if len(X) < 2:
        raise ValueError(f"{where}: {len(X)} row(s) of data, at least 2 are needed")
    if not np.isfinite(y).all():
        raise ValueError(
            f"{where}: the target is missing or not finite in data row {int(np.argmin(np.isfinite(y))) + 1}: remove the row"
        )
    if not np.isfinite(X).all():
        i, j = (int(v) for v in np.argwhere(~np.isfinite(X))[0])
        raise ValueError(
            f"{where}: column {columns[j]!r} is missing or not finite in data row {i + 1}: fill it or remove the row"
        )
    for j in range(X.shape[1]):
        if np.ptp(X[:, j]) == 0:
            raise ValueError(
                f"{where}: column {columns[j]!r} is constant: drop it (the intercept is handled by centring)"
            )
    if np.ptp(y) == 0:
        raise ValueError(f"{where}: the target is constant: there is nothing to fit")
    offset, y_offset = (X.mean(0), float(y.mean())) if center else (np.zeros(X.shape[1]), 0.0)
    spread, y_spread = (X.std(0), float(y.std())) if scale else (np.ones(X.shape[1]), 1.0)
    return Problem(
        torch.from_numpy((X - offset) / spread),
        torch.from_numpy((y - y_offset) / y_spread),
        name=name,
        columns=columns,
        X_offset=torch.from_numpy(offset),
        X_scale=torch.from_numpy(spread),
        y_offset=y_offset,
        y_scale=y_spread,
    )


def diabetes(*, interactions: bool = False, center: bool = True, scale: bool = True) -> Problem:
    """scikit-learn's diabetes data, 442 patients: 10 columns, or 64 with squares and interactions.

    >>> diabetes(interactions=True).d
    64

    Source: Efron, Hastie, Johnstone, Tibshirani, Least angle regression, 2004.
    """
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    X, names = np.asarray(data.data), list(data.feature_names)
    if interactions:
        X = (X - X.mean(0)) / X.std(0)  # products of standardised columns, as in the source
        pairs = [(i, j) for i in range(10) for j in range(i, 10) if not (i == j and names[i] == "sex")]
        names += [f"{names[i]}^2" if i == j else f"{names[i]}:{names[j]}" for i, j in pairs]
        X = np.column_stack([X, *(X[:, i] * X[:, j] for i, j in pairs)])
    return from_arrays(
        X, data.target, columns=tuple(names), center=center, scale=scale, name="diabetes", where="diabetes"
    )


def from_file(path: str | Path, *, target: str | None = None, center: bool = True, scale: bool = True) -> Problem:
    """A Problem from a file, by its ending.

    Args:
        path: .csv or .tsv (a header line, one row a line), .npz (arrays X, y), .svm, .svmlight, .libsvm or .txt.
        target: the name of the target column of a CSV or TSV; the others hold a target of their own.
        center, scale: as for `from_arrays`.

    Raises:
        ValueError: no such file, an ending that is not known, what is wrong in it and where.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"problem.path: no file {str(path)!r}")
    kind = path.suffix.lower()
    columns: tuple[str, ...] = ()
    if kind in (".csv", ".tsv"):
        X, y, columns = _read_table(path, target, "\t" if kind == ".tsv" else ",")
    elif kind == ".npz":
        X, y = _read_npz(path)
    elif kind in (".svm", ".svmlight", ".libsvm", ".txt"):
        X, y = _read_svmlight(path)
    else:
        raise ValueError(f"problem.path: {path.name} ends in {kind!r}: give .csv, .tsv, .npz or .svmlight")
    return from_arrays(X, y, columns=columns, center=center, scale=scale, name=path.stem, where=path.name)


def _read_table(path: Path, target: str | None, delimiter: str) -> tuple[Array, Array, tuple[str, ...]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file, delimiter=delimiter), 1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path.name}: not a readable text table ({error}): save it as UTF-8 CSV") from None
    if not rows:
        raise ValueError(f"{path.name}: the file is empty: a header line and rows of numbers are needed")
    header = [cell.strip() for cell in rows[0][1]]
    if target is None:
        raise ValueError(f"problem.target: name the target column of {path.name}: {', '.join(header[:8])}")
    if header.count(target) != 1:
        raise ValueError(f"problem.target={target!r}: not a column of {path.name}: it has {', '.join(header[:8])}")
    if len(header) < 2:
        raise ValueError(f"{path.name}: only the target column is there: at least one more is needed")
    table = np.empty((len(rows) - 1, len(header)))
    for i, (number, row) in enumerate(rows[1:]):
        if len(row) != len(header):
            raise ValueError(
                f"{path.name}, line {number}: {len(row)} fields, the header has {len(header)}: mend the line"
            )
        for j, cell in enumerate(row):
            try:
                table[i, j] = float(cell) if cell.strip() else np.nan
            except ValueError:
                raise ValueError(
                    f"{path.name}, line {number}: {cell!r} in column {header[j]!r} is no number: encode or drop the column"
                ) from None
    at = header.index(target)
    return np.delete(table, at, 1), table[:, at], tuple(header[:at] + header[at + 1 :])


def _read_npz(path: Path) -> tuple[Array, Array]:
    try:
        with np.load(path, allow_pickle=False) as data:
            if not {"X", "y"} <= set(data.files):
                raise ValueError(f"it holds {', '.join(data.files) or 'nothing'}: arrays named X and y are needed")
            X, y = np.asarray(data["X"], dtype=np.float64), np.asarray(data["y"], dtype=np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"{path.name}: X {X.shape} and y {y.shape} do not fit: give (n, d) and (n,)")
    return X, y


def _read_svmlight(path: Path) -> tuple[Array, Array]:
    from sklearn.datasets import load_svmlight_file

    try:
        X, y = load_svmlight_file(str(path))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.name}: not in svmlight form ({error})") from None
    if X.shape[1] == 0:
        raise ValueError(f"{path.name}: no features in it")
    return np.asarray(X.toarray(), dtype=np.float64), np.asarray(y, dtype=np.float64)
