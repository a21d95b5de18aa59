"""plan: what is predicted before step 1 agrees with the formulas, each wish leads to the same Lasso, and plans end."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lntrain import Problem, diabetes, effective_penalty, sparse_regression
from lntrain.penalty.formula import alpha_max, mean_squares
from lntrain.theory.choose import CORRECTED_BIAS
from lntrain.theory.dynamics import Dynamics
from lntrain.theory.plan import make_plan

PROBLEM = sparse_regression(40, 60, 4, signs="random", column_scales=(0.5, 2.0), seed=1)
TOP = alpha_max(PROBLEM.X, PROBLEM.y)
DYNAMICS = {
    "plain": Dynamics(),
    "square": Dynamics(parametrisation="square"),
    "hadamard": Dynamics(parametrisation="hadamard"),
    "paper": Dynamics(loss_constant=0.25),
    "heavy ball": Dynamics(momentum=0.9),
    "batches": Dynamics(batch_size=4),
    "antithetic": Dynamics(antithetic=True),
    "rademacher": Dynamics(noise_kurtosis=1.0),
    "decay": Dynamics(weight_decay=0.01),
}
EACH = pytest.mark.parametrize("dynamics", list(DYNAMICS.values()), ids=list(DYNAMICS))


@EACH
def test_the_penalty_is_the_wish_and_the_lr_is_stable_and_almost_unbiased(dynamics):
    plan = make_plan(PROBLEM, dynamics, alpha_ratio=0.2, target_distance=1.0)
    torch.testing.assert_close(plan.penalty, 0.2 * TOP * mean_squares(PROBLEM.X) + dynamics.decay, rtol=1e-9, atol=0)
    back = effective_penalty(PROBLEM.X, lr=plan.lr, std=plan.std, **dynamics.penalty_options())
    torch.testing.assert_close(back, plan.penalty, rtol=1e-9, atol=0)
    assert plan.lr <= plan.stable_lr / 2 * (1 + 1e-3)  # it is rounded to four digits
    bound = 0.005 if dynamics.antithetic else 0.02
    on = plan.reference.support
    largest = float(dynamics.bias(PROBLEM, plan.reference, plan.lr)[on].max())
    assert 0 < largest <= bound * (1 + 1e-3)
    assert plan.steps == plan.planned_steps >= 1000
    assert plan.steps % 2 == 0


@EACH
def test_a_corrected_penalty_is_the_wish_on_average_over_the_support(dynamics):
    plan = make_plan(PROBLEM, dynamics, alpha_ratio=0.2, corrected=True, tail=True, budget=1e10)
    lasso, on = plan.reference, plan.reference.support
    torch.testing.assert_close(plan.penalty, 0.2 * TOP * mean_squares(PROBLEM.X) + dynamics.decay, rtol=1e-9, atol=0)
    actual, weight = dynamics.actual_penalty(PROBLEM, lasso, plan.lr, plan.std)[on], lasso.coef[on].abs()
    assert float(weight @ actual) == pytest.approx(float(weight @ lasso.penalty[on]), rel=1e-2)
    assert float(dynamics.bias(PROBLEM, lasso, plan.lr)[on].mean()) <= CORRECTED_BIAS * (1 + 1e-3)


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
    assert plan.std == pytest.approx(std, rel=1e-12)  # by way of the penalty
    bias = Dynamics().bias(PROBLEM, plan.reference, plan.lr)[plan.reference.support]
    assert not len(bias) or float(bias.max()) <= 0.02 * (1 + 1e-3)
    assert plan.lr <= plan.stable_lr / 2 * (1 + 1e-3)


def test_a_given_lr_is_kept_and_a_bad_one_is_told():
    plan = make_plan(PROBLEM, Dynamics(), lr=1.0, alpha_ratio=0.1)
    assert plan.lr == 1.0
    assert any("above the stable step" in note for note in plan.notes)
    large = make_plan(PROBLEM, Dynamics(antithetic=True), lr=plan.stable_lr * 0.9, alpha_ratio=0.1)
    assert any("is large: lambda will be about" in note for note in large.notes)


def test_a_short_run_is_told_before_it_starts_and_a_long_one_is_not():
    planned = make_plan(PROBLEM, Dynamics()).planned_steps
    short, enough = (make_plan(PROBLEM, Dynamics(), steps=s) for s in (planned // 10, planned))
    assert any(f"steps={planned // 10} is short: about" in note for note in short.notes)
    assert not any("is short" in note for note in enough.notes)
    assert short.expected.distance > 2 * enough.expected.distance


def test_a_budget_bounds_the_work_the_same_everywhere_and_a_wish_wins_over_it():
    table = replace(PROBLEM, coef=None)
    dynamics = Dynamics(antithetic=True)
    options = {"alpha_ratio": 0.05, "corrected": True, "tail": True, "replicas": 2}
    free, tight, again = (make_plan(table, dynamics, budget=b, **options) for b in (1e12, 1e8, 1e8))
    cost = 2 * dynamics.cost(table.n, table.d)
    assert free.steps * cost <= 1e12
    assert tight.steps * cost <= 1e8 * 1.1  # two digits, upwards
    assert tight.expected.distance > free.expected.distance
    assert (tight.lr, tight.std, tight.steps) == (again.lr, again.std, again.steps)
    assert make_plan(table, dynamics, budget=1e8, target_distance=0.01, **options).steps > 2 * tight.steps
    assert make_plan(table, dynamics, budget=1e8, steps=50_000, **options).steps == 50_000
    assert tight.tenfold[0] < tight.expected.distance


def test_antithetic_pairs_are_chosen_where_they_save_ten_times_the_work():
    both = [Dynamics(), Dynamics(antithetic=True)]
    assert make_plan(diabetes(), both, corrected=True, tail=True, budget=1e11).dynamics.antithetic
    tiny = Problem([[1.0], [1.0]], [2.0, 2.0])
    assert not make_plan(tiny, both, target_distance=0.5, tail=True).dynamics.antithetic


def test_batches_are_chosen_where_rows_are_many():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40_000, 5))
    tall = Problem(X, X @ np.array([1.0, -1.0, 0, 0, 0]) + 0.1 * rng.standard_normal(40_000))
    sizes = [Dynamics(antithetic=True, batch_size=size) for size in (None, 10_000, 625)]
    plan = make_plan(tall, sizes, alpha_ratio=0.1, corrected=True, tail=True, budget=1e11)
    assert plan.dynamics.batch_size is not None
    whole = make_plan(tall, sizes[0], alpha_ratio=0.1, corrected=True, tail=True, budget=1e11)
    assert plan.steps * plan.dynamics.cost(40_000, 5) < 0.5 * whole.steps * whole.dynamics.cost(40_000, 5)


def test_one_dimension_by_hand():
    """S = c = 1, beta* = 2 - alpha = 1.5: the mean's variance is std^2 / (n K), bias a lr alpha (beta* + 1.5 alpha)."""
    problem, K, lr = Problem([[1.0], [1.0]], [2.0, 2.0]), 10_000_000, 0.001
    plan = make_plan(problem, Dynamics(init=0.1), alpha=0.5, lr=lr, steps=K)
    noise = math.sqrt(2 * 0.5 / (2 * lr) / K) / 1.5  # std^2 = 2 n alpha / (a lr)
    bias = 2 * lr * (1.5 + 1.5 * 0.5) * 0.5 / 1.5
    start = math.log(1.5 / 0.01) / (2 * 2 * lr * K) / 1.5
    draws = bias - start + noise * np.random.default_rng(0).standard_normal(100_000)
    assert plan.expected.distance == pytest.approx(np.abs(draws).mean(), rel=0.12)  # as if lognormal
    assert (np.abs(draws) < plan.expected.high).mean() > 0.9
    assert plan.expected.lambda_ratio == pytest.approx(1 + 2 * lr * (1.5 + 1.5 * 0.5), rel=1e-3)


