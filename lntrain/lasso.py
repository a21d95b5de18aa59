"""Reference solutions, each with its certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from torch import Tensor

from lntrain.lasso_solvers import cheap, columns_of, working_sets
from lntrain.lasso_solvers import coordinate_descent as _solve

Array = NDArray[np.float64]
GAP = 1e-6  # relative duality gap that every reference must meet
EXACT = 1e-10  # and coordinate descent's before its signs were tried: just below alpha_max even 0 has a gap below GAP
LARGEST = 1e100  # of numbers whose squares can be summed


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


def as_float64(values: Any) -> Any:
    """A tensor or array as a float64 array in memory; a sparse one as scipy's CSR."""
    if isinstance(values, Tensor) and values.layout == torch.sparse_csr:
        where = (part.cpu().numpy() for part in (values.col_indices(), values.crow_indices()))
        values = csr_array((values.values().detach().cpu().double().numpy(), *where), shape=tuple(values.shape))
    if issparse(values):
        X = csr_array(values, dtype=np.float64)
        kind = np.int32 if X.nnz < 2**31 else np.int64  # scikit-learn's coordinate descent wants int32
        return csr_array((X.data, X.indices.astype(kind), X.indptr.astype(kind)), shape=X.shape)
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)


def lasso_objective(X: Any, y: Any, penalty: Any, coef: Any) -> float:
    """F(coef) = (1/2n)||y - X coef||^2 + sum_j lambda_j |coef_j|.

    >>> lasso_objective([[1.0], [1.0]], [1.0, 1.0], [0.5], [0.5])
    0.375
    """
    X, y, penalty = _problem(X, y, penalty)
    return float(_objective(X, y, penalty, _of_shape("coef", as_float64(coef), X.shape[1:])))


