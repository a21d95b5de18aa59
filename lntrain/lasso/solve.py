"""Reference solutions, each with its certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from lntrain._checks import as_float64
from lntrain.lasso.certificate import GAP as GAP
from lntrain.lasso.certificate import (
    Array,
    finite,
    fitting_problem,
    objective,
    of_shape,
    positive_penalty,
    relative_gap,
)
from lntrain.lasso.certificate import duality_gap as duality_gap
from lntrain.lasso.certificate import lasso_objective as lasso_objective
from lntrain.lasso.solvers import columns_of, working_sets
from lntrain.lasso.solvers import coordinate_descent as _solve

EXACT = 1e-10  # gap wanted of coordinate descent before its signs are tried: near alpha_max even 0 has one below GAP
SOON, LONG = 1e7, 1e9  # limits on n k^2 of active sets: hundredths of a second (a trial for small supports), seconds
# coordinate descent finds large supports faster, but at small penalties it may not converge
ATTEMPTS: tuple[tuple[Any, ...], ...] = (
    ("signs", LONG),  # of a warm start
    ("lars",),
    ("soon", 1e-5, 500),
    ("signs", LONG),
    ("descent", 1e-9, 3000),
    ("signs", np.inf),
    ("descent", 1e-12, 100_000),
)


@dataclass(frozen=True)
class LassoSolution:
    """A certified solution of the weighted Lasso.

    coef (d,) float64; objective F(coef); gap, the relative duality gap (F - dual) / F: no coef has an objective
    below F (1 - gap); penalty (d,); positive, whether coef >= 0 was imposed.
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


def weighted_lasso(X: Any, y: Any, penalty: Any, *, positive: bool = False, start: Any = None) -> LassoSolution:
    """scikit-learn's Lasso, a penalty for each column: min (1/2n)||y - X beta||^2 + sum_j lambda_j |beta_j|.

    Columns may be equal, dependent or nearly dependent. If the solution is not unique, one of them is returned, and
    `equicorrelation_set` contains the supports of all.

    Args:
        X: (n, d), dense or scipy.sparse. y: (n,). penalty: lambda, a positive number or (d,) of them.
        positive: impose beta >= 0 (the "square" parametrisation).
        start: (d,) a warm start; used where it is better than 0.

    Returns:
        LassoSolution, its relative duality gap at most 1e-6.

    Raises:
        ValueError: a penalty that is not positive, shapes that do not agree, NaN or infinity in X or y.
        RuntimeError: the gap was not reached.

    >>> weighted_lasso([[1.0], [1.0]], [1.0, 1.0], 0.25).coef.tolist()
    [0.75]

    Source: Tibshirani 1996; gap as in Massias, Gramfort, Salmon 2018.
    """
    X, y, penalty = fitting_problem(X, y, penalty)
    coef = np.zeros(X.shape[1])
    if start is not None:
        coef = _better(X, y, penalty, of_shape("start", as_float64(start), coef.shape), coef, positive)
    return _certified(X, y, penalty, positive, coef)


def relabelled_lasso(X: Any, y: Any, changes: Any, solutions: Sequence[LassoSolution]) -> Tensor:
    """The weighted Lasso for labels y + change, from each solution for labels y: exact, within the same duality gap.

    Args:
        X: (n, d), dense or scipy.sparse. y: (n,). changes: (R, n). solutions: R of them.

    Returns:
        (R, d) coefficients.

    Raises:
        As `weighted_lasso`.

    >>> start = weighted_lasso([[1.0], [1.0]], [1.0, 1.0], 0.25)
    >>> relabelled_lasso([[1.0], [1.0]], [1.0, 1.0], [[1.0, 0.0]], [start]).tolist()
    [[1.25]]
    """
    X, y, _ = fitting_problem(X, y, 1.0)
    changes = finite("changes", of_shape("changes", as_float64(changes), (len(solutions), len(y))))
    if not solutions:
        return torch.zeros(0, X.shape[1], dtype=torch.float64)
    coef = np.stack([of_shape("a solution's coef", as_float64(each.coef), X.shape[1:]) for each in solutions])
    penalties = np.stack([positive_penalty(as_float64(each.penalty), X.shape[1]) for each in solutions])
    positive, columns = solutions[0].positive, columns_of(X)
    if any(each.positive != positive for each in solutions):
        raise ValueError("some solutions impose beta >= 0 and some do not: move them in two calls")
    limits = np.where(changes.any(-1), 0.0, GAP)  # labels that stay leave the solution as it is
    moved = np.flatnonzero(~(relative_gap(X, y + changes, penalties, coef, positive) <= limits))
    for r in moved.tolist():
        coef[r] = working_sets(columns, y + changes[r], penalties[r], positive, coef[r], LONG)
    gaps = relative_gap(X, y + changes[moved], penalties[moved], coef[moved], positive)
    for r in moved[~(gaps <= GAP)].tolist():
        solved = weighted_lasso(X, y + changes[r], penalties[r], positive=positive, start=coef[r])
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

    >>> [round(s.coef.item(), 9) for s in weighted_lasso_path([[1.0], [1.0]], [1.0, 1.0], [0.5, 0.25])]
    [0.5, 0.75]
    """
    X, y, _ = fitting_problem(X, y, 1.0)
    squares = X.multiply(X) if issparse(X) else X**2
    shape = of_shape("weights", np.asarray(squares.mean(0)) if weights is None else as_float64(weights), X.shape[1:])
    alphas, path = as_float64(alphas), list[LassoSolution]()
    if alphas.ndim != 1:
        raise ValueError(f"alphas has shape {alphas.shape}: give a list of numbers")
    for alpha in alphas:
        start = path[-1].coef if path else None
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
            duality gap stays (domination fails), or the columns on the support are dependent. Also as `weighted_lasso`.

    >>> closed_form_lasso([[1.0], [1.0]], [1.0, 1.0], 0.25, [1.0]).coef.tolist()
    [0.75]

    Source: Pillaud-Vivien et al., COLT 2022, Theorem 2.
    """
    X, y, penalty = fitting_problem(X, y, penalty)
    sign = np.sign(finite("signs", of_shape("signs", as_float64(signs), X.shape[1:])))
    X, on = X.toarray() if issparse(X) else X, sign != 0
    used, coef = X[:, on], np.zeros(X.shape[1])
    if on.any() and np.linalg.matrix_rank(used) < on.sum():
        raise ValueError(f"the {int(on.sum())} columns on the support are dependent: no closed form")
    coef[on] = np.linalg.solve(used.T @ used / len(y), used.T @ y / len(y) - penalty[on] * sign[on])
    if (np.sign(coef[on]) != sign[on]).any():
        raise ValueError("a coefficient changes its sign: the penalty is beyond delta_minus, take weighted_lasso")
    solution = _solution(X, y, penalty, positive, coef)
    if not solution.gap <= GAP:
        raise ValueError(
            f"the relative duality gap is {solution.gap:.1e}: the domination condition fails, take weighted_lasso"
        )
    return solution


