"""corrections: sampling by enumeration of all batches, depth by autograd, the planned steps by hand and in a run."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lntrain import (
    DiagonalLinear,
    LabelNoiseSGD,
    effective_penalty,
    noise_for_penalty,
    sparse_regression,
    train,
    weighted_lasso,
)
from lntrain.penalty.corrections import (
    corrected_penalty,
    depth_penalty,
    plan_steps,
    sampling_penalty,
    sampling_variance,
    shuffle_shift,
)
from lntrain.penalty.formula import alpha_max, finite_step_bias, mean_squares
from lntrain.theory.laws import lambda_hat

RNG = np.random.Generator(np.random.Philox(5))
X = RNG.standard_normal((5, 3)) * [1.0, 2.0, 0.5]
R = RNG.standard_normal(5)


def _batches(sampling):
    return itertools.product(range(5), repeat=2) if sampling == "replacement" else itertools.permutations(range(5), 2)


@pytest.mark.parametrize("sampling", ["replacement", "without"])
def test_sampling_variance_is_the_variance_over_all_batches(sampling):
    g = np.array([(X[list(rows)] * R[list(rows), None]).mean(0) for rows in _batches(sampling)])
    np.testing.assert_allclose(sampling_variance(X, R, batch_size=2, sampling=sampling), g.var(0), rtol=1e-12)


def test_sampling_variance_where_all_rows_are_read_and_reshuffled():
    for options in ({}, {"batch_size": 5, "sampling": "full"}, {"batch_size": 2, "sampling": "noisy_rows"}):
        assert sampling_variance(X, R, **options).tolist() == [0.0, 0.0, 0.0]
    assert sampling_variance(X, R, batch_size=5, sampling="without").tolist() == [0.0, 0.0, 0.0]
    without, shuffle = (sampling_variance(X, R, batch_size=2, sampling=s) for s in ("without", "shuffle"))
    assert shuffle.tolist() == without.tolist()


@pytest.mark.parametrize("loss_constant", [0.25, 0.5])
@pytest.mark.parametrize(("n", "b"), [(5, 1), (6, 2)])
def test_shuffle_shift_over_all_orders_of_an_epoch(n, b, loss_constant):
    """Mean over the n! orders of what log w moves beyond -a lr g(beta_k), per step and (a lr)^2, as lr -> 0:
    -sign x.shift/n / (a lr) - (V_j + g_j^2)/2."""
    rng = np.random.Generator(np.random.Philox(n))
    design, labels, w = rng.standard_normal((n, 2)), rng.standard_normal(n), np.array([[0.9, 1e-9], [1e-9, 0.8]])
    signs, errors = np.array([[1.0], [-1.0]]), []
    beta = (signs * w**2).sum(0)
    residual = design @ beta - labels
    for lr in (1e-3, 1e-4):
        rate, total = 4 * loss_constant * lr, 0.0
        orders = list(itertools.permutations(range(n)))
        for order in orders:
            now, drift = w.copy(), 0.0
            for rows in np.reshape(order, (-1, b)):
                r = design @ (signs * now**2).sum(0) - labels
                drift = drift + design.T @ r / n
                now = now * (1 - rate * signs * (design[rows].T @ r[rows]) / b)
            total = total + (np.log(now / w) + rate * signs * drift) / (n / b * rate**2 * len(orders))
        shift = shuffle_shift(design, labels, beta, lr=lr, batch_size=b, loss_constant=loss_constant)
        variance = sampling_variance(design, residual, batch_size=b, sampling="shuffle").numpy()
        second = variance + (design.T @ residual / n) ** 2
        errors.append(np.abs(total + signs * (design.T @ shift.numpy()) / n / rate + second / 2).max())
    assert errors[1] < 1e-3 * np.abs(total).max()
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)  # first order: what is left falls with lr


def test_many_residuals_are_averaged_as_squares():
    rows = RNG.standard_normal((7, 5))
    each = torch.stack([sampling_variance(X, r, batch_size=2) for r in rows])
    torch.testing.assert_close(sampling_variance(X, rows, batch_size=2), each.mean(0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({}, 0.01), ({"loss_constant": 0.25}, 0.005), ({"parametrisation": "hadamard"}, 0.005),
        ({"momentum": 0.9}, 0.1), ({"momentum": 0.9, "dampening": 0.5}, 0.05),
    ],
    ids=str,
)  # fmt: skip
def test_sampling_penalty_is_half_a_lr_times_the_variance(options, factor):
    expected = factor * sampling_variance(X, R, batch_size=2)
    torch.testing.assert_close(sampling_penalty(X, R, lr=0.01, batch_size=2, **options), expected, rtol=1e-13, atol=0)


def test_corrected_penalty_is_label_noise_and_sampling_with_the_finite_step_bias():
    options = {"lr": 0.01, "batch_size": 2, "loss_constant": 0.25, "momentum": 0.5}
    plain = effective_penalty(X, std=2.0, **options)
    shared = {k: options[k] for k in ("lr", "loss_constant", "momentum")}
    beta = [1.0, 0.0, -2.0]
    whole = corrected_penalty(X, beta, std=2.0, residuals=R, noise_kurtosis=3.0, **options)
    both = plain + sampling_penalty(X, R, **options)
    kurtosis = 3 + (3.0 * (X**4).mean(0) / (X**2).mean(0) ** 2 - 3) / 2
    bias = finite_step_bias(X, beta, both, kurtosis=torch.from_numpy(kurtosis), **shared)
    torch.testing.assert_close(whole, both * (1 + bias), rtol=1e-12, atol=0)
    assert bool((whole > both).all())


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_depth_penalty_is_half_loss_scale_lr_v_times_the_squared_slope_of_f(depth):
    """theory.md section 6 for any beta = f(w), f' by autograd."""
    w = torch.linspace(0.3, 1.5, 3, dtype=torch.float64, requires_grad=True)
    beta = w**depth
    (slope,) = torch.autograd.grad(beta.sum(), w)
    for c in (0.25, 0.5):
        variance = 4.0 * mean_squares(X) / 5
        expected = c / 2 * 0.01 * variance * slope**2
        kappa = depth_penalty(X, lr=0.01, std=2.0, depth=depth, loss_constant=c)
        torch.testing.assert_close(kappa * beta.detach() ** (2 - 2 / depth), expected, rtol=1e-12, atol=0)


