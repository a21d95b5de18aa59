"""The Lasso's solvers, without their certificate: active sets on the columns that matter, and scikit-learn's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, diags_array, issparse

from lntrain.lasso import active_sets

Array = NDArray[np.float64]
WHOLE = 50_000  # numbers of X up to which all columns are looked at in every step
POOL = 64  # columns of the first working set in a larger X, then twice the support
ROUNDS = 100  # most working sets: each lowers the objective, about five are needed


def columns_of(X: Any) -> Any:
    """(d, n), the columns of X as rows, for `working_sets`."""
    if issparse(X):
        return csr_array(X.T)
    return np.ascontiguousarray(X.T) if X.size <= WHOLE else X.T


def working_sets(columns: Any, y: Array, penalty: Array, positive: bool, start: Array, work: float) -> Array:
    """From `start`, active sets on its support and the columns of steepest slope, until all KKT conditions hold.

    Args:
        columns: (d, n), `columns_of(X)`. y: (n,). penalty, start: (d,). positive: impose beta >= 0.
        work: limit on n times the squared support size, at which it stops, for coordinate descent to take over.

    Returns:
        (d,) coefficients, their objective at most that of `start`.

    Source: working sets as in Massias, Gramfort, Salmon 2018, active sets inside.
    """
    (d, n), still, coef = columns.shape, np.zeros(len(y)), start.copy()
    if d * n <= WHOLE and not issparse(columns):
        return np.asarray(active_sets.active_set_lasso(columns, y.copy(), still, penalty.copy(), positive, coef)[0])
    inside = np.zeros(d, dtype=bool)
    for _ in range(ROUNDS):
        on = np.flatnonzero(coef)
        slope = columns @ (y - coef[on] @ columns[on]) / n
        steep = (slope if positive else np.abs(slope)) / penalty
        if n * len(on) ** 2 > work or (inside.any() and not (steep[~inside] > 1 + active_sets.BROKEN).any()):
            break
        steep[on] = np.inf
        size = min(d, max(POOL, 2 * len(on)) + len(on))
        pool = np.sort(np.argpartition(steep, d - size)[d - size :])
        part = columns[pool].toarray() if issparse(columns) else np.ascontiguousarray(columns[pool])
        coef[pool], _ = active_sets.active_set_lasso(part, y.copy(), still, penalty[pool], positive, coef[pool])
        inside[:] = False
        inside[pool] = True
    return coef


def coordinate_descent(X: Any, y: Array, penalty: Array, start: Array, positive: bool, tol: float, most: int) -> Array:
    """scikit-learn's Lasso from `start`, on columns scaled to one common penalty: (d,) coefficients."""
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso

    alpha = float(penalty.mean())
    weights = penalty / alpha
    scaled = csc_array(X @ diags_array(1 / weights)) if issparse(X) else np.asfortranarray(X / weights)
    solver = Lasso(
        alpha=alpha, fit_intercept=False, positive=positive, tol=tol, max_iter=most, warm_start=True, copy_X=False
    )
    solver.coef_ = start * weights
    # the input is checked and ours: scikit-learn's own checks took half of the time
    with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the caller checks the duality gap
        solver.fit(scaled, y)
    return np.asarray(solver.coef_ / weights, dtype=np.float64)
