"""The coercers of what a caller gives: to tensors, to float64 arrays, to groups of columns."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from torch import Tensor


def as_tensor(values: Any, label: str = "X") -> Tensor:
    """An array, a tensor, a data frame or a scipy.sparse matrix as a tensor of floats; sparse ones in CSR layout."""
    if isinstance(values, Tensor):
        tensor = values.detach()
    elif hasattr(values, "tocsr"):
        csr = values.tocsr(copy=True)
        csr.sum_duplicates()
        begins, columns = (torch.from_numpy(part.astype(np.int64)) for part in (csr.indptr, csr.indices))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "beta state"
            tensor = torch.sparse_csr_tensor(begins, columns, torch.from_numpy(csr.data), size=csr.shape)
    else:
        try:
            tensor = torch.from_numpy(np.array(_frame(values) if hasattr(values, "to_numpy") else values))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{label} is no array of numbers: {error}") from None
    if tensor.layout not in (torch.strided, torch.sparse_csr):
        raise ValueError(f"{label} is {tensor.layout}: give a dense tensor or a CSR one (.to_sparse_csr())")
    if tensor.is_complex():
        raise ValueError(f"{label} holds complex numbers: give real ones")
    return tensor if tensor.is_floating_point() else tensor.double()


def whole_number(name: str, value: Any, least: int = 0, below: int = 2**64) -> int:
    """`value` as an int.

    >>> whole_number("seed", 3.0)
    3

    Raises:
        ValueError: it is no whole number of least..below-1.
    """
    try:
        number = -1 if isinstance(value, (bool, str)) or int(value) != value else int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # a list, a tensor of many, NaN, infinity
        number = -1
    if not least <= number < below:
        raise ValueError(f"{name}={value!r} must be a whole number, at least {least} and below {below}")
    return number


def seed_or_seeds(value: Any) -> int | list[int]:
    """A seed as an int; a list, an array or a tensor of them, one a replica, as a list.

    >>> seed_or_seeds(np.int64(3)), seed_or_seeds(np.array([1, 2]))
    (3, [1, 2])

    Raises:
        ValueError: as `whole_number`.
    """
    listed = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        return [whole_number("seed", seed) for seed in listed]
    return whole_number("seed", listed)


def real_number(name: str, value: Any, *, positive: bool = False) -> float:
    """`value` as a float.

    >>> real_number("lr", 1)
    1.0

    Raises:
        ValueError: it is no finite number, or not positive where it must be.
    """
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (positive and number <= 0):
        raise ValueError(f"{name}={value!r} must be a {'positive ' * positive}finite number")
    return number


def group_labels(groups: Any, d: int) -> NDArray[np.int64]:
    """Which group each of d columns is in, (d,) of 0..G-1, from index lists or from labels (d,), in order of the label.

    >>> group_labels([[0, 2], [1]], 3).tolist(), group_labels([7, 7, 3], 3).tolist()
    ([0, 1, 0], [1, 1, 0])

    Raises:
        ValueError: no list; an index that is missing, given twice or none of 0..d-1, by name; labels of another length
            or that do not compare, such as None or NaN.
    """
    listed = groups.tolist() if hasattr(groups, "tolist") else groups
    if isinstance(listed, (str, bytes, Mapping)) or not isinstance(listed, Iterable):
        raise ValueError(f"groups={groups!r} is no list: give index lists, such as [[0, 1], [2]], or a label a column")
    members = [_members(group) for group in listed]
    if not any(isinstance(group, list) for group in members):
        return _numbered(members, d)
    labels = np.full(d, -1, dtype=np.int64)
    for g, group in enumerate(members):
        for j in (whole_number(f"groups[{g}]", i, 0, d) for i in (group if isinstance(group, list) else [group])):
            if labels[j] >= 0:
                raise ValueError(f"column {j} is in groups {labels[j]} and {g}: groups may not overlap")
            labels[j] = g
        if group == []:
            raise ValueError(f"groups[{g}] is empty: leave it out")
    if (labels < 0).any():
        missing = ", ".join(map(str, np.flatnonzero(labels < 0)[:5]))
        raise ValueError(f"groups lack column {missing}: give each of the {d} columns a group, alone if need be")
    return labels


def _members(group: Any) -> Any:
    """A list's, a set's or an array's members as a list; a label as it is."""
    group = group.tolist() if hasattr(group, "tolist") else group
    return list(group) if isinstance(group, Iterable) and not isinstance(group, (str, bytes)) else group


def _numbered(labels: list[Any], d: int) -> NDArray[np.int64]:
    """Labels as 0..G-1."""
    if len(labels) != d:
        raise ValueError(f"groups holds {len(labels)} labels for {d} columns: give one a column, or index lists")
    for j, label in enumerate(labels):
        if not isinstance(label, (str, numbers.Real)) or label != label:
            raise ValueError(f"groups[{j}]={label!r} is no label: give a number or a name")
    return np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64)


def _frame(frame: Any) -> Any:
    """The numbers of a data frame (n, d) or a series (n,); what is none is named by its column."""
    array = frame.to_numpy()
    if array.dtype.kind in "fiubc":
        return array
    names = [str(name) for name in getattr(frame, "columns", ())] or [str(getattr(frame, "name", None) or "0")]
    for name, column in zip(names, array.reshape(len(array), -1).T, strict=True):
        for i, value in enumerate(column):
            if value is None or type(value).__name__ in ("NAType", "NaTType"):
                raise ValueError(f"column {name!r} is missing in row {i}: fill it or drop the row")
            if not isinstance(value, (numbers.Number, np.bool_)) or isinstance(value, np.timedelta64):
                raise ValueError(f"column {name!r} holds {str(value)!r}: encode it (pandas.get_dummies) or drop it")
    return array.astype(np.float64)


def as_float64(values: Any) -> Any:
    """A tensor or array as a float64 array in memory; a sparse one as scipy's CSR; complex numbers are refused."""
    if isinstance(values, Tensor) and values.layout == torch.sparse_csr:
        where = (part.cpu().numpy() for part in (values.col_indices(), values.crow_indices()))
        values = csr_array((values.values().detach().cpu().double().numpy(), *where), shape=tuple(values.shape))
    if issparse(values) and values.dtype.kind != "c":
        X = csr_array(values, dtype=np.float64)
        if not X.has_canonical_format:  # an entry in two parts has no square of its own
            X = X.copy()
            X.sum_duplicates()
        kind = np.int32 if X.nnz < 2**31 else np.int64  # scikit-learn's coordinate descent wants int32
        return csr_array((X.data, X.indices.astype(kind, copy=False), X.indptr.astype(kind, copy=False)), shape=X.shape)
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.numpy() if values.is_complex() else values.double().numpy()
    values = np.asarray(values)
    if values.dtype.kind == "c":
        raise ValueError("complex numbers are no data of a regression: give real ones")
    return np.asarray(values, dtype=np.float64)