RAW = {
    "columns of two decades": sparse_regression(column_scales=(0.1, 10.0), seed=2),
    "diabetes as it is": diabetes(scale=False),
    "y in other units": Problem(diabetes().X, diabetes().y * 1e-4),
    "one column a thousand times as long": Problem(PROBLEM.X * torch.tensor([1e3] + [1.0] * 59), PROBLEM.y),
    "short columns": Problem(PROBLEM.X * 1e-3, PROBLEM.y),
}


@pytest.mark.parametrize("name", list(RAW))
@pytest.mark.parametrize("antithetic", [False, True])
def test_an_automatic_step_is_stable_along_the_whole_way(name, antithetic):
    from lntrain import Antithetic, DiagonalLinear, GaussianNoise, LabelNoiseSGD, train

    problem = RAW[name]
    init = 0.1 * alpha_max(problem.X, problem.y) ** 0.5
    plan = make_plan(problem, Dynamics(antithetic=antithetic, init=init), corrected=antithetic, budget=1e9)
    for seed in range(3):
        model = DiagonalLinear(problem.d, init=init, replicas=4)
        with torch.no_grad():
            for weight in model.weights:
                weight[:, ~plan.kept] = 0
        noise = Antithetic(GaussianNoise(plan.std)) if antithetic else GaussianNoise(plan.std)
        optimizer = LabelNoiseSGD(model.parameters(), lr=plan.lr, noise=noise, seed=seed)
        *_, last = train(model, optimizer, problem, 3000, snapshots=[3000])  # diverging raises
        assert bool((last.coef[:, ~plan.kept] == 0).all())
    if bool((~plan.kept).any()):
        assert any("left at 0" in note for note in plan.notes)
        assert not bool((~plan.kept & plan.reference.support).any())


