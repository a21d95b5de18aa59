"""Real data: arrays, scikit-learn's diabetes, and files in CSV, TSV, Parquet, NPZ or svmlight form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lntrain._checks import as_tensor
from lntrain.data.delimited import read_delimited
from lntrain.data.problem import Problem
from lntrain.data.tabular import Table, counted, listed, take_target, to_arrays

Array = NDArray[np.float64]

TEXT, SVMLIGHT, PARQUET = (".csv", ".tsv", ".txt"), (".svm", ".svmlight", ".libsvm"), (".parquet", ".pq")
PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def from_arrays(
    X: Any,
    y: Any,
    *,
    columns: Sequence[str] = (),
    target: str = "",
    center: bool = True,
    scale: bool = True,
    name: str = "data",
    where: str = "data",
    notes: Sequence[str] = (),
) -> Problem:
    """A Problem from raw columns, centred and scaled to unit variance (the target too) unless told otherwise.

    Constant columns are dropped, with a note (neither centred nor scaled, those of zeros alone).

    Args:
        X, y: (n, d), (n,), complete.
        columns, target: their names. name, where: the problem's, and the source's in messages.
        notes: what was done to the data before.

    Raises:
        ValueError: n < 2, a value that is missing or not finite, a scale that overflows, a constant target; by name.

    >>> from_arrays([[1.0, 0.0], [3.0, 1.0], [5.0, 5.0]], [1.0, 2.0, 4.0]).X.mean(0).abs().max().item() < 1e-12
    True
    """
    X, y = (np.array(as_tensor(v, f"{where}: {name}").double().numpy()) for name, v in (("X", X), ("y", y)))
    if X.ndim != 2 or y.shape != X.shape[:1] or 0 in X.shape:
        raise ValueError(f"{where}: X {X.shape} and y {y.shape} do not fit: give (n, d) and (n,)")
    columns = tuple(columns) or tuple(str(j) for j in range(X.shape[1]))
    if len(columns) != X.shape[1]:
        raise ValueError(f"{where}: {len(columns)} names of columns for the {X.shape[1]} of X: give one for each")
    _check(X, y, columns, where)
    constant = (np.ptp(X, 0) == 0) & (center or scale or (X[0] == 0))
    if constant.any():
        names = [columns[j] for j in np.flatnonzero(constant)]
        if constant.all():
            raise ValueError(f"{where}: every column is constant ({listed(names)}): nothing is left to fit with")
        notes = (*notes, f"dropped {counted(len(names), 'constant column')}: {listed(names)}")
        X, columns = X[:, ~constant], tuple(np.array(columns, dtype=object)[~constant])
    offset, y_offset = (X.mean(0), float(y.mean())) if center else (np.zeros(X.shape[1]), 0.0)
    spread, y_spread = _spreads(X, y, columns, where) if scale else (np.ones(X.shape[1]), 1.0)
    return Problem(
        torch.from_numpy((X - offset) / spread),
        torch.from_numpy((y - y_offset) / y_spread),
        name=name,
        columns=columns,
        target=target,
        X_offset=torch.from_numpy(offset),
        X_scale=torch.from_numpy(spread),
        y_offset=y_offset,
        y_scale=y_spread,
        notes=tuple(notes),
    )


def _check(X: Array, y: Array, columns: Sequence[str], where: str) -> None:
    if len(X) < 2:
        raise ValueError(f"{where}: {counted(len(X), 'row')} of data, at least 2 are needed")
    if not np.isfinite(y).all():
        row = int(np.argmin(np.isfinite(y))) + 1
        raise ValueError(f"{where}: the target is missing or not finite in data row {row}: remove the row")
    if not np.isfinite(X).all():
        i, j = (int(v) for v in np.argwhere(~np.isfinite(X))[0])
        what = f"column {columns[j]!r} is missing or not finite in data row {i + 1}"
        raise ValueError(f"{where}: {what}: fill it or remove the row")
    if np.ptp(y) == 0:
        raise ValueError(f"{where}: the target is constant: there is nothing to fit")
    largest = np.sqrt(np.finfo(np.float64).max / len(X)) / 2  # of numbers whose centred squares have a sum
    for name, values in (("the target", y[:, None]), ("column", X)):
        if (over := np.abs(values).max(0) > largest).any():
            j = int(np.argmax(over))
            what = name if values is not X else f"column {columns[j]!r}"
            size = np.abs(values[:, j]).max()
            raise ValueError(f"{where}: {what} reaches {size:.3g}, its variance overflows: take another unit")


def _spreads(X: Array, y: Array, columns: Sequence[str], where: str) -> tuple[Array, float]:
    spread, y_spread = X.std(0), float(y.std())
    for name, value in (*zip(map(repr, columns), spread, strict=True), ("the target", y_spread)):
        if value < np.finfo(np.float64).tiny ** 0.5:
            what = name if name == "the target" else f"column {name}"
            raise ValueError(f"{where}: {what} varies by {value:.3g}, its variance underflows: take another unit")
    return spread, y_spread


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
        X,
        data.target,
        columns=names,
        target="progression",
        center=center,
        scale=scale,
        name="diabetes",
        where="diabetes",
    )


def from_file(
    path: str | Path,
    *,
    target: str | None = None,
    missing: str = "refuse",
    categorical: str = "refuse",
    delimiter: str | None = None,
    center: bool = True,
    scale: bool = True,
) -> Problem:
    """A Problem from a file, by its ending; what was done to the data is in its `notes`.

    Args:
        path: .csv, .tsv or .txt (a header line, one row a line; also as .csv.gz), .parquet,
            .npz (arrays X, y), .svm, .svmlight, .libsvm, or .txt in svmlight form.
        target: the name of the target column of a table; the others hold a target of their own.
        missing: of an empty cell, NA, NaN, nan, null, None, ?, N/A, - or a lone point: "refuse", "drop" the row,
            or take the column's "mean". Rows without a target are dropped by both.
        categorical: of a column of text: "refuse", or "onehot": a column of 0 and 1 for each level, `colour=red`,
            and one alone for two levels (true and false, yes and no are two).
        delimiter: of a text table; None recognises `,` `;` tab and `|`, and decimal commas where it is no comma.
        center, scale: as for `from_arrays`.

    Raises:
        ValueError: no such file, an ending that is not known, what is wrong in it and where.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"problem.path: no file {str(path)!r}")
    with _named(path):
        table, y = _read(path, target, delimiter)
        name = (Path(path.stem) if path.suffix.lower() == ".gz" else path).stem
        options: dict[str, Any] = {"missing": missing, "categorical": categorical, "center": center, "scale": scale}
        return from_table(table, y, target=target or "y", name=name, **options)


