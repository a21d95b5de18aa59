"""lasso: a solution satisfies its KKT conditions, the gap certifies it, and scikit-learn agrees."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from lntrain import sparse_regression, weighted_lasso
from lntrain.lasso.solve import GAP, duality_gap, lasso_objective
from lntrain.penalty.formula import alpha_max, mean_squares

WIDE = sparse_regression(20, 50, 4, signs="random", noise=0.3, column_scales=(0.5, 2.0), seed=1)
TALL = sparse_regression(60, 15, 4, signs="random", noise=0.3, design="correlated", rho=0.9, seed=2)


def _kkt(problem, solution, positive=False):
    """Largest violation of the optimality conditions, relative to lambda."""
    X, y, beta = problem.X.numpy(), problem.y.numpy(), solution.coef.numpy()
    lam, g = solution.penalty.numpy(), X.T @ (X @ beta - y) / len(y)
    on = beta != 0
    off = (-g if positive else np.abs(g))[~on] - lam[~on]
    return max(np.abs(g + lam * np.sign(beta))[on] / lam[on], default=0.0), max(off / lam[~on], default=0.0)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("ratio", [0.5, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("problem", [WIDE, TALL], ids=["wide", "tall"])
def test_kkt_and_gap_over_six_orders_of_the_penalty(problem, ratio, positive):
    penalty = ratio * alpha_max(problem.X, problem.y) * mean_squares(problem.X)
    solution = weighted_lasso(problem.X, problem.y, penalty, positive=positive)
    assert 0 <= solution.gap <= GAP
    on, off = _kkt(problem, solution, positive)
    assert max(on, off) < 1e-2  # a relative gap of 1e-6 bounds the gradient by its root
    assert not positive or bool((solution.coef >= 0).all())
    assert solution.objective == pytest.approx(lasso_objective(problem.X, problem.y, penalty, solution.coef), rel=1e-14)


def test_kkt_is_tight_at_a_moderate_penalty():
    solution = weighted_lasso(WIDE.X, WIDE.y, 0.1 * alpha_max(WIDE.X, WIDE.y) * mean_squares(WIDE.X))
    assert max(_kkt(WIDE, solution)) < 1e-3
    assert 0 < int(solution.support.sum()) < 20


def test_equal_weights_are_scikit_learns_lasso_and_its_objective():
    solution = weighted_lasso(WIDE.X, WIDE.y, 0.05)
    theirs = Lasso(alpha=0.05, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(WIDE.X.numpy(), WIDE.y.numpy())
    np.testing.assert_allclose(solution.coef, theirs.coef_, atol=1e-4)
    residual = WIDE.y.numpy() - WIDE.X.numpy() @ theirs.coef_
    objective = (residual**2).sum() / (2 * 20) + 0.05 * np.abs(theirs.coef_).sum()
    assert lasso_objective(WIDE.X, WIDE.y, [0.05] * 50, theirs.coef_) == pytest.approx(objective, rel=1e-13)
    assert solution.objective == pytest.approx(objective, rel=2 * GAP)
    dual_gap = theirs.dual_gap_ / objective
    assert duality_gap(WIDE.X.numpy(), WIDE.y.numpy(), np.full(50, 0.05), theirs.coef_) == pytest.approx(
        dual_gap, abs=1e-9
    )


def test_unequal_weights_match_proximal_gradient_descent():
    """An independent twin: ISTA on the weighted problem, no scaling of columns."""
    X, y = WIDE.X.numpy(), WIDE.y.numpy()
    lam = np.linspace(0.02, 0.2, 50)
    step, beta, momentum = 20 / np.linalg.norm(X, 2) ** 2, np.zeros(50), np.zeros(50)
    for k in range(20_000):  # accelerated, restarted by its own fading
        moved = momentum - step * X.T @ (X @ momentum - y) / 20
        new = np.sign(moved) * np.maximum(np.abs(moved) - step * lam, 0)
        momentum, beta = new + k / (k + 3) * (new - beta), new
    solution = weighted_lasso(X, y, lam)
    np.testing.assert_allclose(solution.coef, beta, atol=1e-3)
    assert lasso_objective(X, y, lam, beta) == pytest.approx(solution.objective, rel=2 * GAP)


def test_orthogonal_design_is_soft_thresholding():
    X, y = 2 * torch.eye(4, dtype=torch.float64), torch.tensor([4.0, -3.0, 0.5, 2.0], dtype=torch.float64)
    lam = torch.tensor([0.5, 1.0, 1.0, 0.25], dtype=torch.float64)
    slope = 2 * y / 4  # x_j.y / n; S = I
    expected = torch.sign(slope) * (slope.abs() - lam).clamp_min(0)
    torch.testing.assert_close(weighted_lasso(X, y, lam).coef, expected, rtol=1e-9, atol=1e-9)
    positive = (slope - lam).clamp_min(0)
    torch.testing.assert_close(weighted_lasso(X, y, lam, positive=True).coef, positive, rtol=1e-9, atol=1e-9)


def test_zero_from_alpha_max_on_and_not_below():
    top = alpha_max(WIDE.X, WIDE.y) * mean_squares(WIDE.X)
    above, below = (weighted_lasso(WIDE.X, WIDE.y, f * top) for f in (1.0001, 0.999))
    assert not bool(above.support.any())
    assert above.objective == pytest.approx(float(WIDE.y.square().sum()) / 40, rel=1e-14)
    assert int(below.support.sum()) == 1


def test_a_penalty_of_zero_y_is_zero():
    solution = weighted_lasso(WIDE.X, torch.zeros(20, dtype=torch.float64), 0.1)
    assert (solution.objective, solution.gap) == (0.0, 0.0)


def test_a_warm_start_changes_nothing_but_the_time():
    cold = weighted_lasso(WIDE.X, WIDE.y, 0.05)
    warm = weighted_lasso(WIDE.X, WIDE.y, 0.05, start=torch.ones(50))
    torch.testing.assert_close(warm.coef, cold.coef, rtol=0, atol=1e-3)


def test_float32_data_is_solved_in_float64():
    single = weighted_lasso(WIDE.X.float(), WIDE.y.float(), 0.05)
    assert single.coef.dtype == torch.float64
    torch.testing.assert_close(single.coef, weighted_lasso(WIDE.X, WIDE.y, 0.05).coef, rtol=0, atol=1e-3)


def test_the_gap_grows_away_from_the_solution():
    X, y, lam = WIDE.X.numpy(), WIDE.y.numpy(), np.full(50, 0.05)
    solution = weighted_lasso(X, y, lam)
    gaps = [duality_gap(X, y, lam, solution.coef.numpy() + e) for e in (0.0, 1e-3, 1e-1)]
    assert gaps[0] < gaps[1] < gaps[2]
    for e, gap in zip((1e-3, 1e-1), gaps[1:], strict=True):  # a certificate: F - F* <= gap F
        F = lasso_objective(X, y, lam, solution.coef.numpy() + e)
        assert F - solution.objective <= gap * F + 1e-12


def test_no_warning_leaks_and_filters_come_back():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weighted_lasso(WIDE.X, WIDE.y, 1e-5)
        assert caught == []


def test_a_gap_out_of_reach_is_an_error(monkeypatch):
    monkeypatch.setattr("lntrain.lasso.solve._solve", lambda X, y, alpha, start, positive, tol, most: start)
    monkeypatch.setattr("lntrain.lasso.solve._solve_by_lars", lambda X, y, alpha, positive: np.zeros(X.shape[1]))
    with pytest.raises(RuntimeError, match=r"relative duality gap of .* raise the penalty"):
        weighted_lasso(WIDE.X, WIDE.y, 0.05)


X2, Y2 = [[1.0, 0.0], [0.0, 1.0]], [1.0, 2.0]


@pytest.mark.parametrize(
    ("X", "y", "penalty", "says"),
    [
        (X2, Y2, 0.0, r"penalty\[0\]=0 must be positive"),
        (X2, Y2, [0.1, -0.2], r"penalty\[1\]=-0.2"),
        (X2, Y2, [0.1, float("nan")], r"penalty\[1\]=nan"),
        (X2, Y2, float("inf"), r"penalty\[0\]=inf"),
        (X2, Y2, [0.1] * 3, r"penalty has shape \(3,\): X has 2 columns"),
        (X2, [1.0], 0.1, "do not fit"),
        ([1.0, 2.0], Y2, 0.1, "do not fit"),
    ],
    ids=["zero", "negative", "nan", "inf", "shape", "y", "X"],
)
def test_bad_input_is_one_line_that_names_it(X, y, penalty, says):
    with pytest.raises(ValueError, match=says) as error:
        weighted_lasso(X, y, penalty)
    assert "\n" not in str(error.value)
