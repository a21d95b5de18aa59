"""The limit flow through its dual: exact identities, an independent integrator of the weights, then extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from lntrain import sparse_regression, weighted_lasso
from lntrain.lasso.references import basis_pursuit, entropy_interpolator
from lntrain.penalty.formula import alpha_max, mean_squares, step_factor
from lntrain.theory.flow import gradient_flow, limit_flow

F64 = torch.float64
NARROW = sparse_regression(30, 6, 3, signs="random", noise=0.5, seed=1)  # n > d, y out of reach
WIDE = sparse_regression(12, 30, 3, signs="random", column_scales=(0.5, 2.0), seed=2)
POSITIVE = sparse_regression(12, 30, 3, seed=2)
TIMES = np.array([0.0, 0.01, 1.0, 10.0, 40.0])
CASES = [
    (problem, parametrisation, loss_constant, ratio, init)
    for problem, parametrisation in (
        (NARROW, "difference"),
        (WIDE, "difference"),
        (WIDE, "hadamard"),
        (POSITIVE, "square"),
    )
    for loss_constant, ratio, init in ((0.5, 0.1, 0.1), (0.25, 0.0, 0.3), (0.25, 0.3, 1e-3))
]


def primal(X, y, times, penalty, init, a, signs):
    """log w itself, by LSODA: good at moderate inits, and independent of the dual."""
    X, y, signs = X.numpy(), y.numpy(), np.array(signs)[:, None]
    start = np.log(init) * np.ones((len(signs), X.shape[1]))

    def drift(_, flat):
        u = flat.reshape(start.shape)
        g = X.T @ (X @ (signs * np.exp(2 * u)).sum(0) - y) / len(y)
        return (-a * (signs * g + penalty)).ravel()

    found = solve_ivp(drift, (0, times[-1]), start.ravel(), method="LSODA", t_eval=times, rtol=1e-10, atol=1e-11)
    u = found.y.T.reshape(-1, *start.shape)
    return (signs * np.exp(2 * u)).sum(1), 2 * u


def mean_identity(flow, X, y, penalty, init, a):
    """+/- g(mean beta) + lambda + (log w^2(t) - log w^2(0)) / (2 a t), 0 on every coordinate at every time."""
    signs = torch.tensor([[1.0], [-1.0]], dtype=F64)[: flow.log_weights.shape[1]]
    g = (flow.mean_coef @ X.T - y) @ X / len(y)
    start = 2 * torch.as_tensor(init, dtype=F64).log()
    return (
        signs * g[:, None] + torch.as_tensor(penalty) + (flow.log_weights - start) / (2 * a * flow.times[:, None, None])
    )


@pytest.mark.parametrize(("problem", "parametrisation", "loss_constant", "ratio", "init"), CASES)
def test_the_dual_is_the_flow_of_the_weights(problem, parametrisation, loss_constant, ratio, init):
    X, y, a = problem.X, problem.y, step_factor(parametrisation, loss_constant)
    penalty = ratio * alpha_max(X, y) * mean_squares(X)
    options = {"parametrisation": parametrisation, "loss_constant": loss_constant, "init": init}
    flow = limit_flow(X, y, TIMES, penalty, **options)
    signs = [1.0] if parametrisation == "square" else [1.0, -1.0]
    coef, logs = primal(X, y, TIMES, penalty.numpy(), init, a, signs)
    scale = np.abs(coef).max(1, keepdims=True) + init**2
    assert np.abs((flow.coef.numpy() - coef) / scale).max() < 1e-7
    np.testing.assert_allclose(flow.log_weights, logs, rtol=1e-7, atol=1e-7)
    assert torch.equal(flow.mean_coef[0], flow.coef[0])
    late = type(flow)(*(each[1:] for each in (flow.times, flow.coef, flow.log_weights, flow.mean_coef)))
    error = mean_identity(late, X, y, penalty, init, a).abs() * late.times[:, None, None]
    assert float(error.max()) < 1e-7


def test_the_tolerance_asked_for_is_kept_and_records_do_not_move_the_flow():
    penalty = 0.1 * alpha_max(WIDE.X, WIDE.y) * mean_squares(WIDE.X)
    times = np.geomspace(0.01, 1e4, 30)
    exact = limit_flow(WIDE.X, WIDE.y, times, penalty, rtol=1e-11)
    for rtol in (1e-3, 1e-6):
        flow = limit_flow(WIDE.X, WIDE.y, times, penalty, rtol=rtol)
        for mine, true in ((flow.coef, exact.coef), (flow.mean_coef, exact.mean_coef)):
            assert float(((mine - true).abs().amax(1) / true.abs().amax(1)).max()) < 3 * rtol
        end = limit_flow(WIDE.X, WIDE.y, times[-1:], penalty, rtol=rtol)
        torch.testing.assert_close(end.mean_coef[0], flow.mean_coef[-1], rtol=0, atol=rtol)


@pytest.mark.parametrize("init", [1e-20, 1e-60, 1e-300])
def test_a_tiny_init_ends_at_basis_pursuit(init):
    """Twenty problems; the interpolator of the init itself differs by 1 / log(1/init) where weights nearly tie."""
    for seed in range(20):
        rng = np.random.Generator(np.random.Philox(seed))
        X = torch.from_numpy(rng.standard_normal((5, 12)))
        y = torch.from_numpy(rng.standard_normal(5))
        flow = gradient_flow(X, y, [1e3, 1e6], init=init, rtol=1e-3)
        assert bool(flow.coef.isfinite().all() and flow.mean_coef.isfinite().all())
        torch.testing.assert_close(flow.log_weights.sum(1), torch.full((2, 12), 4 * math.log(init), dtype=F64))
        goal = basis_pursuit(X, y)
        assert float((X @ flow.coef[-1] - y).norm() / y.norm()) < 1e-4
        assert abs(float(flow.coef[-1].abs().sum()) / goal.objective - 1) < 1e-2
        if init == 1e-20:
            own = entropy_interpolator(X, y, init).coef
            torch.testing.assert_close(flow.coef[-1], own, rtol=0, atol=1e-3 * float(own.abs().max()))


def test_the_lasso_is_met_from_any_init_and_any_scale_of_columns():
    scales = torch.logspace(-3, 3, 30, dtype=F64)[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    X = WIDE.X * scales
    penalty = 0.1 * alpha_max(X, WIDE.y) * mean_squares(X)
    lasso = weighted_lasso(X, WIDE.y, penalty)
    end = 4000 / float(penalty.min())
    for init in (1e-60, 0.1, 10.0, torch.linspace(0.1, 3, 30, dtype=F64) / scales):
        flow = limit_flow(X, WIDE.y, [end / 2, end], penalty, init=init, rtol=1e-5)
        torch.testing.assert_close(flow.coef[-1] * scales, lasso.coef * scales, rtol=0, atol=1e-8)
        error = mean_identity(flow, X, WIDE.y, penalty, init, 2.0) / (penalty + 1e-300)
        assert float(error.abs().max()) < 1e-7


def test_weights_far_above_the_solution_cost_no_accuracy():
    """beta is the small difference of large weights: errors are of beta all the same."""
    exact = gradient_flow(WIDE.X, WIDE.y, [1e-4, 1e-2], init=20.0, rtol=1e-9)
    flow = gradient_flow(WIDE.X, WIDE.y, [1e-4, 1e-2], init=20.0, rtol=1e-2)
    for mine, true in ((flow.coef, exact.coef), (flow.mean_coef, exact.mean_coef)):
        assert float(((mine - true).abs().amax(1) / true.abs().amax(1)).max()) < 0.03


def test_the_mean_at_depth_is_the_average_of_the_flow():
    times = np.linspace(0, 5, 2001)
    flow = gradient_flow(WIDE.X, WIDE.y, times, depth=3, init=0.5)
    steps = (flow.coef[1:] + flow.coef[:-1]) / 2 * (times[1] - times[0])
    torch.testing.assert_close(flow.mean_coef[1:] * flow.times[1:, None], steps.cumsum(0), rtol=0, atol=1e-5)


def test_columns_of_zeros_and_labels_of_zeros_are_fine():
    flow = limit_flow([[1.0, 0.0]], [0.0], [0.0, 1.0], 0.5, parametrisation="square", init=1.0)
    assert float(flow.coef[1, 1]) == pytest.approx(math.exp(-2.0))
    assert float(flow.mean_coef[1, 1]) == pytest.approx((1 - math.exp(-2.0)) / 2)
    none = gradient_flow([[0.0]], [1.0], [1.0], init=0.3)
    assert none.coef.item() == 0.0


@pytest.mark.parametrize("depth", [2, 3])
def test_what_cannot_be_integrated_is_one_line_and_never_nan(depth):
    with pytest.raises(RuntimeError, match="the flow") as error:
        gradient_flow([[1e200, 1.0]], [1e200], [1.0], depth=depth, init=1e100)
    assert "\n" not in str(error.value)
