"""laws and gamma: estimators on made-up data with known answers, then the stationary laws of a simulated SDE."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lntrain import (
    DiagonalLinear,
    LabelNoiseSGD,
    noise_for_penalty,
    sparse_regression,
    train,
    weighted_lasso,
)
from lntrain.penalty.formula import alpha_max, finite_step_bias, mean_squares
from lntrain.theory.flow import gradient_flow, label_noise_flow, limit_flow
from lntrain.theory.gamma import GammaLaw, effective_size, gamma_law, gamma_test
from lntrain.theory.laws import (
    balancedness,
    batch_means,
    block_means,
    effective_init,
    lambda_hat,
    loss_identity,
    lyapunov_exponents,
    lyapunov_support,
    predicted_exponents,
)

F64 = torch.float64


def _ar(count, chains, rho, seed=0):
    """Stationary AR(1) chains of variance 1, (count, chains, 1)."""
    rng = np.random.Generator(np.random.Philox(seed))
    x = np.empty((count, chains))
    x[0] = rng.standard_normal(chains)
    for k in range(1, count):
        x[k] = rho * x[k - 1] + math.sqrt(1 - rho**2) * rng.standard_normal(chains)
    return x[:, :, None]


def test_batch_means_of_independent_and_of_correlated_values():
    values = np.random.Generator(np.random.Philox(0)).standard_normal((400, 3))
    plain = batch_means(values)
    np.testing.assert_allclose(plain.value, values.mean(0))
    np.testing.assert_allclose(plain.stderr, values.std(0, ddof=1) / 20)
    chain = _ar(40_000, 50, 0.9)[:, :, 0]
    found = batch_means(chain, blocks=40)
    true = math.sqrt(19 / 40_000)  # (1 + rho) / (1 - rho) = 19
    assert float(found.stderr.mean()) == pytest.approx(true, rel=0.1)
    assert float(batch_means(chain).stderr.mean()) < true / 3  # what forgetting the correlation would claim


def test_block_means_are_the_means_of_the_stretches():
    x = np.arange(10.0)
    running = [x[:k].mean() for k in (2, 5, 10)]
    assert block_means([2, 5, 10], running).tolist() == pytest.approx([x[2:5].mean(), x[5:].mean()])
    assert block_means([0, 5], [[math.nan], [2.0]]).tolist() == [[2.0]]


EVEN = sparse_regression(40, 60, 4, signs="random", seed=8)  # domination margin .4: no near tie
ALPHA = 0.1 * alpha_max(EVEN.X, EVEN.y)
LR = 0.002
PENALTY = ALPHA * mean_squares(EVEN.X)
LASSO = weighted_lasso(EVEN.X, EVEN.y, PENALTY)
ON = LASSO.support


@pytest.fixture(scope="module")
def run():
    """8 replicas from a forgotten start, 8 records 50,000 steps apart."""
    std = noise_for_penalty(EVEN.X, ALPHA, lr=LR)
    model = DiagonalLinear(60, init=0.5, replicas=8)
    optimizer = LabelNoiseSGD(model.parameters(), lr=LR, noise=std, seed=5)
    steps = list(range(100_000, 500_001, 50_000))
    return [s for s in train(model, optimizer, EVEN, steps[-1], snapshots=steps) if s.scheduled]


def _stack(run, name):
    return torch.stack([getattr(s, name) for s in run])


def test_lambda_hat_by_coordinate_with_its_error(run):
    steps = [s.step for s in run]
    mean, noise = (block_means(steps, _stack(run, name)) for name in ("mean_coef", "mean_noise"))
    found, raw = (lambda_hat(EVEN.X, EVEN.y, mean, LASSO, mean_noise=z) for z in (noise, None))
    bias = finite_step_bias(EVEN.X, LASSO.coef, PENALTY, lr=LR)
    t = ((found.value / PENALTY - 1 - bias) / (found.stderr / PENALTY))[ON]
    assert bool((t.abs() < 5).all())
    assert float((found.stderr / PENALTY)[ON].max()) < 0.02
    assert bool(found.value[~ON].isnan().all())
    assert float((raw.stderr / found.stderr)[ON].min()) > 2  # what compensation is for
    raw_t = ((raw.value - PENALTY * (1 + bias)) / raw.stderr)[ON]
    assert bool((raw_t.abs() < 5).all())


def test_exponents_are_the_predicted_ones(run):
    found = lyapunov_exponents(_stack(run, "log_weights"), [s.step for s in run])
    predicted = predicted_exponents(EVEN.X, EVEN.y, LASSO, lr=LR)
    known = found.stderr.isfinite()
    assert int((~known).sum()) < 6  # sunk to the floor before the second record
    weight = predicted.abs() < 1e-6 * predicted.abs().max()
    assert (int(weight.sum()), bool(weight.any(0).equal(ON))) == (int(ON.sum()), True)  # 0 exactly on the support
    assert bool((found.value[weight].abs() < 5 * found.stderr[weight]).all())
    slope = (found.value / predicted)[~weight & known]
    assert float(slope.mean()) == pytest.approx(1, abs=0.03)
    assert float(np.corrcoef(found.value[known], predicted[known])[0, 1]) > 0.995
    balance = balancedness(_stack(run, "log_weights")[:3]).diff(dim=0).mean((0, 1)) / 50_000  # before any sinks
    assert float((balance / (-8 * LR * PENALTY)).mean()) == pytest.approx(1, abs=0.03)


def test_against_compensated_labels_the_exponents_are_exact(run):
    """Over 150,000 steps of one replica, the Lasso of y + mean noise: correlation .9999, what is left is O(lr)."""
    steps, logs = [s.step for s in run][:4], _stack(run, "log_weights")[:4, 0]
    noise = block_means(steps[::3], _stack(run, "mean_noise")[:4:3, 0])[0]
    labels = EVEN.y + noise
    predicted = predicted_exponents(EVEN.X, labels, weighted_lasso(EVEN.X, labels, PENALTY), lr=LR)
    found = lyapunov_exponents(logs, steps).value
    known = found.isfinite()
    assert float(np.corrcoef(found[known], predicted[known])[0, 1]) > 0.9999
    assert float((found - predicted)[known].abs().max()) < 0.05 * float(predicted.abs().max())


def test_the_support_by_exponents_is_the_lassos(run):
    logs, steps = _stack(run, "log_weights"), [s.step for s in run]
    assert lyapunov_support(logs, steps).equal(ON)  # F1 = 1
    assert lyapunov_support(logs[:, 0], steps).sum() >= ON.sum()  # one replica: less power, no false alarm
    assert bool(lyapunov_support(logs[:, 0], steps)[ON].all())


def test_lyapunov_support_counts_a_weight_that_has_sunk_as_off():
    logs = torch.full((4, 3, 2, 2), -80.0, dtype=F64)
    logs[..., 0, 1] = torch.tensor([0.0, 0.5, -0.3, 0.1], dtype=F64)[:, None]
    assert lyapunov_support(logs, [0, 1, 2, 3]).tolist() == [False, True]


def test_lyapunov_support_sees_a_fall_of_replicas_most_of_which_have_sunk():
    """7 of 8 replicas are far below e^-30 and go on falling; the last is above."""
    falls = torch.linspace(0, -60, 9, dtype=F64)[:, None] + torch.tensor([0.0] + [-150.0] * 7, dtype=F64)
    logs = torch.zeros(9, 8, 2, 2, dtype=F64)
    logs[..., 0] = (falls + 0.1 * torch.randn(9, 8, dtype=F64, generator=torch.Generator().manual_seed(0)))[:, :, None]
    logs[-1, 0, :, 0] = -59.0
    logs[..., 1] += torch.randn(9, 8, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    assert lyapunov_support(logs, range(9)).tolist() == [False, True]


def test_the_false_alarms_of_lyapunov_support_are_at_most_the_level():
    """Stationary log-weights (nothing falls), 400 trials at level .1: at most 68 alarms (6 sd above 40)."""
    chains = np.random.Generator(np.random.Philox(2)).standard_normal((400, 9, 1, 20))
    alarms = sum(not bool(lyapunov_support(c, np.arange(9), level=0.1).all()) for c in chains)
    assert alarms <= 68


CORRELATED = sparse_regression(30, 6, 6, design="correlated", rho=0.7, seed=1)


@pytest.fixture(scope="module")
def stationary():
    """Log-Euler flows at dt = .01 and .005 of 512 replicas on correlated columns, all of them on the support."""
    lasso = weighted_lasso(CORRELATED.X, CORRELATED.y, 0.15 * mean_squares(CORRELATED.X))
    std = noise_for_penalty(CORRELATED.X, 0.15, lr=0.005)
    flows = [
        label_noise_flow(
            CORRELATED.X,
            CORRELATED.y,
            lr=0.005,
            dt=dt,
            noise=std,
            steps=int(40 / dt),
            every=int(2.5 / dt),
            burn_in=int(15 / dt),
            init=1.0,
            replicas=512,
            seed=3,
        )
        for dt in (0.01, 0.005)
    ]
    return lasso, flows


def test_the_time_mean_of_the_loss_is_the_lassos_objective(stationary):
    """At dt -> 0, by extrapolation from the two steps; five standard errors."""
    lasso, flows = stationary
    coarse, fine = (loss_identity(flow.mean_loss[-1], lasso) for flow in flows)
    extrapolated = float(2 * fine.value - coarse.value)
    error = math.hypot(2 * float(fine.stderr), float(coarse.stderr))
    assert error < 0.01
    assert extrapolated == pytest.approx(1, abs=5 * error)


def test_the_stationary_law_is_gamma_under_correlation_and_wrong_scales_are_rejected(stationary):
    lasso, (_, flow) = stationary
    assert bool(lasso.support.all())
    law, samples = gamma_law(CORRELATED.X, lasso), flow.coef[6:]
    ours = gamma_test(samples, law)
    assert float(ours.kept.min()) > 1000
    assert not ours.rejected(1e-3)
    wrong = gamma_test(samples, GammaLaw(law.coef, 1.3 * law.scale))
    assert wrong.rejected(1e-3)
    assert float(wrong.p_variance.max()) < 1e-4


def test_loss_identity_on_numbers():
    assert loss_identity([2 * LASSO.objective, 0.0], LASSO)[:2] == (pytest.approx(1.0), pytest.approx(1.0))


def test_the_gamma_law_is_scipys_and_its_sampler_draws_it():
    law = GammaLaw(torch.tensor([1.0, 0.0, -0.5], dtype=F64), torch.tensor([0.2, 0.1, 0.1], dtype=F64))
    draws = law.sample(200_000, seed=1)
    assert not bool(draws[:, 1].any())
    assert bool((draws[:, 2] <= 0).all())
    torch.testing.assert_close(draws.mean(0), law.coef, rtol=0, atol=5 * float(law.sd.max()) / math.sqrt(2e5))
    torch.testing.assert_close(draws.std(0), law.sd, rtol=0.02, atol=0)
    assert law.sd.tolist() == pytest.approx([math.sqrt(0.2), 0.0, math.sqrt(0.05)])
    x = draws[:, 0].sort().values
    assert float(np.abs(law.cdf(0, x) - np.linspace(0, 1, len(x))).max()) < 0.005


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95])
def test_effective_size_of_ar_chains(rho):
    size, tau = effective_size(_ar(20_000, 8, rho))
    expected = (1 + rho) / (1 - rho)
    assert float(tau) == pytest.approx(expected, rel=0.1)
    assert float(size) == pytest.approx(160_000 / float(tau))


def test_the_gamma_tests_level_on_correlated_chains():
    """Gamma chains through AR normals: 200 trials at 5 %: alarms of either test within 6 sd of at most 10 each."""
    from scipy import stats

    law = GammaLaw(torch.tensor([1.0], dtype=F64), torch.tensor([0.1], dtype=F64))
    ks = variance = 0
    for seed in range(200):
        uniform = stats.norm.cdf(_ar(600, 32, 0.8, seed=seed))
        test = gamma_test(stats.gamma.ppf(uniform, 10, scale=0.1), law)
        ks += float(test.p_ks) < 0.05
        variance += float(test.p_variance) < 0.05
    assert ks <= 28
    assert 1 <= variance <= 28


def test_ks_alone_has_no_power_for_a_wrong_scale_at_1000_samples_and_the_variance_test_has():
    law = GammaLaw(torch.tensor([1.0], dtype=F64), torch.tensor([0.1], dtype=F64))
    wrong = GammaLaw(law.coef, 1.3 * law.scale)
    found = [gamma_test(law.sample(1000, seed=s).reshape(125, 8, 1), wrong) for s in range(20)]
    assert sum(float(f.p_ks) < 1e-3 for f in found) <= 6
    assert sum(float(f.p_variance) < 1e-3 for f in found) >= 14


def test_effective_init_is_the_init_and_label_noise_lowers_it():
    """Exactly exp(-a lambda t) times alpha in the limit flow; gradient flow keeps it."""
    problem = sparse_regression(12, 20, 3, signs="random", seed=3)
    flow = gradient_flow(problem.X, problem.y, [0.0, 50.0], init=0.3)
    torch.testing.assert_close(effective_init(flow.log_weights), torch.full((2, 20), 0.3, dtype=F64), rtol=1e-7, atol=0)
    penalty = 0.2 * mean_squares(problem.X)
    shrunk = limit_flow(problem.X, problem.y, [3.0], penalty, init=0.3)
    torch.testing.assert_close(
        effective_init(shrunk.log_weights[0]), 0.3 * torch.exp(-2 * 3.0 * penalty), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: batch_means([1.0]), "blocks=1"),
        (lambda: batch_means([1.0, 2.0], blocks=3), "blocks=3"),
        (lambda: block_means([2, 1], [1.0, 2.0]), "steps"),
        (lambda: lyapunov_exponents(torch.zeros(3, 2, 1), [0, 1, 5]), "evenly spaced"),
        (lambda: balancedness(torch.zeros(1, 4)), r"balancedness needs \(..., 2, d\)"),
        (lambda: effective_size(torch.zeros(10, 2)), r"give \(K, R, d\)"),
        (lambda: gamma_law(EVEN.X, weighted_lasso(EVEN.X, EVEN.y, 0.1)), "not proportional"),
        (lambda: gamma_test(torch.zeros(4, 1, 1), GammaLaw(torch.ones(1), torch.ones(1))), "too few"),
        (lambda: gamma_test(torch.zeros(4, 1, 1), GammaLaw(torch.zeros(1), torch.ones(1))), "support is empty"),
        (lambda: loss_identity(torch.ones(8), weighted_lasso(EVEN.X, 0 * EVEN.y, 0.1)), "its objective is 0"),
        (lambda: lambda_hat(EVEN.X, EVEN.y, torch.ones(3, 60), LASSO, mean_noise=torch.ones(2, 40)), "2 blocks"),
    ],
)
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
