"""Reference solutions, each with its certificate."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, diags_array, issparse
from torch import Tensor

from lntrain import homotopy

Array = NDArray[np.float64]
GAP = 1e-6  # relative duality gap that every reference must meet
EXACT = 1e-10  # and where its signs are a guess: just below alpha_max even 0 has a gap below GAP
SMALL = 200_000  # numbers of X up to which the whole path costs little


@dataclass(frozen=True)
class LassoSolution:
    """A certified solution of the weighted Lasso.

    coef (d,) float64; objective F(coef); gap, the relative duality gap (F - dual) / F;
    penalty (d,); positive, whether coef >= 0 was imposed.
    """

    coef: Tensor
    objective: float
    gap: float
    penalty: Tensor
    positive: bool = False

    @property
    def support(self) -> Tensor:
        """(d,) bool, where coef is not zero."""
        return self.coef != 0


def as_float64(values: Any) -> Any:
    """A tensor or array as a float64 array in memory; a sparse one as scipy's CSR."""
    if isinstance(values, Tensor) and values.layout == torch.sparse_csr:
        kind = (
            np.int32 if values.values().numel() < 2**31 else np.int64
        )  # scikit-learn's coordinate descent wants int32
        where = (part.cpu().numpy().astype(kind) for part in (values.col_indices(), values.crow_indices()))
        return csr_array((values.values().detach().cpu().double().numpy(), *where), shape=tuple(values.shape))
    if issparse(values):
        return csr_array(values, dtype=np.float64)
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)


def lasso_objective(X: Any, y: Any, penalty: Any, coef: Any) -> float:
    """F(coef) = (1/2n)||y - X coef||^2 + sum_j lambda_j |coef_j|.

    >>> lasso_objective([[1.0], [1.0]], [1.0, 1.0], [0.5], [0.5])
    0.375
    """
    X, y, penalty, coef = (as_float64(v) for v in (X, y, penalty, coef))
    residual = y - X @ coef
    return float(residual @ residual / (2 * len(y)) + penalty @ np.abs(coef))


def duality_gap(X: Array, y: Array, penalty: Array, coef: Array, positive: bool = False) -> Any:
    """Relative gap (F - D(theta)) / F, theta the residual scaled to be feasible: |x_j.theta| <= n lambda_j.

    y (..., n), penalty and coef (..., d): a gap for each.
    """
    n, residual = y.shape[-1], y - (X @ coef.T).T
    slope = (X.T @ residual.T).T / n
    over = np.max((slope if positive else np.abs(slope)) / penalty, axis=-1, initial=0.0)
    theta = residual / np.maximum(1.0, over)[..., None]
    primal = (residual**2).sum(-1) / (2 * n) + (penalty * np.abs(coef)).sum(-1)
    dual = ((y**2).sum(-1) - ((y - theta) ** 2).sum(-1)) / (2 * n)
    return np.where(primal > 0, (primal - dual) / np.where(primal > 0, primal, 1.0), 0.0)[()]