def duality_gap(X: Any, y: Any, penalty: Any, coef: Any, positive: bool = False) -> Any:
    """Relative gap (F - D(theta)) / F, theta = s r, r the residual, s <= 1 making it feasible: |x_j.theta| <= n lambda_j.

    F - D = (1 - s)^2 |r|^2 / 2n + sum_j (lambda_j |beta_j| - s beta_j x_j.r / n): no term is negative, so nothing
    cancels and a gap of 1e-15 is true.

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
    X, y, coef = _finite("X", as_float64(X)), _finite("y", as_float64(y)), as_float64(coef)
    if X.ndim != 2 or y.shape[-1:] != X.shape[:1]:
        raise ValueError(f"X {X.shape} and y {y.shape} do not fit: give (n, d) and (..., n)")
    penalty = _positive(as_float64(penalty), X.shape[1])
    if coef.shape[-1:] != X.shape[1:] or not y.shape[:-1] == penalty.shape[:-1] == coef.shape[:-1]:
        raise ValueError(f"y {y.shape}, penalty {penalty.shape} and coef {coef.shape} do not fit X {X.shape}")
    return _gap(X, y, penalty, coef, positive)


def weighted_lasso(X: Any, y: Any, penalty: Any, *, positive: bool = False, start: Any = None) -> LassoSolution:
    """scikit-learn's Lasso, a penalty for each column: min (1/2n)||y - X beta||^2 + sum_j lambda_j |beta_j|.

    Any table: equal, dependent or nearly dependent columns included. Where the solution is not unique it is one
    of them, `equicorrelation_set` holds the support of all.

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
    X, y, penalty = _problem(X, y, penalty)
    coef = np.zeros(X.shape[1])
    if start is not None:
        coef = _better(X, y, penalty, _of_shape("start", as_float64(start), coef.shape), coef, positive)
    return _certified(X, y, penalty, positive, coef)


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
    X, y, _ = _problem(X, y, 1.0)
    changes = _finite("changes", _of_shape("changes", as_float64(changes), (len(solutions), len(y))))
    if not solutions:
        return torch.zeros(0, X.shape[1], dtype=torch.float64)
    coef = np.stack([_of_shape("a solution's coef", as_float64(each.coef), X.shape[1:]) for each in solutions])
    penalties = np.stack([_positive(as_float64(each.penalty), X.shape[1]) for each in solutions])
    positive, columns = solutions[0].positive, columns_of(X)
    if any(each.positive != positive for each in solutions):
        raise ValueError("some solutions impose beta >= 0 and some do not: move them in two calls")
    limits = np.where(changes.any(-1), 0.0, GAP)  # labels that stay leave the solution as it is
    moved = np.flatnonzero(~(_gap(X, y + changes, penalties, coef, positive) <= limits))
    for r in moved.tolist():
        if cheap(len(y), int(np.count_nonzero(coef[r]))):
            coef[r] = working_sets(columns, y + changes[r], penalties[r], positive, coef[r])
    gaps = _gap(X, y + changes[moved], penalties[moved], coef[moved], positive)
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

    >>> [s.coef.item() for s in weighted_lasso_path([[1.0], [1.0]], [1.0, 1.0], [0.5, 0.25])]
    [0.5, 0.75]
    """
    X, y, _ = _problem(X, y, 1.0)
    squares = X.multiply(X) if issparse(X) else X**2
    shape = _of_shape("weights", np.asarray(squares.mean(0)) if weights is None else as_float64(weights), X.shape[1:])
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
    X, y, penalty = _problem(X, y, penalty)
    sign = np.sign(_finite("signs", _of_shape("signs", as_float64(signs), X.shape[1:])))
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

    The residual is the same for all solutions, so the support of each lies in this set; one that is larger than
    its rank says that there may be many. What the gap leaves open of x_j.r, |x_j| (2 gap F / n)^1/2, is added to it.

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
    X, y, penalty = _problem(X, y, solution.penalty)
    coef = _of_shape("solution.coef", as_float64(solution.coef), X.shape[1:])
    slope, squares = X.T @ (y - X @ coef) / len(y), X.multiply(X) if issparse(X) else X**2
    open_ = 2 * _gap(X, y, penalty, coef, solution.positive) * _objective(X, y, penalty, coef)
    margin = np.sqrt(np.asarray(squares.mean(0)) * open_)
    return torch.from_numpy((slope if solution.positive else np.abs(slope)) + margin >= penalty * (1 - tol))


def _problem(X: Any, y: Any, penalty: Any) -> tuple[Any, Array, Array]:
    X, y = as_float64(X), as_float64(y)
    if X.ndim != 2 or y.shape != X.shape[:1] or 0 in X.shape:
        raise ValueError(f"X {X.shape} and y {y.shape} do not fit: give (n, d) and (n,)")
    penalty = as_float64(penalty)
    if penalty.shape not in ((), X.shape[1:]):
        raise ValueError(f"penalty has shape {penalty.shape}: X has {X.shape[1]} columns")
    return _finite("X", X), _finite("y", y), _positive(np.broadcast_to(penalty, X.shape[1:]).copy(), X.shape[1])


def _positive(penalty: Array, d: int) -> Array:
    if penalty.shape[-1:] != (d,):
        raise ValueError(f"penalty has shape {penalty.shape}: X has {d} columns")
    if not ((penalty > 0) & (penalty < np.inf)).all():
        worst = np.unravel_index(np.argmin(np.where(np.isfinite(penalty), penalty, -np.inf)), penalty.shape)
        where = ", ".join(map(str, worst))
        raise ValueError(f"penalty[{where}]={penalty[worst]:g} must be positive: without label noise there is no Lasso")
    return penalty


def _finite(name: str, values: Any) -> Any:
    numbers = values.data if issparse(values) else values
    if numbers.size and not (numbers.min() >= -LARGEST and numbers.max() <= LARGEST):  # false of NaN
        where = np.argwhere(~(np.abs(numbers) <= LARGEST))[0]
        at = "" if issparse(values) else f"[{', '.join(map(str, where))}]"
        raise ValueError(
            f"{name}{at} is {numbers[tuple(where)]:g}: drop or fill such rows, or rescale (at most {LARGEST:g})"
        )
    return values


def _of_shape(name: str, values: Array, shape: tuple[int, ...]) -> Array:
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}: {shape} fits")
    return values


def _objective(X: Any, y: Array, penalty: Array, coef: Array) -> Any:
    residual = y - X @ coef
    return residual @ residual / (2 * len(y)) + penalty @ np.abs(coef)


def _better(X: Any, y: Array, penalty: Array, new: Array, old: Array, positive: bool) -> Array:
    """`new`, made feasible, where it is no worse than `old`: not where it is NaN or infinite."""
    new = np.maximum(new, 0.0) if positive else new
    with np.errstate(all="ignore"):
        better = _objective(X, y, penalty, new) <= _objective(X, y, penalty, old)
    return new if better else old


def _gap(X: Any, y: Array, penalty: Array, coef: Array, positive: bool) -> Any:
    n, residual = y.shape[-1], y - (X @ coef.T).T
    slope = (X.T @ residual.T).T / n
    over = np.max((slope if positive else np.abs(slope)) / penalty, axis=-1, initial=1.0)
    square, shrunk = (residual**2).sum(-1) / (2 * n), slope / over[..., None]
    primal = square + (penalty * np.abs(coef)).sum(-1)
    apart = np.maximum(penalty * np.abs(coef) - shrunk * coef, 0.0).sum(-1)  # below 0 by rounding alone
    gap = ((1 - 1 / over) ** 2 * square + apart) / np.where(primal == 0, 1.0, primal)
    return np.where((coef < 0).any(-1), np.inf, gap)[()] if positive else gap


def _solution(X: Any, y: Array, penalty: Array, positive: bool, coef: Array) -> LassoSolution:
    gap, objective = (float(v) for v in (_gap(X, y, penalty, coef, positive), _objective(X, y, penalty, coef)))
    return LassoSolution(torch.from_numpy(coef), objective, gap, torch.from_numpy(penalty), positive)


def _certified(X: Any, y: Array, penalty: Array, positive: bool, coef: Array) -> LassoSolution:
    """Solver after solver, each from the best coefficients so far, until the gap certifies them."""
    solution, small = _solution(X, y, penalty, positive, coef), cheap(len(y), min(X.shape))
    # where active sets may be slow, coordinate descent goes first: it finds the signs soon or, at small penalties, never
    first, last = (("lars",), ()) if small else ((), ("lars",))
    for attempt in ("signs", *first, "soon", "signs", 1e-9, 1e-12, *last) if solution.gap > 0 else ():
        if attempt == "signs":
            new = _solve_on_signs(X, y, penalty, coef, positive)
        elif attempt == "lars":
            new = _solve_by_lars(X, y, penalty, positive)
        elif attempt == "soon":
            new = _solve(X, y, penalty, coef, positive, 1e-5, 500)
        else:
            new = _solve(X, y, penalty, coef, positive, float(attempt), 100_000)
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


def _solve_on_signs(X: Any, y: Array, penalty: Array, start: Array, positive: bool) -> Array:
    """From support and signs that are nearly right it is a few linear equations."""
    if not start.any() or not cheap(len(y), int(np.count_nonzero(start))):
        return start
    return working_sets(columns_of(X), y, penalty, positive, start)


def _solve_by_lars(X: Any, y: Array, penalty: Array, positive: bool) -> Array:
    return working_sets(columns_of(X), y, penalty, positive, np.zeros(X.shape[1]))
