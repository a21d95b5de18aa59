"""A regression problem: X (n, d), y (n,), and the true coefficients where they are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lntrain._checks import as_tensor, whole_number
from lntrain.data.design import Design

_ROWS = 64  # rows checked at a time: a mask of the whole of a large X would double its memory


@dataclass(frozen=True)
class Problem:
    """Least squares on X (n, d) and y (n,); coef (d,) is the truth, or None.

    Tensors and arrays keep their float dtype, anything else becomes float64. A data frame (pandas, polars)
    gives its `columns`, a series the name of the `target`. A reader's centring and scaling are recorded, so
    that coefficients can be given in the original units; `notes` say what it did to the data, one line each.

    Raises:
        ValueError: shapes that do not fit, n < 2, a value that is no number, not finite or whose square
            overflows, a column of zeros.

    >>> problem = Problem([[1.0, 0.0], [0.0, 2.0]], [1.0, 2.0])
    >>> problem.n, problem.d
    (2, 2)
    """

    X: Tensor
    y: Tensor
    coef: Tensor | None = None
    name: str = "problem"
    columns: tuple[str, ...] = ()
    target: str = ""
    X_offset: Tensor | None = field(default=None, repr=False)
    X_scale: Tensor | None = field(default=None, repr=False)
    y_offset: float = 0.0
    y_scale: float = 1.0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._take_names()
        X = as_tensor(self.X, "X")
        y = as_tensor(self.y, "y")
        if X.ndim != 2 or y.ndim != 1 or len(X) != len(y):
            raise ValueError(f"X {tuple(X.shape)} and y {tuple(y.shape)} do not fit: give (n, d) and (n,)")
        if len(X) < 2 or X.shape[1] < 1:
            raise ValueError(
                f"X has n={len(X)} rows and d={X.shape[1]} columns: at least 2 rows and 1 column are needed"
            )
        y = y.to(X.device)
        if y.dtype != X.dtype:
            raise ValueError(f"y is {y.dtype} and X {X.dtype}: give both one dtype")
        if self.columns and len(self.columns) != X.shape[1]:
            raise ValueError(f"columns has {len(self.columns)} names: X has {X.shape[1]} columns")
        limit = math.sqrt(max(torch.finfo(X.dtype).max, torch.finfo(torch.float32).max) / len(X))
        for label, values in (("X", X if X.layout == torch.strided else X.values()), ("y", y)):
            if not all(bool((block.abs() <= limit).all()) for block in torch.split(values, _ROWS)):
                at = [int(i) for i in (~(values.abs() <= limit)).nonzero()[0]]
                name = label if values is X or values is y else "X.data"
                of = f" (column {self._column(at[1])})" if self.columns and values is X else ""
                value = float(values[tuple(at)])
                large = "too large, its square overflows: take another unit"
                remedy = large if math.isfinite(value) else "remove or fill missing values first"
                raise ValueError(f"{name}{at}{of} is {value}: {remedy}")
        if X.layout == torch.strided:
            zero = torch.stack([(block == 0).all(0) for block in torch.split(X, _ROWS)]).all(0)
        else:
            zero = torch.bincount(X.col_indices()[X.values() != 0], minlength=X.shape[1]) == 0
        if bool(zero.any()):
            column = int(zero.nonzero()[0, 0])
            raise ValueError(f"column {self._column(column)} of X is all zeros: drop it")
        object.__setattr__(self, "X", X)
        object.__setattr__(self, "y", y)
        if self.coef is not None:
            coef = as_tensor(self.coef, "coef").to(X)
            if coef.shape != X.shape[1:]:
                raise ValueError(f"coef has shape {tuple(coef.shape)}: X has {X.shape[1]} columns")
            object.__setattr__(self, "coef", coef)

    def _take_names(self) -> None:
        """Names of columns and target from a data frame and a series, unless they are given."""
        X: Any = self.X
        y: Any = self.y
        coef: Any = self.coef
        columns, target = self.columns, self.target
        if not len(columns) and hasattr(X, "to_numpy"):
            columns = getattr(X, "columns", ())
        if not target and hasattr(y, "to_numpy") and getattr(y, "name", None) is not None:
            target = str(y.name)
        object.__setattr__(self, "columns", tuple(str(name) for name in columns))
        object.__setattr__(self, "target", target)
        index = [str(label) for label in coef.index] if hasattr(coef, "reindex") else []
        if index != list(self.columns) and sorted(index) == sorted(self.columns):
            raise ValueError("coef is labelled in another order than the columns of X: give coef[X.columns]")

    def _column(self, j: int) -> str:
        return repr(self.columns[j]) if self.columns else str(j)

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.X)

    @property
    def d(self) -> int:
        """Columns."""
        return self.X.shape[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, or their numbers "0", "1", ... where they have none: always d of them."""
        return self.columns or tuple(str(j) for j in range(self.d))

    @cached_property
    def design(self) -> Design:
        """X in float64 with what theory reads of it, each computed once."""
        return Design(self.X)

    def to(self, *args: Any) -> Problem:
        """The same problem in another dtype or on another device."""
        coef = None if self.coef is None else self.coef.to(*args)
        return replace(self, X=self.X.to(*args), y=self.y.to(*args), coef=coef)

    def original_units(self, coef: Tensor) -> tuple[Tensor, float | Tensor]:
        """(coef, intercept) for the columns and the target as they were read."""
        scale = torch.ones(self.d) if self.X_scale is None else self.X_scale
        offset = torch.zeros(self.d) if self.X_offset is None else self.X_offset
        back = coef.double().cpu() * self.y_scale / scale.double()
        return back, self.y_offset - back @ offset.double()