def weighted_lasso(X: Any, y: Any, penalty: Any, *, positive: bool = False, start: Any = None) -> LassoSolution:
    """scikit-learn's Lasso on scaled columns: min (1/2n)||y - X beta||^2 + sum_j lambda_j |beta_j|.

    Args:
        X: (n, d), dense or scipy.sparse. y: (n,). penalty: lambda, a positive number or (d,) of them.
        positive: impose beta >= 0 (the "square" parametrisation).
        start: (d,) a warm start; where its support and signs are the solution's, no iteration is needed.

    Returns:
        LassoSolution, its relative duality gap at most 1e-6.

    Raises:
        ValueError: a penalty that is not positive, shapes that do not agree.
        RuntimeError: the gap was not reached.

    >>> weighted_lasso([[1.0], [1.0]], [1.0, 1.0], 0.25).coef.tolist()
    [0.75]

    Source: Tibshirani 1996; gap as in Massias, Gramfort, Salmon 2018.
    """
    X, y = as_float64(X), as_float64(y)
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"X {X.shape} and y {y.shape} do not fit: give (n, d) and (n,)")
    penalty = as_float64(penalty)
    if penalty.shape not in ((), X.shape[1:]):
        raise ValueError(f"penalty has shape {penalty.shape}: X has {X.shape[1]} columns")
    penalty = np.broadcast_to(penalty, X.shape[1:])
    if not (np.isfinite(penalty).all() and (penalty > 0).all()):
        worst = int(np.argmin(np.where(np.isfinite(penalty), penalty, -np.inf)))
        raise ValueError(f"penalty[{worst}]={penalty[worst]:g} must be positive: without label noise there is no Lasso")
    alpha = float(penalty.mean())
    weights = penalty / alpha
    sparse = issparse(X)
    scaled = csc_array(X @ diags_array(1 / weights)) if sparse else np.asfortranarray(X / weights)
    coef = np.zeros(X.shape[1]) if start is None else as_float64(start) * weights
    gap = np.inf
    lars = () if sparse else ("lars",)
    # where X is small the whole path is soonest; elsewhere coordinate descent finds the signs soon or, at small penalties, never
    attempts = (*(lars if X.shape[0] * X.shape[1] <= SMALL else ()), "soon", "signs", 1e-9, 1e-12, *lars)
    for attempt in (*(() if start is None else ("signs",)), *attempts):
        if attempt == "signs":
            coef = _solve_on_signs(scaled, y, alpha, coef)
        elif attempt == "lars":
            coef = _solve_by_lars(scaled, y, alpha, positive)
        elif attempt == "soon":
            coef = _solve(scaled, y, alpha, coef, positive, 1e-5, 500)
        else:
            coef = _solve(scaled, y, alpha, coef, positive, float(attempt), 100_000)
        gap = float(duality_gap(X, y, penalty, coef / weights, positive))
        if gap <= (EXACT if attempt in ("soon", "signs") else GAP):
            solution = torch.from_numpy(coef / weights)
            objective = lasso_objective(X, y, penalty, solution)
            return LassoSolution(solution, objective, max(gap, 0.0), torch.from_numpy(penalty.copy()), positive)
    raise RuntimeError(
        f"scikit-learn's Lasso stopped at a relative duality gap of {gap:.1e} (wanted {GAP:g}): "
        f"raise the penalty (its mean is {alpha:.3g}) or standardise the columns of X"
    )


def moved_lasso(X: Any, y: Any, changes: Any, solutions: Sequence[LassoSolution]) -> Tensor:
    """The weighted Lasso at labels y + change for each solution at labels y: exact, within the same gap.

    Args:
        X: (n, d), dense or scipy.sparse. y: (n,). changes: (R, n). solutions: R of them.

    Returns:
        (R, d) coefficients.

    Raises:
        As `weighted_lasso`.

    >>> start = weighted_lasso([[1.0], [1.0]], [1.0, 1.0], 0.25)
    >>> moved_lasso([[1.0], [1.0]], [1.0, 1.0], [[1.0, 0.0]], [start]).tolist()
    [[1.25]]
    """
    X, y, changes = as_float64(X), as_float64(y), as_float64(changes)
    starts = np.stack([as_float64(solution.coef) for solution in solutions])
    penalties = np.stack([as_float64(solution.penalty) for solution in solutions])
    coef, gaps, positive = starts.copy(), np.full(len(solutions), np.inf), solutions[0].positive
    if not issparse(X) and X.size <= SMALL:
        rows = np.ascontiguousarray(X.T)
        for r in range(len(starts)):
            coef[r], _ = homotopy.follow(rows, y, changes[r], penalties[r], positive, starts[r])
        gaps = duality_gap(X, y + changes, penalties, coef, positive)
    for r in np.flatnonzero(~(gaps <= GAP)).tolist():
        solved = weighted_lasso(X, y + changes[r], penalties[r], positive=positive, start=starts[r])
        coef[r] = as_float64(solved.coef)
    return torch.from_numpy(coef)


def weighted_lasso_path(
    X: Any, y: Any, alphas: Any, *, weights: Any = None, positive: bool = False
) -> list[LassoSolution]:
    """The weighted Lasso at each of many penalties lambda_j = alpha weights_j, every one certified.

    Args:
        X: (n, d). y: (n,). alphas: positive numbers, fastest in falling order (warm starts).
        weights: (d,) or None for c_j = (1/n) sum_i x_ij^2, label noise's. positive: impose beta >= 0.

    Returns:
        A LassoSolution for each alpha, in their order.

    Raises:
        As `weighted_lasso`.

    >>> [s.coef.item() for s in weighted_lasso_path([[1.0], [1.0]], [1.0, 1.0], [0.5, 0.25])]
    [0.5, 0.75]
    """
    X, y = as_float64(X), as_float64(y)
    shape = np.asarray((X.multiply(X) if issparse(X) else X**2).mean(0)) if weights is None else as_float64(weights)
    path: list[LassoSolution] = []
    for alpha in as_float64(alphas):
        start = path[-1].coef if path and bool(path[-1].support.any()) else None
        path.append(weighted_lasso(X, y, alpha * shape, positive=positive, start=start))
    return path


