"""support: the verdict by hand, its error rate at small coefficients, its words before the run, no wandering."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from lntrain import (
    Antithetic,
    DiagonalLinear,
    GaussianNoise,
    LabelNoiseSGD,
    Problem,
    effective_penalty,
    sparse_regression,
    train,
    weighted_lasso,
)
from lntrain.theory.gamma import GammaLaw
from lntrain.theory.support import LEVEL, SIGMAS, fallen, inflation, undecided_probability, verdict
from lntrain.training.evaluation import measure

F64 = torch.float64
SURE = 1e-6  # false-alarm level of each random test


def _limits(chance, trials):
    """The counts that a binomial exceeds, on either side, with probability SURE."""
    return stats.binom.ppf(SURE / 2, trials, chance), stats.binom.isf(SURE / 2, trials, chance)


@pytest.mark.parametrize(
    ("gradient", "coef", "fell", "expected"),
    [
        (-1.0, 1.0, False, "on"),
        (1.0, -1.0, False, "on"),
        (-0.95, 0.4, False, "on"),  # grows: the drift is that of a small weight
        (-1.0, 0.2, False, "undecided"),  # smaller than 2.33 sd
        (-1.6, 1e-9, False, "undecided"),  # it should grow and has not: only another penalty keeps it down
        (0.5, 1e-9, False, "off"),  # whatever its last look does: float32 wanders above its floor
        (-0.5, 0.25, False, "undecided"),  # it should go and has not
        (0.5, 0.2, True, "off"),
        (-0.5, 0.2, True, "off"),
        (0.9, 1e-9, True, "undecided"),  # a near tie
        (-1.0, 1.0, True, "on"),  # an excursion of the last look
    ],
)
def test_a_verdict_by_hand(gradient, coef, fell, expected):
    """lambda = c = 1, sd(g) = .1, beside a coordinate that meets its lambda: the bounds are .233."""
    X = math.sqrt(4) * np.eye(4)[:, :2]
    g, beta = torch.tensor([[gradient, -1.0]], dtype=F64), torch.tensor([[coef, 2.0]], dtype=F64)
    gone = torch.tensor([[fell, False]])
    found = verdict(X, g, beta, torch.ones(1, 2, dtype=F64), torch.full((1, 1), 0.04, dtype=F64), gone)
    said = {"on": found.support, "off": found.complement, "undecided": found.undecided}
    assert [name for name, where in said.items() if bool(where[0, 0])] == [expected]


def test_what_the_largest_coordinate_lacks_of_its_lambda_widens_the_bounds():
    """Without noise; the largest has |g| = .7 lambda: q = -.2 and a mean of .2 say nothing."""
    X, none = 2 * np.eye(4), torch.zeros(1, 4, dtype=torch.bool)
    g, beta = torch.tensor([[-0.7, 0.8, -1.0, -0.5]], dtype=F64), torch.tensor([[2.0, 0.0, 0.2, 0.0]], dtype=F64)
    found = verdict(X, g, beta, torch.ones(1, 4, dtype=F64), torch.zeros(1, 1, dtype=F64), none)
    assert found.support.tolist() == [[True, False, False, False]]
    assert found.complement.tolist() == [[False, False, False, True]]


def test_beta_of_one_sign_counts_one_side_only():
    X, none = 2 * np.eye(4), torch.zeros(1, 4, dtype=torch.bool)
    g, beta = torch.tensor([[-1.0, 1.5, -1.5, 0.0]], dtype=F64), torch.tensor([[2.0, 0.0, 0.0, 0.0]], dtype=F64)
    options = (torch.ones(1, 4, dtype=F64), torch.zeros(1, 1, dtype=F64), none)
    assert verdict(X, g, beta, *options, True).complement.tolist() == [[False, True, False, True]]
    assert verdict(X, g, beta, *options, False).complement.tolist() == [[False, False, False, True]]


@pytest.mark.parametrize(
    ("now", "earlier", "gone"),
    [
        ([[-8.1], [-8.1]], [[0.0], [0.0]], True),
        ([[-7.9], [-20.0]], [[0.0], [0.0]], False),  # one of them stays
        ([[0.0], [0.0]], [[0.0], [0.0]], False),
        ([[-90.0], [-90.0]], [[-90.0], [-90.0]], False),
    ],
)
def test_fallen(now, earlier, gone):
    args = [torch.tensor(v, dtype=F64) for v in (now, earlier)]
    assert fallen(*args, 100, 50).tolist() == [gone]


def test_fallen_allows_for_a_record_that_is_not_half_way():
    now, before = torch.tensor([[-5.0]]), torch.tensor([[0.0]])
    assert fallen(now, before, 100, 75).tolist() == [True]  # 8 over half the run is 4 over a quarter
    assert fallen(now, before, 100, 50).tolist() == [False]


def test_inflation_is_the_root_of_the_diagonal_of_the_inverse():
    X = torch.randn(9, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    active = torch.tensor([[True, False, True, True, False], [True] * 5, [False] * 5])
    inverse = torch.linalg.inv(X[:, active[0]].T @ X[:, active[0]] / 9).diagonal()
    expected = torch.ones(5, dtype=F64)
    expected[active[0]] = (X.square().mean(0)[active[0]] * inverse).sqrt()
    found = inflation(X.numpy(), active)
    assert torch.allclose(found[0], expected, rtol=1e-12)
    assert found[2].tolist() == [1.0] * 5
    assert inflation(X[:5].numpy(), active)[1].tolist() == [math.inf] * 5  # they could fit anything


@pytest.mark.parametrize("shape", [0.05, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("fall", [2.0, 8.0])
def test_falls_between_independent_looks_at_a_gamma(shape, fall):
    """theory.md section 4: I_x(s, s), near exp(-fall s) / 2 for small s."""
    law, draws = GammaLaw(torch.tensor([shape], dtype=F64), torch.ones(1, dtype=F64)), 200_000
    before, now = law.sample(2 * draws, seed=1)[:, 0].log().reshape(2, -1)
    chance = float(law.falls(fall))
    low, high = _limits(chance, draws)
    assert low <= int((before - now > fall).sum()) <= high
    if shape <= 0.1:
        assert chance == pytest.approx(math.exp(-fall * shape) / 2, rel=0.05)


LAM, LR, ROWS, RUNS = 0.1, 0.02, 4, 2000


def _one_dimension(coef, steps, dtype=np.float64):
    """RUNS runs of beta = u^2 - v^2 on a column of ones: (Problem, Lasso, verdict, log w^2 half way, now)."""
    rng, sigma = np.random.Generator(np.random.Philox(7)), math.sqrt(2 * LAM / (2 * LR))
    w, total, noises, logs = np.full((2, RUNS), 0.1, dtype), np.zeros(RUNS), np.zeros(RUNS), []
    for k in range(steps):
        if k == steps // 2:
            logs.append(2 * np.log(np.abs(w.astype(float))))
        beta, noise = w[0] ** 2 - w[1] ** 2, rng.standard_normal(RUNS)
        total, noises = total + beta, noises + noise
        step = 2 * LR * (beta - (coef + LAM) - sigma * noise)  # noise of the mean gradient: sigma
        w = (w * (1 - np.stack((step, -step)))).astype(dtype)
    logs.append(2 * np.log(np.abs(w.astype(float))))
    X, y = np.ones((ROWS, 1)), np.full(ROWS, coef + LAM)
    lasso = weighted_lasso(X, y, torch.full((1,), LAM, dtype=F64))
    mean, noise = (torch.from_numpy(v / steps)[:, None] for v in (total, sigma * noises))
    before, now = (torch.from_numpy(v.T[:, :, None]) for v in logs)
    power = torch.full((RUNS, 1), ROWS * sigma**2 / steps, dtype=F64)  # of a label, known here
    lam = lasso.penalty.expand(RUNS, 1)
    found = verdict(X, mean - (coef + LAM) - noise, mean, lam, power, fallen(now, before, steps, steps // 2))
    return X, y, lasso, found, fallen(now, before, steps, steps // 2)


@pytest.mark.parametrize("coef", [0.0005, 0.01, 0.02, 0.05])
def test_a_small_coefficient_is_never_lost_for_good(coef):
    """lambda = .1: called off at most LEVEL of the time, undecided as often as predicted; by falls alone it is lost."""
    steps = 20_000
    X, y, lasso, found, fell = _one_dimension(coef, steps)
    assert int(found.complement.sum()) <= _limits(LEVEL, RUNS)[1]
    chance = float(undecided_probability(X, y, lasso, rate=2 * LR, steps=steps))
    spread = 0.08  # a third of an sd: what the start and the last excursion leave of lambda widens the bounds
    low, high = _limits(max(chance - spread, 0.0), RUNS)[0], _limits(min(chance + spread, 1.0), RUNS)[1]
    assert low <= int(found.undecided.sum()) <= high
    if coef in (0.01, 0.02):
        assert float(fell.double().mean()) > 0.15  # the Gamma law's .34 and .23, of looks further apart


def test_the_falls_of_a_run_are_those_of_its_gamma_law():
    """s = .25: looks half a run, 40 / (a lr lambda), apart are independent; within a tenth, finite step and start."""
    *_, lasso, _, fell = _one_dimension(0.05, 20_000)
    chance = float(GammaLaw(lasso.coef, 2 * lasso.penalty).falls(8.0))
    low, high = _limits(0.9 * chance, RUNS)[0], _limits(1.1 * chance, RUNS)[1]
    assert low <= int(fell.sum()) <= high


def test_a_coordinate_beyond_its_error_is_off():
    """|g| = .5 lambda, 5.6 sd: off in all runs but what Phi(2.33 - 5.6) leaves."""
    *_, found, _ = _one_dimension(-0.05, 20_000)
    assert int(found.complement.sum()) >= RUNS - _limits(float(stats.norm.cdf(SIGMAS - 0.5 * math.sqrt(40))), RUNS)[1]


DATA = sparse_regression(30, 40, 3, seed=2)
LOOKS = [12_500 * 2**k for k in range(5)]


@cache
def _run(noise=1.0, dtype=F64, antithetic=False, parametrisation="difference"):
    """(columns of measure at each look, the verdict's inputs): lambda about .1, trained with `noise` times the std."""
    lr, std, replicas = 0.01, math.sqrt(300.0), 8
    penalty = effective_penalty(DATA.X, lr=lr, std=std, parametrisation=parametrisation, antithetic=antithetic)
    reference = weighted_lasso(DATA.X, DATA.y, penalty, positive=parametrisation == "square")
    model = DiagonalLinear(DATA.d, replicas=replicas, dtype=dtype, parametrisation=parametrisation)
    source = GaussianNoise(noise * std)
    optimizer = LabelNoiseSGD(model.parameters(), lr=lr, noise=Antithetic(source) if antithetic else source, seed=0)
    problem = Problem(DATA.X.to(dtype), DATA.y.to(dtype))
    shots = [s for s in train(model, optimizer, problem, LOOKS[-1], snapshots=LOOKS) if s.scheduled]
    return [measure(problem, shot, reference, penalty) for shot in shots], shots, reference


def test_float32_decides_like_float64():
    """Where log w^2 has met float32's floor it falls no more, nor does it stay below any level."""
    (double, _, reference), (single, shots, _) = _run(), _run(dtype=torch.float32)
    for name in ("support_f1", "support_size", "support_undecided"):
        assert [row[name].tolist() for row in single] == [row[name].tolist() for row in double]
    assert double[-1]["support_f1"].tolist() == [1.0] * 8
    last = shots[-1]
    fell = fallen(last.log_weights, last.earlier_log_weights, last.step, last.earlier_step)
    stays = ~fell & (last.log_weights > -60).any(-2)
    assert int(stays[:, ~reference.support].sum()) > 0  # what called them on


@pytest.mark.parametrize(
    "setting", [{}, {"antithetic": True}, {"parametrisation": "square"}, {"parametrisation": "hadamard"}]
)
def test_no_verdict_is_reversed_and_the_undecided_become_few(setting):
    rows, _, reference = _run(**setting)
    wrong = [int((row["support_size"] * (1 - row["support_precision"])).sum()) for row in rows]
    assert sum(wrong) == 0
    missing = torch.stack([row["support_undecided"] for row in rows]).sum(1)
    expected = 0.0
    if "antithetic" not in setting:
        rate = 0.01 if setting.get("parametrisation") == "hadamard" else 0.02
        expected = 8 * float(undecided_probability(DATA.X, DATA.y, reference, rate=rate, steps=LOOKS[-1]).sum())
    assert float(missing[-1]) <= stats.poisson.isf(SURE, expected + 1)
    assert float(missing[-1]) <= float(missing[0])
    assert [float(row["support_recall"].mean()) for row in rows[2:]] == [1.0] * 3
    assert int(rows[-1]["support_size"][0]) == int(reference.support.sum())


def test_the_rule_fails_a_run_with_another_penalty():
    """Noise three times what was predicted: nine times the penalty, and the support is not claimed."""
    rows, _, _ = _run(noise=3.0)
    assert float(rows[-1]["support_f1"].mean()) < 0.9