def test_columns_are_left_out_only_where_no_residual_holds_them():
    """||x_j|| ||y|| / n < lambda_j, and only where that frees the step; never of columns of one scale."""
    assert bool(make_plan(PROBLEM, Dynamics()).kept.all())
    problem = RAW["one column a thousand times as long"]
    plan = make_plan(problem, Dynamics(antithetic=True), alpha_ratio=0.1)
    length = mean_squares(problem.X).sqrt() * problem.y.square().mean().sqrt()
    assert bool((length[~plan.kept] < plan.penalty[~plan.kept]).all())


def test_a_tie_between_columns_is_said_before_the_run():
    twin = torch.cat((PROBLEM.X, PROBLEM.X[:, PROBLEM.coef != 0]), 1)
    plan = make_plan(Problem(twin, PROBLEM.y), Dynamics(antithetic=True), corrected=True, tail=True, budget=1e9)
    assert plan.ill_determined > 0.03
    assert any("ill-determined" in note and "not unique" in note for note in plan.notes)
    assert plan.expected.fit < 0.02
    for table in (diabetes(), PROBLEM):
        plan = make_plan(table, Dynamics(antithetic=True), corrected=True, tail=True, budget=1e11)
        assert plan.ill_determined is None


def test_without_noise_there_is_no_lasso_and_the_plan_says_so():
    plan = make_plan(PROBLEM, Dynamics(), std=0.0)
    assert (plan.penalty, plan.reference, plan.std) == (None, None, 0.0)
    assert 0 < plan.lr < plan.stable_lr
    assert "no Lasso is predicted" in plan.notes[0]


@pytest.mark.parametrize("corrected", [False, True])
def test_a_penalty_above_alpha_max_predicts_zero(corrected):
    plan = make_plan(PROBLEM, Dynamics(), alpha_ratio=1.5, corrected=corrected)
    assert not bool(plan.reference.support.any())
    assert any("exceeds alpha_max" in note for note in plan.notes)
    assert math.isfinite(plan.expected.distance)
    assert math.isfinite(plan.lr)


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
        ({"target_distance": 0.0}, "target_distance=0.0"),
        ({"budget": -1.0}, "budget=-1.0"),
    ],
    ids=str,
)
def test_bad_wishes_are_one_line_named_as_in_the_configuration(options, says):
    with pytest.raises(ValueError, match=says) as error:
        make_plan(PROBLEM, Dynamics(), **options)
    assert "\n" not in str(error.value)