def equicorrelation_set(X: Any, y: Any, solution: LassoSolution, tol: float = 1e-6) -> Tensor:
    """The columns that some solution of this Lasso may use: |x_j.r| / n >= lambda_j (1 - tol), r the residual.

    The residual is the same for all solutions, so the support of each lies in this set; if it has more columns than
    their rank, there may be many. A shortfall up to |x_j| (2 gap F / n)^1/2, the bound from the gap, is allowed.

    Args:
        X: (n, d), dense or scipy.sparse. y: (n,). solution: at labels y. tol: relative, for what is left of rounding.

    Returns:
        (d,) bool.

    Raises:
        ValueError: shapes that do not agree, NaN or infinity in X or y.

    >>> twice = [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    >>> equicorrelation_set(twice, [1.0, 1.0], weighted_lasso(twice, [1.0, 1.0], 0.25)).tolist()
    [True, True, False]

    Source: Tibshirani 2013, "The lasso problem and uniqueness", section 2; Ndiaye et al. 2017 (what a gap leaves open).
    """
    X, y, penalty = fitting_problem(X, y, solution.penalty)
    coef = of_shape("solution.coef", as_float64(solution.coef), X.shape[1:])
    slope, squares = X.T @ (y - X @ coef) / len(y), X.multiply(X) if issparse(X) else X**2
    open_ = 2 * relative_gap(X, y, penalty, coef, solution.positive) * objective(X, y, penalty, coef)
    margin = np.sqrt(np.asarray(squares.mean(0)) * open_)
    return torch.from_numpy((slope if solution.positive else np.abs(slope)) + margin >= penalty * (1 - tol))


def _solution(X: Any, y: Array, penalty: Array, positive: bool, coef: Array) -> LassoSolution:
    gap, value = relative_gap(X, y, penalty, coef, positive), objective(X, y, penalty, coef)
    return LassoSolution(torch.from_numpy(coef), float(value), float(gap), torch.from_numpy(penalty), positive)


def _certified(X: Any, y: Array, penalty: Array, positive: bool, coef: Array) -> LassoSolution:
    """Solver after solver, each from the best coefficients so far, until the gap certifies them."""
    solution = _solution(X, y, penalty, positive, coef)
    for attempt, *effort in ATTEMPTS if solution.gap > 0 else ():
        if attempt == "signs":
            new = _solve_on_signs(X, y, penalty, coef, positive, *effort)
        elif attempt == "lars":
            new = _solve_by_lars(X, y, penalty, positive)
        else:
            new = _solve(X, y, penalty, coef, positive, effort[0], int(effort[1]))
        if new is coef:
            continue
        coef = _better(X, y, penalty, new, coef, positive)
        solution = _solution(X, y, penalty, positive, coef)
        if solution.gap <= (EXACT if attempt == "soon" else GAP):
            break
    if solution.gap <= GAP:
        return solution
    raise RuntimeError(
        f"the Lasso was solved to a relative duality gap of {solution.gap:.1e} (wanted {GAP:g}): "
        f"raise the penalty (its mean is {penalty.mean():.3g}) or standardise the columns of X"
    )


def _solve_on_signs(X: Any, y: Array, penalty: Array, start: Array, positive: bool, work: float) -> Array:
    """Active sets from `start`: if its support and signs are nearly right, a few linear systems solve the Lasso."""
    return working_sets(columns_of(X), y, penalty, positive, start, work) if start.any() else start


def _solve_by_lars(X: Any, y: Array, penalty: Array, positive: bool) -> Array:
    """Active sets from zero, within the work of hundreds of passes of coordinate descent."""
    return working_sets(columns_of(X), y, penalty, positive, np.zeros(X.shape[1]), max(SOON, 30.0 * X.size))


def _better(X: Any, y: Array, penalty: Array, new: Array, old: Array, positive: bool) -> Array:
    """`new`, made feasible, where it is no worse than `old`: not where it is NaN or infinite."""
    new = np.maximum(new, 0.0) if positive else new
    with np.errstate(all="ignore"):
        better = objective(X, y, penalty, new) <= objective(X, y, penalty, old)
    return new if better else old
