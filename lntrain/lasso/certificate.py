"""What certifies a Lasso solution: its input checked, its objective, its duality gap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from lntrain._checks import as_float64

Array = NDArray[np.float64]
GAP = 1e-6  # relative duality gap that every reference must meet
FEW = 8  # up to so many rows, products with X are faster one by one
LARGEST = 1e100  # largest number allowed: sums of squares must not overflow


def lasso_objective(X: Any, y: Any, penalty: Any, coef: Any) -> float:
    """F(coef) = (1/2n)||y - X coef||^2 + sum_j lambda_j |coef_j|.

    >>> lasso_objective([[1.0], [1.0]], [1.0, 1.0], [0.5], [0.5])
    0.375
    """
    X, y, penalty = fitting_problem(X, y, penalty)
    return float(objective(X, y, penalty, of_shape("coef", as_float64(coef), X.shape[1:])))


def duality_gap(X: Any, y: Any, penalty: Any, coef: Any, positive: bool = False) -> Any:
    """Relative gap (F - D(theta)) / F, theta = s r, r the residual, s <= 1 such that |x_j.theta| <= n lambda_j.

    F - D = (1 - s)^2 |r|^2 / 2n + sum_j (lambda_j |beta_j| - s beta_j x_j.r / n): no term is negative, so nothing
    cancels and even a gap of 1e-15 is accurate.

    Args:
        X: (n, d). y: (..., n). penalty, coef: (..., d), a gap for each. positive: coef >= 0 is imposed.

    Returns:
        (...) numbers: no coefficients have an objective below F (1 - gap); infinite where coef is not feasible.

    Raises:
        ValueError: shapes that do not agree, a penalty that is not positive, NaN or infinity in X or y.

    >>> float(duality_gap([[1.0], [1.0]], [1.0, 1.0], [0.25], [0.75])), float(duality_gap([[1.0]], [1.0], [0.5], [0.0]))
    (0.0, 0.25)

    Source: Massias, Gramfort, Salmon 2018.
    """
    X, y, coef = finite("X", as_float64(X)), finite("y", as_float64(y)), as_float64(coef)
    if X.ndim != 2 or y.shape[-1:] != X.shape[:1] or 0 in X.shape:
        raise ValueError(f"X {X.shape} and y {y.shape} do not fit: give (n, d) and (..., n)")
    penalty = positive_penalty(as_float64(penalty), X.shape[1])
    if coef.shape != (*y.shape[:-1], X.shape[1]) or penalty.shape[:-1] not in ((), y.shape[:-1]):
        raise ValueError(f"y {y.shape}, penalty {penalty.shape} and coef {coef.shape} do not fit X {X.shape}")
    return relative_gap(X, y, penalty, coef, positive)


def products(X: Any, rows: Array) -> Array:
    """X @ row, (..., n), for each row (..., d): a few one by one, since BLAS's product of a few is far slower."""
    if rows.ndim == 2 and 0 < len(rows) <= FEW and not issparse(X):
        return np.stack([X @ row for row in rows])
    return np.asarray((X @ rows.T).T)


def relative_gap(X: Any, y: Array, penalty: Array, coef: Array, positive: bool) -> Any:
    n, residual = y.shape[-1], y - products(X, coef)
    slope = products(X.T, residual) / n
    over = np.max((slope if positive else np.abs(slope)) / penalty, axis=-1, initial=1.0)
    square, shrunk = (residual**2).sum(-1) / (2 * n), slope / over[..., None]
    primal = square + (penalty * np.abs(coef)).sum(-1)
    apart = np.maximum(penalty * np.abs(coef) - shrunk * coef, 0.0).sum(-1)  # below 0 by rounding alone
    gap = ((1 - 1 / over) ** 2 * square + apart) / np.where(primal == 0, 1.0, primal)
    return np.where((coef < 0).any(-1), np.inf, gap)[()] if positive else gap


def fitting_problem(X: Any, y: Any, penalty: Any) -> tuple[Any, Array, Array]:
    X, y = as_float64(X), as_float64(y)
    if X.ndim != 2 or y.shape != X.shape[:1] or 0 in X.shape:
        raise ValueError(f"X {X.shape} and y {y.shape} do not fit: give (n, d) and (n,)")
    penalty = as_float64(penalty)
    if penalty.shape not in ((), X.shape[1:]):
        raise ValueError(f"penalty has shape {penalty.shape}: X has {X.shape[1]} columns")
    return finite("X", X), finite("y", y), positive_penalty(np.broadcast_to(penalty, X.shape[1:]).copy(), X.shape[1])


def positive_penalty(penalty: Array, d: int) -> Array:
    if penalty.shape[-1:] != (d,):
        raise ValueError(f"penalty has shape {penalty.shape}: X has {d} columns")
    if not ((penalty > 0) & (penalty < np.inf)).all():
        worst = np.unravel_index(np.argmin(np.where(np.isfinite(penalty), penalty, -np.inf)), penalty.shape)
        where = ", ".join(map(str, worst))
        raise ValueError(f"penalty[{where}]={penalty[worst]:g} must be positive: without label noise there is no Lasso")
    return penalty


def finite(name: str, values: Any) -> Any:
    numbers = values.data if issparse(values) else values
    if numbers.size and not (numbers.min() >= -LARGEST and numbers.max() <= LARGEST):  # false of NaN
        where = np.argwhere(~(np.abs(numbers) <= LARGEST))[0]
        at = "" if issparse(values) else f"[{', '.join(map(str, where))}]"
        raise ValueError(
            f"{name}{at} is {numbers[tuple(where)]:g}: drop or fill such rows, or rescale (at most {LARGEST:g})"
        )
    return values


def of_shape(name: str, values: Array, shape: tuple[int, ...]) -> Array:
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}: {shape} fits")
    return values


def objective(X: Any, y: Array, penalty: Array, coef: Array) -> Any:
    residual = y - X @ coef
    return residual @ residual / (2 * len(y)) + penalty @ np.abs(coef)
