"""plan: what is predicted before step 1 agrees with the formulas, and each wish leads to the same Lasso."""

from __future__ import annotations

import math

import pytest
import torch

from lntrain import Problem, effective_penalty, sparse_regression
from lntrain.penalty import alpha_max, mean_squares
from lntrain.plan import Dynamics, choose_lr, expected_errors, make_plan, steps_needed

PROBLEM = sparse_regression(40, 60, 4, signs="random", column_scales=(0.5, 2.0), seed=1)
TOP = alpha_max(PROBLEM.X, PROBLEM.y)
DYNAMICS = {
    "plain": Dynamics(),
    "square": Dynamics(parametrisation="square"),
    "hadamard": Dynamics(parametrisation="hadamard"),
    "paper": Dynamics(loss_scale=0.25),
    "heavy ball": Dynamics(momentum=0.9),
    "batches": Dynamics(batch_size=4),
    "antithetic": Dynamics(antithetic=True),
    "rademacher": Dynamics(noise_kurtosis=1.0),
}


@pytest.mark.parametrize("dynamics", list(DYNAMICS.values()), ids=list(DYNAMICS))
def test_the_penalty_is_the_wish_and_the_lr_is_stable_and_almost_unbiased(dynamics):
    plan = make_plan(PROBLEM, dynamics, alpha_ratio=0.2, accuracy=1.0)
    torch.testing.assert_close(plan.penalty, 0.2 * TOP * mean_squares(PROBLEM.X), rtol=1e-9, atol=0)
    back = effective_penalty(PROBLEM.X, lr=plan.lr, std=plan.std, **dynamics.penalty_options())
    torch.testing.assert_close(back, plan.penalty, rtol=1e-9, atol=0)
    assert plan.lr <= plan.stable_lr / 2 * (1 + 1e-9)
    bound = 0.005 if dynamics.antithetic else 0.02
    assert 0 < plan.bias <= bound * (1 + 1e-9)
    tight = max(plan.bias / bound, plan.lr / (plan.stable_lr / 2))
    assert tight > 0.85  # no smaller than it must be
    assert plan.steps == plan.planned_steps >= 1000


def test_std_alpha_and_ratio_are_three_names_for_one_penalty():
    by_ratio = make_plan(PROBLEM, Dynamics(), lr=0.004, alpha_ratio=0.2)
    by_alpha = make_plan(PROBLEM, Dynamics(), lr=0.004, alpha=0.2 * TOP)
    by_std = make_plan(PROBLEM, Dynamics(), lr=0.004, std=by_ratio.std)
    for plan in (by_alpha, by_std):
        torch.testing.assert_close(plan.penalty, by_ratio.penalty, rtol=1e-9, atol=0)
        assert (plan.alpha, plan.alpha_ratio, plan.std) == pytest.approx((by_ratio.alpha, 0.2, by_ratio.std), rel=1e-9)
    default = make_plan(PROBLEM, Dynamics(), lr=0.004)
    assert default.alpha_ratio == pytest.approx(0.1)


@pytest.mark.parametrize("std", [0.3, 5.0, 100.0])
def test_an_automatic_lr_for_a_given_std_is_found(std):
    plan = make_plan(PROBLEM, Dynamics(), std=std)
    assert plan.std == std
    assert plan.bias <= 0.02 * (1 + 1e-6)
    assert plan.lr <= plan.stable_lr / 2 * (1 + 1e-6)


def test_a_given_lr_is_kept_and_a_bad_one_is_told():
    plan = make_plan(PROBLEM, Dynamics(), lr=1.0, alpha_ratio=0.1)
    assert plan.lr == 1.0
    assert any("above the stable step" in note for note in plan.notes)
    large = make_plan(PROBLEM, Dynamics(), lr=plan.stable_lr / 2, alpha_ratio=0.1)
    assert any("is large: lambda will be about" in note for note in large.notes)