def closed_form_lasso(X: Any, y: Any, penalty: Any, signs: Any, *, positive: bool = False) -> LassoSolution:
    """Theorem 2's closed form: the Lasso where its signs are known, beta_S = S_SS^-1 (X_S^T y / n - lambda_S sign_S).

    For y = X beta_true it is beta_true_S - (X_S^T X_S / n)^-1 lambda_S sign_S, the paper's
    beta_S - delta_bar (2 Xb_S^T Xb_S)^-1 hb_S.

    Args:
        X: (n, d). y: (n,). penalty: lambda, a number or (d,). signs: (d,), of the truth, say: only signs count.

    Returns:
        LassoSolution, certified like `weighted_lasso`'s.

    Raises:
        ValueError: the formula does not solve the Lasso: a sign changes (delta_bar above delta_minus), the
            duality gap stays (domination fails), or the columns on the support are dependent.

    >>> closed_form_lasso([[1.0], [1.0]], [1.0, 1.0], 0.25, [1.0]).coef.tolist()
    [0.75]

    Source: Pillaud-Vivien et al., COLT 2022, Theorem 2.
    """
    X, y, sign = as_float64(X), as_float64(y), np.sign(as_float64(signs))
    X = X.toarray() if issparse(X) else X
    penalty, on = np.broadcast_to(as_float64(penalty), X.shape[1:]).copy(), sign != 0
    used, coef = X[:, on], np.zeros(X.shape[1])
    if np.linalg.matrix_rank(used) < on.sum():
        raise ValueError(f"the {int(on.sum())} columns on the support are dependent: no closed form")
    coef[on] = np.linalg.solve(used.T @ used / len(y), used.T @ y / len(y) - penalty[on] * sign[on])
    if (np.sign(coef[on]) != sign[on]).any():
        raise ValueError("a coefficient changes its sign: the penalty is beyond delta_minus, take weighted_lasso")
    gap = float(duality_gap(X, y, penalty, coef, positive))
    if gap > GAP:
        raise ValueError(f"the relative duality gap is {gap:.1e}: the domination condition fails, take weighted_lasso")
    solution = torch.from_numpy(coef)
    return LassoSolution(
        solution, lasso_objective(X, y, penalty, solution), max(gap, 0.0), torch.from_numpy(penalty), positive
    )


def _solve(X: Array, y: Array, alpha: float, start: Array, positive: bool, tol: float, most: int) -> Array:
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso

    solver = Lasso(
        alpha=alpha, fit_intercept=False, positive=positive, tol=tol, max_iter=most, warm_start=True, copy_X=False
    )
    solver.coef_ = start.copy()
    # the input is checked and ours: scikit-learn's own checks took half of the time
    with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
        warnings.simplefilter("ignore", ConvergenceWarning)  # our own gap judges
        solver.fit(X, y)
    return np.asarray(solver.coef_, dtype=np.float64)


def _solve_on_signs(X: Any, y: Array, alpha: float, start: Array) -> Array:
    """Where support and signs are known the KKT conditions are linear; the gap tells whether they were right."""
    on = start != 0
    if not on.any() or on.sum() > len(y):
        return start
    used = X[:, on].toarray() if issparse(X) else X[:, on]
    G, sign = used.T @ used / len(y), np.sign(start[on])
    coef = np.zeros_like(start)
    try:
        coef[on] = np.linalg.solve(G, used.T @ y / len(y) - alpha * sign)
    except np.linalg.LinAlgError:
        return start
    return coef if (np.sign(coef[on]) == sign).all() else start


def _solve_by_lars(X: Array, y: Array, alpha: float, positive: bool) -> Array:
    """The exact path: coordinate descent stalls at very small penalties. At ties scikit-learn's goes on."""
    penalty = np.full(X.shape[1], alpha)
    coef, through = homotopy.follow(X.T, np.zeros_like(y), y, penalty, positive, np.zeros(X.shape[1]))
    if through:
        return np.asarray(coef)
    from sklearn.linear_model import lars_path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our own gap judges
        _, _, coefs = lars_path(X, y, alpha_min=alpha, method="lasso", positive=positive, max_iter=20 * min(X.shape))
    return np.asarray(coefs[:, -1], dtype=np.float64)
