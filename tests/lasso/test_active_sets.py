"""active_sets: moved labels lead to the Lasso that scikit-learn finds there, and ties are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from lntrain import sparse_regression, weighted_lasso
from lntrain.lasso.active_sets import active_set_lasso
from lntrain.lasso.solve import EXACT, duality_gap, relabelled_lasso
from lntrain.penalty.formula import alpha_max, mean_squares

WIDE = sparse_regression(20, 50, 4, signs="random", noise=0.3, column_scales=(0.5, 2.0), seed=1)
TALL = sparse_regression(60, 15, 4, signs="random", noise=0.3, design="correlated", rho=0.9, seed=2)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("ratio", [2.0, 0.5, 1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("problem", [WIDE, TALL], ids=["wide", "tall"])
def test_labels_moved_a_little_or_far_stay_certified(problem, ratio, positive):
    X, y = problem.X.numpy(), problem.y.numpy()
    penalty = (ratio * alpha_max(problem.X, problem.y) * mean_squares(problem.X)).numpy()
    start = weighted_lasso(X, y, penalty, positive=positive).coef.numpy()
    for size in (0.0, 0.01, 1.0, 100.0):
        change = size * np.random.default_rng(3).standard_normal(len(y))
        coef, through = active_set_lasso(np.ascontiguousarray(X.T), y, change, penalty, positive, start)
        assert through
        assert abs(duality_gap(X, y + change, penalty, coef, positive)) < EXACT
        assert not positive or (coef >= 0).all()


def test_it_is_scikit_learns_lasso():
    X, y = WIDE.X.numpy(), WIDE.y.numpy()
    change = np.random.default_rng(4).standard_normal(20)
    coef = relabelled_lasso(X, y, change[None], [weighted_lasso(X, y, 0.05)])[0]
    theirs = Lasso(alpha=0.05, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(X, y + change)
    np.testing.assert_allclose(coef, theirs.coef_, atol=1e-5)


def test_each_row_moves_alone():
    solutions = [weighted_lasso(WIDE.X, WIDE.y, penalty) for penalty in (0.05, 0.2)]
    changes = torch.from_numpy(np.random.default_rng(5).standard_normal((2, 20)))
    both = relabelled_lasso(WIDE.X, WIDE.y, changes, solutions)
    for r in range(2):
        assert torch.equal(both[r], relabelled_lasso(WIDE.X, WIDE.y, changes[r : r + 1], solutions[r : r + 1])[0])


@pytest.mark.parametrize("columns", [[0, 0, 1, 2], [0, 1, 2, 2]])
def test_at_a_tie_the_other_solvers_go_on(columns):
    """Two equal columns enter together: no inverse."""
    X, y = WIDE.X.numpy()[:, columns], WIDE.y.numpy()
    start = weighted_lasso(X, y, 1e-3)
    assert start.gap < 1e-6
    coef = relabelled_lasso(X, y, np.ones((1, 20)), [start])[0].numpy()
    assert duality_gap(X, y + 1, np.full(4, 1e-3), coef) < 1e-6


def test_a_start_that_is_no_solution_is_found_out():
    X, y = WIDE.X.numpy(), WIDE.y.numpy()
    right, wrong = weighted_lasso(X, y, 0.05), weighted_lasso(X, y, 0.5)
    object.__setattr__(wrong, "penalty", right.penalty)
    coef = relabelled_lasso(X, y, np.zeros((1, 20)), [wrong])[0]
    torch.testing.assert_close(coef, right.coef, rtol=1e-4, atol=1e-4)
