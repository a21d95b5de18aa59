"""regime: the paper's thresholds against where the Lasso itself changes, margins against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from lntrain import sparse_regression, weighted_lasso
from lntrain.lasso.solve import closed_form_lasso
from lntrain.penalty.formula import mean_squares
from lntrain.theory.regime import (
    delta_minus,
    delta_plus,
    domination_margin,
    incoherence_bound,
    irrepresentability_margin,
    mutual_incoherence,
    regime,
    restricted_eigenvalue,
)

SCALES = (0.7, 1.4)
POSITIVE = sparse_regression(80, 60, 4, column_scales=SCALES, seed=0)  # domination holds in both
SIGNED = sparse_regression(80, 60, 4, signs="random", column_scales=SCALES, seed=0)
CASES = [(POSITIVE, False), (SIGNED, True)]


@pytest.mark.parametrize(("problem", "signed"), CASES, ids=["square", "signed"])
def test_delta_minus_is_where_the_closed_form_stops_to_be_the_lasso(problem, signed):
    c, edge = mean_squares(problem.X), delta_minus(problem.X, problem.coef) / 2
    assert domination_margin(problem.X, problem.coef, signed=signed) > 0
    below = closed_form_lasso(problem.X, problem.y, 0.999 * edge * c, problem.coef, positive=not signed)
    solved = weighted_lasso(problem.X, problem.y, 0.999 * edge * c, positive=not signed)
    assert bool((solved.support == below.support).all())
    with pytest.raises(ValueError, match="changes its sign"):
        closed_form_lasso(problem.X, problem.y, 1.001 * edge * c, problem.coef)


@pytest.mark.parametrize(("problem", "signed"), CASES, ids=["square", "signed"])
def test_delta_plus_is_where_the_lasso_becomes_zero(problem, signed):
    c, edge = mean_squares(problem.X), delta_plus(problem.X, problem.y, signed=signed) / 2
    above, below = (weighted_lasso(problem.X, problem.y, f * edge * c, positive=not signed) for f in (1.0001, 0.999))
    assert (int(above.support.sum()), int(below.support.sum())) == (0, 1)


@pytest.mark.parametrize("signed", [False, True])
def test_domination_decides_whether_the_closed_form_is_the_lasso(signed):
    """Random designs of either verdict: a positive margin if and only if the certificate is met."""
    verdicts = []
    for seed in range(40):
        signs = "random" if signed else "positive"
        problem = sparse_regression(20, 30, 3, signs=signs, column_scales=SCALES, seed=seed)
        margin = domination_margin(problem.X, problem.coef, signed=signed)
        penalty = 0.05 * delta_minus(problem.X, problem.coef) * mean_squares(problem.X)
        try:
            closed_form_lasso(problem.X, problem.y, penalty, problem.coef, positive=not signed)
            holds = True
        except ValueError:
            holds = False
        assert holds == (margin > 0), f"seed {seed}, margin {margin}"
        verdicts.append(holds)
    assert 5 < sum(verdicts) < 35


def test_margins_are_the_formula_written_out():
    X, beta = SIGNED.X.numpy(), SIGNED.coef.numpy()
    on, h = beta != 0, (X**2).sum(0)
    pull = X[:, ~on].T @ X[:, on] @ np.linalg.inv(X[:, on].T @ X[:, on])
    for weights, margin in (
        (h, domination_margin(X, beta, signed=True)),
        (np.ones(60), irrepresentability_margin(X, beta)),
    ):
        t = pull @ (weights[on] * np.sign(beta[on])) / weights[~on]
        assert margin == pytest.approx(1 - np.abs(t).max(), rel=1e-9)
    one_sided = 1 - (pull @ (h[on] * np.sign(beta[on])) / h[~on]).max()
    assert domination_margin(X, beta) == pytest.approx(one_sided, rel=1e-9)


def test_margins_at_the_edges():
    assert domination_margin(X := np.eye(3), np.zeros(3)) == math.inf
    assert domination_margin(X, np.ones(3)) == math.inf
    assert math.isnan(domination_margin([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], [1.0, 1.0, 0.0]))
    assert delta_minus(X, np.zeros(3)) == math.inf
    assert math.isnan(delta_minus([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0]))


def test_the_incoherence_bound_is_below_every_margin():
    rng = np.random.Generator(np.random.Philox(1))
    X = rng.standard_normal((400, 6))
    X /= np.linalg.norm(X, axis=0)
    gram = np.abs(X.T @ X - np.eye(6))
    assert mutual_incoherence(X) == pytest.approx(gram.max())
    assert mutual_incoherence(5 * X) == pytest.approx(gram.max())
    for k in (1, 2, 3):
        margins = []
        for support in itertools.combinations(range(6), k):
            for signs in itertools.product((-1.0, 1.0), repeat=k):
                beta = np.zeros(6)
                beta[list(support)] = signs
                margins.append(irrepresentability_margin(X, beta))
        bound = incoherence_bound(X, k)
        assert 0 < bound <= min(margins) + 1e-12  # the two may be one number, found by a product or by a solver
        assert k > 1 or bound == pytest.approx(min(margins))  # tight for one column
    assert incoherence_bound(np.ones((2, 4)), 3) == -math.inf


def _on_a_grid(S, cone):
    """min v^T S v / v_0^2 over |v_1| + |v_2| <= cone |v_0| by brute force; v_0 = 1."""
    grid = np.linspace(-cone, cone, 401)
    a, b = np.meshgrid(grid, grid)
    inside = np.abs(a) + np.abs(b) <= cone
    v = np.stack([np.ones(inside.sum()), a[inside], b[inside]])
    return float((v * (S @ v)).sum(0).min())


@pytest.mark.parametrize("cone", [1.0, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_restricted_eigenvalue_bounds_hold_the_minimum(cone, seed):
    X = np.random.Generator(np.random.Philox(seed)).standard_normal((4, 3))
    lower, upper = restricted_eigenvalue(X, [1, 0, 0], cone=cone)
    exact = _on_a_grid(X.T @ X / 4, cone)
    assert lower <= exact
    assert upper == pytest.approx(exact, rel=2e-2, abs=1e-3)
    assert lower <= upper


def test_restricted_eigenvalue_of_two_bases_by_incoherence():
    """Identity beside Hadamard, 64 x 128: mu = 1/8, the least eigenvalue is 0, 1 + mu - (1 + cone)^2 k mu is not."""
    X = np.hstack([np.eye(64), hadamard(64) / 8]) * 8.0
    assert mutual_incoherence(X) == pytest.approx(1 / 8)
    lower, upper = restricted_eigenvalue(X, np.arange(128) < 1, cone=1.0, starts=2)
    assert lower == pytest.approx(1 + 1 / 8 - 4 / 8)
    assert lower <= upper <= 1


def test_the_report_names_the_theorem_for_each_band():
    low, high = (delta_minus(POSITIVE.X, POSITIVE.coef), delta_plus(POSITIVE.X, POSITIVE.y))
    assert low < high
    levels = {0.5 * low: "Theorem 4", (low + high) / 2: "open", 1.01 * high: "Theorem 3"}
    for level, theorem in levels.items():
        report = regime(POSITIVE.X, POSITIVE.y, level / 2, POSITIVE.coef)
        assert report.theorem == theorem
        assert (report.delta_bar, report.delta_minus, report.delta_plus) == pytest.approx((level, low, high))
        assert report.margin_one_sided >= report.margin_signed - 1e-12  # the same number where the largest is positive
        assert report.margin_signed > 0
        assert "\n" not in report.reason


def test_the_report_without_a_truth_or_with_noise_or_without_domination():
    assert regime(POSITIVE.X, POSITIVE.y, 0.01).theorem == "none"
    assert math.isnan(regime(POSITIVE.X, POSITIVE.y, 0.01).margin_signed)
    noisy = regime(POSITIVE.X, POSITIVE.y + 0.1, 0.01, POSITIVE.coef)
    assert (noisy.theorem, noisy.delta_minus) == ("none", 0.0)
    seed = next(s for s in range(99) if domination_margin((p := sparse_regression(20, 30, 3, seed=s)).X, p.coef) < 0)
    problem = sparse_regression(20, 30, 3, seed=seed)
    failing = regime(problem.X, problem.y, 1e-3, problem.coef)
    assert (failing.theorem, failing.delta_minus) == ("none", 0.0)
    assert "domination condition fails" in failing.reason


def test_the_report_of_signed_coefficients_is_an_analogue_and_says_so():
    report = regime(SIGNED.X, SIGNED.y, 1e-3, SIGNED.coef, parametrisation="difference")
    assert report.theorem == "Theorem 4"
    assert "analogue" in report.reason
    assert report.delta_plus == delta_plus(SIGNED.X, SIGNED.y, signed=True)


def test_the_paper_s_estimate_for_gaussian_designs():
    """delta_minus ~ 2 min beta, delta_plus ~ 2 max beta: exact as n grows at fixed k."""
    problem = sparse_regression(20_000, 12, 3, seed=0)
    beta = problem.coef * torch.arange(1, 13)
    y = problem.X @ beta
    on = beta[beta > 0]
    assert delta_minus(problem.X, beta) == pytest.approx(2 * float(on.min()), rel=0.05)
    assert delta_plus(problem.X, y) == pytest.approx(2 * float(on.max()), rel=0.05)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: regime(SIGNED.X, SIGNED.y, 0.0, SIGNED.coef), "alpha=0.0"),
        (lambda: regime(SIGNED.X, SIGNED.y, 0.1, -SIGNED.coef.abs()), "negative entry"),
        (lambda: regime(SIGNED.X, SIGNED.y, 0.1, parametrisation="cube"), "parametrisation='cube'"),
        (lambda: restricted_eigenvalue(SIGNED.X, np.zeros(60)), "support is empty"),
    ],
)
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