def sparse_regression(
    n: int = 40,
    d: int = 100,
    k: int = 5,
    *,
    signs: str = "positive",
    noise: float = 0.0,
    design: str = "gaussian",
    rho: float = 0.5,
    column_scales: tuple[float, float] | None = None,
    seed: int = 0,
) -> Problem:
    """y = X beta + noise * N(0, 1), beta with k ones (or +/- ones).

    Args:
        n, d, k: rows, columns, nonzero coefficients (placed at random).
        signs: "positive" or "random".
        noise: sd of the noise in the data (not of the label noise in training).
        design: "gaussian" (iid N(0, 1)), "correlated" (AR: corr(x_i, x_j) = rho^|i-j|) or "rademacher".
        rho: in (-1, 1), for "correlated".
        column_scales: (low, high): columns are scaled by numbers evenly spaced from low to high, in random order.
        seed: of the data; training has its own.

    Raises:
        ValueError: an argument out of range, by name.

    >>> problem = sparse_regression(20, 30, 3, seed=1)
    >>> int((problem.coef != 0).sum()), problem.n, problem.d
    (3, 20, 30)
    """
    if n < 2 or d < 1 or not 0 <= k <= d:
        raise ValueError(f"n={n}, d={d}, k={k}: give n >= 2, d >= 1 and 0 <= k <= d")
    if signs not in ("positive", "random"):
        raise ValueError(f'signs={signs!r} is unknown: choose "positive" or "random"')
    if design not in ("gaussian", "correlated", "rademacher"):
        raise ValueError(f'design={design!r} is unknown: choose "gaussian", "correlated" or "rademacher"')
    if not -1 < rho < 1:
        raise ValueError(f"rho={rho} must lie in (-1, 1)")
    if not noise >= 0:
        raise ValueError(f"noise={noise} must not be negative")
    rng = np.random.Generator(np.random.Philox(whole_number("problem.seed", seed)))
    X = rng.standard_normal((n, d))
    if design == "rademacher":
        X = np.where(X < 0, -1.0, 1.0)
    elif design == "correlated":
        for j in range(1, d):
            X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * X[:, j]
    coef = np.zeros(d)
    on = rng.choice(d, k, replace=False)
    coef[on] = 1.0 if signs == "positive" else rng.choice([-1.0, 1.0], k)
    if column_scales is not None:
        low, high = (*column_scales, 0.0, 0.0)[:2]
        if len(column_scales) != 2 or not 0 < low <= high:
            raise ValueError(f"column_scales={column_scales} must be (low, high) with 0 < low <= high")
        X = X * rng.permutation(np.linspace(low, high, d))
    y = X @ coef + noise * rng.standard_normal(n)
    return Problem(torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(coef), name="sparse")