def from_table(
    table: Table, y: Array, *, target: str, name: str, missing: str, categorical: str, center: bool, scale: bool
) -> Problem:
    """A Problem from a table without its target, and the target y; `name` is the problem's."""
    arrays = to_arrays(table, y, missing=missing, categorical=categorical)
    return from_arrays(
        arrays.X,
        arrays.y,
        columns=arrays.names,
        target=target,
        notes=arrays.notes,
        center=center,
        scale=scale,
        name=name,
        where=table.where,
    )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever a malformed file makes zipfile, zlib, pyarrow or NumPy raise is one line that names the file."""
    try:
        yield
    except MemoryError:
        raise ValueError(f"{path.name}: its table does not fit in the memory: take fewer rows or columns") from None
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, ValueError) and (path.name in said or said.startswith("problem.")):
            raise ValueError(said) from None
        raise ValueError(f"{path.name} cannot be read ({said}): write it anew") from None


def _read(path: Path, target: str | None, delimiter: str | None) -> tuple[Table, Array]:
    packed = path.suffix.lower() == ".gz"
    kind = Path(path.stem if packed else path.name).suffix.lower()
    if kind in TEXT:
        return _read_text(path, target, delimiter)
    if kind in PARQUET and not packed:
        return take_target(_read_parquet(path), target)
    if kind == ".npz" and not packed:
        return _as_table(path, *_read_npz(path))
    if kind in SVMLIGHT and not packed:
        return _read_svmlight(path)
    raise ValueError(
        f"problem.path: {path.name} ends in {path.suffix!r}: give .csv, .tsv, .csv.gz, .parquet, .npz or .svmlight"
    )


def _as_table(path: Path, X: Array, y: Array) -> tuple[Table, Array]:
    return Table(path.name, [str(j) for j in range(X.shape[1])], list(X.T)), y


def _read_text(path: Path, target: str | None, delimiter: str | None) -> tuple[Table, Array]:
    """A .txt file is svmlight where it reads as such, else a table."""
    if path.suffix.lower() == ".txt":
        try:
            return _read_svmlight(path)
        except ValueError as error:
            if target is None:
                raise ValueError(f"{error}; where it is a table, name its problem.target") from None
    return take_target(read_delimited(path, delimiter), target)


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(f"{path.name}: Parquet is read through pyarrow: pip install pyarrow") from None
    try:
        with path.open("rb") as file:
            read = pq.read_table(file)
        index = [name for name in read.column_names if PANDAS_INDEX.fullmatch(name)]
        read = read.drop_columns(index)
    except (pa.ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{path.name}: not a readable Parquet file ({why}): write it anew") from None
    columns: list[NDArray[Any]] = []
    for name, column in zip(read.column_names, read.columns, strict=True):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            columns.append(np.array([cell or None for cell in column.to_pylist()], dtype=object))
            continue
        try:
            columns.append(column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64))
        except pa.ArrowException:
            raise ValueError(f"{path.name}: column {name!r} is {kind}, no number: drop or convert it") from None
    notes = (f"dropped the data frame's index: {listed(index)}",) * bool(index)
    return Table(path.name, read.column_names, columns, notes=notes)


def _read_npz(path: Path) -> tuple[Array, Array]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            if not {"X", "y"} <= set(data.files):
                raise ValueError(f"it holds {', '.join(data.files) or 'nothing'}: arrays named X and y are needed")
            for name in ("X", "y"):
                if np.iscomplexobj(data[name]):
                    raise ValueError(f"{name} holds complex numbers: give real ones")
            X, y = np.asarray(data["X"], dtype=np.float64), np.asarray(data["y"], dtype=np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"{path.name}: X {X.shape} and y {y.shape} do not fit: give (n, d) and (n,)")
    if X.shape[1] == 0:
        raise ValueError(f"{path.name}: X {X.shape} has no columns: at least 1 is needed")
    return X, y


def _read_svmlight(path: Path) -> tuple[Table, Array]:
    from sklearn.datasets import load_svmlight_file

    try:
        X, y = load_svmlight_file(str(path))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.name}: not in svmlight form ({error})") from None
    used = np.flatnonzero(X.getnnz(0))
    if not len(used):
        raise ValueError(f"{path.name}: no features in it")
    empty = X.shape[1] - len(used)  # dropped before they take memory: one index may be very large
    notes = (f"dropped {counted(empty, 'column')} of zeros alone",) * bool(empty)
    columns = list(np.asarray(X[:, used].toarray(), dtype=np.float64).T)
    return Table(path.name, [str(j) for j in used], columns, notes=notes), np.asarray(y, dtype=np.float64)