def test_a_short_run_is_told_before_it_starts_and_a_long_one_is_not():
    planned = make_plan(PROBLEM, Dynamics()).planned_steps
    short, enough = (make_plan(PROBLEM, Dynamics(), steps=s) for s in (planned // 10, planned))
    assert any(f"steps={planned // 10} is short: about {planned}" in note for note in short.notes)
    assert not any("is short" in note for note in enough.notes)
    assert short.expected_distance > 3 * enough.expected_distance


def _errors(problem, dynamics, *, alpha, lr):
    rate, std, lasso = choose_lr(problem, dynamics, std=None, alpha=alpha, lr=lr)
    return lasso, expected_errors(problem, dynamics, lasso, lr=rate, std=std)


def test_errors_scale_as_theory_says():
    lasso, base = _errors(PROBLEM, Dynamics(), alpha=0.2 * TOP, lr=0.002)
    _, half = _errors(PROBLEM, Dynamics(), alpha=0.2 * TOP, lr=0.001)  # std grows by sqrt 2
    assert half.noise == pytest.approx(math.sqrt(2) * base.noise)
    torch.testing.assert_close(half.start, 2 * base.start)
    torch.testing.assert_close(half.bias, base.bias / 2, rtol=1e-9, atol=1e-15)
    need, finer = (steps_needed(PROBLEM, Dynamics(), lasso, base, lr=0.002, accuracy=e) for e in (1e-2, 5e-3))
    assert finer["noise"] == pytest.approx(4 * need["noise"])  # T^-1/2
    assert _errors(PROBLEM, Dynamics(antithetic=True), alpha=0.2 * TOP, lr=0.002)[1].noise == 0.0


def test_one_dimension_by_hand():
    """S = c = 1, beta* = 2 - alpha, a lr = .02: std^2 = 2 n alpha / (a lr), the variance of the mean std^2 / (n K)."""
    problem = Problem([[1.0], [1.0]], [2.0, 2.0])
    lasso, errors = _errors(problem, Dynamics(init=0.1), alpha=0.5, lr=0.01)
    assert errors.noise == pytest.approx(math.sqrt(2 * 0.5 / 0.02) / 1.5, rel=1e-6)
    assert errors.start.tolist() == pytest.approx([math.log(1.5 / 0.01) / (2 * 0.02) / 1.5], rel=1e-6)
    relative = 0.02 * (1.5 + 1.5 * 0.5)  # theory.md section 4
    assert errors.largest_bias == pytest.approx(relative, rel=1e-6)
    assert errors.bias.abs().tolist() == pytest.approx([relative * 0.5 / 1.5], rel=1e-6)
    need = steps_needed(problem, Dynamics(init=0.1), lasso, errors, lr=0.01, accuracy=0.01)
    assert need["noise"] == pytest.approx((errors.noise / 0.01) ** 2)
    assert need["start"] >= math.log(1.5 / 0.01) / 0.5 / (2 * 0.02 * 0.02) * (1 - 1e-6)


def test_without_noise_there_is_no_lasso_and_the_plan_says_so():
    plan = make_plan(PROBLEM, Dynamics(), std=0.0)
    assert (plan.penalty, plan.reference, plan.std) == (None, None, 0.0)
    assert 0 < plan.lr < plan.stable_lr
    assert "no Lasso is predicted" in plan.notes[0]


def test_a_penalty_above_alpha_max_predicts_zero():
    plan = make_plan(PROBLEM, Dynamics(), alpha_ratio=1.5)
    assert not bool(plan.reference.support.any())
    assert any("exceeds alpha_max" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"std": 1.0, "alpha": 0.1}, "noise.std and penalty.alpha are both given"),
        ({"alpha": 1.0, "alpha_ratio": 0.1}, "penalty.alpha and penalty.alpha_ratio are both given"),
        ({"std": 0.0, "alpha": 0.1}, "both given"),
        ({"std": -1.0}, "noise.std=-1.0"),
        ({"alpha": 0.0}, "penalty.alpha=0.0"),
        ({"alpha_ratio": math.nan}, "penalty.alpha_ratio=nan"),
        ({"lr": 0.0}, "optimizer.lr=0.0"),
        ({"lr": math.inf}, "optimizer.lr=inf"),
        ({"steps": 0}, "steps=0"),
        ({"accuracy": 0.0}, "accuracy=0.0"),
    ],
    ids=str,
)
def test_bad_wishes_are_one_line_named_as_in_the_configuration(options, says):
    with pytest.raises(ValueError, match=says) as error:
        make_plan(PROBLEM, Dynamics(), **options)
    assert "\n" not in str(error.value)