def test_depth_two_is_the_lasso():
    options = {"lr": 0.01, "std": 2.0, "batch_size": 2, "loss_constant": 0.25}
    assert depth_penalty(X, depth=2, **options).tolist() == effective_penalty(X, **options).tolist()


ONES = torch.ones(4, 1)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_planned_steps_by_hand(momentum):
    """a = 2, V = std^2 / 4 = 25, e = .1: 4/(a^2 lr^2 V e^2), and log(|beta|/init^2) / (2 a lr lambda e)."""
    lr = 0.01 / (1 - momentum)
    options = {"lr": 0.01, "std": 10.0, "momentum": momentum}
    assert plan_steps(0.1, ONES, [2.0], **options) == math.ceil(4 / (4 * lr**2 * 25 * 0.01) * (1 - 1e-9))
    way = math.log(2.0 / 0.04)
    lam = lr * 25.0
    exact = way / (4 * lr * lam * 0.1)
    assert plan_steps(0.1, ONES, [2.0], init=0.2, statistic="compensated", **options) == math.ceil(exact)
    paired = plan_steps(0.1, ONES, [2.0], init=0.2, statistic="antithetic", **options)
    assert paired == math.ceil(exact / (1 - momentum))  # heavy ball takes 1 - mu of an antithetic lambda
    assert plan_steps(0.1, ONES, [0.0], **options) == 1


def test_planned_steps_are_what_a_run_needs():
    """iid: over 64 replicas the rms of lambda_hat / lambda - 1 at K is the tolerance; compensated: at most that."""
    problem = sparse_regression(40, 60, 4, signs="random", seed=0)
    alpha, lr = 0.1 * alpha_max(problem.X, problem.y), 0.002
    std = noise_for_penalty(problem.X, alpha, lr=lr)
    penalty = effective_penalty(problem.X, lr=lr, std=std)
    lasso = weighted_lasso(problem.X, problem.y, penalty)
    on = lasso.support
    for statistic, tol in (("iid", 0.2), ("compensated", 0.2)):
        init = float(lasso.coef[on].abs().min().sqrt()) if statistic == "iid" else 0.01  # no way to go, and a long one
        steps = plan_steps(tol, problem.X, lasso.coef, lr=lr, std=std, statistic=statistic, init=init)
        model = DiagonalLinear(problem.d, init=init, replicas=64)
        *_, last = train(model, LabelNoiseSGD(model.parameters(), lr=lr, noise=std, seed=1), problem, steps)
        noise = last.mean_noise if statistic == "compensated" else None
        errors = [
            lambda_hat(problem.X, problem.y, last.mean_coef[r : r + 2], lasso,
                       mean_noise=None if noise is None else noise[r : r + 2]).value[on] / penalty[on] - 1
            for r in range(0, 64, 2)
        ]  # fmt: skip
        rms = torch.stack(errors).square().mean(0).sqrt().max() * (math.sqrt(2) if noise is None else 1)
        assert float(rms) == pytest.approx(tol, rel=0.35 if noise is None else 0.15)  # 12 % is its standard error


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sampling_variance(X, np.ones(4)), r"residuals have shape \(1, 4\): X has 5 rows"),
        (lambda: sampling_variance(X, R, batch_size=6, sampling="without"), "batch_size=6"),
        (lambda: depth_penalty(X, lr=0.1, std=1.0, depth=1), "depth=1"),
        (lambda: depth_penalty(X, lr=0.1, std=1.0, depth=2.5), "depth=2.5"),
        (lambda: plan_steps(0.0, X, R[:3], lr=0.1, std=1.0), "kkt_tol=0.0"),
        (lambda: plan_steps(0.1, X, R[:3], lr=0.1, std=0.0), "std=0"),
        (lambda: plan_steps(0.1, X, R[:3], lr=0.1, std=1.0, statistic="last"), "statistic='last'"),
    ],
)
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
