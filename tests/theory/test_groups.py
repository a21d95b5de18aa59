"""Groups: the penalty known beforehand, by identities and a simulation of its own; what predict and evaluate say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from groups import random_problem, ratios, simulate

from lntrain import (
    Antithetic,
    DiagonalLinear,
    DivergenceError,
    GaussianNoise,
    LabelNoiseSGD,
    Problem,
    effective_penalty,
    evaluate,
    predict,
    train,
    weighted_lasso,
)
from lntrain.lasso import GroupLassoSolution, group_lasso
from lntrain.penalty import group_penalty
from lntrain.theory.dynamics import Dynamics
from lntrain.theory.groups import stable_at

SIZES, N = (3, 1, 2), 12
X, Y, LABELS = random_problem(N, SIZES, 3)
X[:, 3:] *= 0.5
PROBLEM = Problem(X, Y)
ALPHA = 0.05  # a lr std^2 / 2b


def _std(lr, alpha=ALPHA, rows=N):
    return float(np.sqrt(2 * rows * alpha / lr))


def _pairs(std=None):
    return Antithetic(GaussianNoise(_std(0.005) if std is None else std))


def _model(noise=20.0, lr=0.005, groups=LABELS, replicas=None, **options):
    model = DiagonalLinear(len(LABELS), groups=groups, init=0.3, replicas=replicas)
    return model, LabelNoiseSGD(model.parameters(), lr=lr, noise=noise, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.5, "nesterov": True, "antithetic": True},
        {"weight_decay": 0.1},
        {"batch_size": 4, "loss_constant": 0.25},
        {"batch_size": 4, "sampling": "noisy_rows", "weight_decay": 0.1, "loss_constant": 1.0},
    ],
    ids=str,
)
def test_groups_of_one_are_hadamards_lasso(options):
    """alpha sqrt(c + omega) (c + omega)^(1/2) |beta| = alpha c + weight_decay / a, exactly."""
    penalty = group_penalty(X, range(6), lr=0.01, std=8.0, **options)
    lam = effective_penalty(X, lr=0.01, std=8.0, parametrisation="hadamard", **options)
    c = torch.from_numpy((X**2).mean(0)) if penalty.metric is None else torch.stack([K[0, 0] for K in penalty.metric])
    torch.testing.assert_close(penalty.weights * c.sqrt(), lam, rtol=1e-13, atol=0)
    found = group_lasso(X, Y, penalty.weights, range(6), metric=penalty.metric)
    torch.testing.assert_close(found.coef, weighted_lasso(X, Y, lam).coef, rtol=1e-8, atol=1e-10)


def test_the_penalty_is_the_least_trace_at_fixed_beta():
    """(alpha/2) (v.C v + u^2 tr C) + (weight_decay/2a) (u^2 + |v|^2) over u, by a fine grid of u."""
    v = np.array([0.3, -1.0, 0.5])
    C = X[:, :3].T @ X[:, :3] / N
    for decay in (0.0, 0.2):
        penalty = group_penalty(X, LABELS, lr=0.01, std=8.0, weight_decay=decay)
        alpha = 0.01 * 64 / (2 * N)
        u2 = np.exp(np.linspace(-3, 3, 20_001))
        trace = alpha / 2 * (v @ C @ v / u2 + u2 * np.trace(C)) + decay / 2 * (u2 + v @ v / u2)
        K = torch.from_numpy(C) if penalty.metric is None else penalty.metric[0]
        said = penalty.weights[0] * torch.sqrt(torch.from_numpy(v) @ K @ torch.from_numpy(v))
        assert trace.min() == pytest.approx(float(said), rel=1e-7)


def _seen(lr, seeds, **options):
    """(seeds, G) measured over predicted block gradients, at the std of ALPHA."""
    step = lr * (1 - options.get("momentum", 0.0))
    std = _std(lr, rows=options.get("batch_size", N))
    penalty = group_penalty(X, LABELS, lr=step, std=std, **{"antithetic": True, **options})
    runs = [simulate(X, Y, LABELS, lr=step, std=std, steps=int(50 / lr / ALPHA), seed=s, **options) for s in seeds]
    return np.array([ratios(X, Y, LABELS, mean, noise, penalty) for mean, noise in runs])


def test_the_blocks_gradients_are_the_predicted_ones_as_lr_falls():
    """Antithetic noise, penalty fixed: 2 ratio(lr/2) - ratio(lr) is 1 within 3 standard errors and twice the square
    of what halving lr changes, the size of the second order."""
    active = _active()
    assert active.tolist() == [True, True, False]
    coarse, fine = _seen(0.01, range(6))[:, active], _seen(0.005, range(6))[:, active]
    change = np.abs(coarse.mean(0) - fine.mean(0))
    error = np.sqrt((4 * fine.var(0, ddof=1) + coarse.var(0, ddof=1)) / 6)
    assert (change > 5 * error / 3).all()  # the first order in lr is there
    assert (np.abs(2 * fine.mean(0) - coarse.mean(0) - 1) < 3 * error + 2 * change**2).all()


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.5},
        {"momentum": 0.5, "nesterov": True},
        {"momentum": 0.5, "antithetic": False},
        {"weight_decay": 0.05},
        {"batch_size": 6},
        {"antithetic": False},
    ],
    ids=str,
)
def test_momentum_decay_and_batches_act_as_in_hadamards_formula(options):
    """To the finite step's bias, 5 % here for whole batches (10 % for batches): a missing factor is .75 or less."""
    allowed = 0.12 if "batch_size" in options else 0.07
    assert (np.abs(_seen(0.005, [1], **options)[:, _active()] - 1) < allowed).all()


def _active():
    return group_lasso(X, Y, group_penalty(X, LABELS, lr=0.005, std=_std(0.005)).weights, LABELS).active.numpy()


def test_predict_gives_the_weights_and_the_certified_reference():
    model, optimizer = _model(Antithetic(GaussianNoise(8.0)), momentum=0.5, weight_decay=0.1)
    found = predict(model, optimizer, PROBLEM, batch_size=4)
    told = {"momentum": 0.5, "weight_decay": 0.1, "antithetic": True, "batch_size": 4}
    penalty = group_penalty(PROBLEM, LABELS, lr=0.005, std=8.0, **told)
    torch.testing.assert_close(found.weights, penalty.weights, rtol=0, atol=0)
    assert isinstance(found.reference, GroupLassoSolution)
    assert found.reference.gap <= 1e-6
    expected = group_lasso(X, Y, penalty.weights, LABELS, metric=penalty.metric)
    torch.testing.assert_close(found.reference.coef, expected.coef)
    assert bool(found.bias.isnan().all())
    assert any("drawing rows" in note for note in found.notes)
    assert not any("iid noise" in note for note in found.notes)
    with pytest.raises(ValueError, match="of groups, no Lasso's"):
        _ = found.penalty
    with pytest.raises(ValueError, match="no distance is predicted for the penalty of groups"):
        found.expected_distance(100)


def test_iid_noise_and_too_large_a_step_are_notes():
    notes = predict(*_model(GaussianNoise(_std(0.005))), PROBLEM).notes
    assert any("Antithetic noise, or a smaller penalty" in note for note in notes)
    assert not any("go on moving" in note for note in notes)  # the group left out is of two
    alone = predict(*_model(GaussianNoise(_std(0.005)), groups=range(6)), PROBLEM).notes
    assert not any("iid" in note for note in alone)
    everything = predict(*_model(GaussianNoise(_std(0.005, alpha=9.0)), groups=[range(6)]), PROBLEM).notes
    assert any("groups of three and more that the reference leaves out go on moving" in note for note in everything)
    assert any("expect divergence" in note for note in predict(*_model(_pairs(1.0), lr=2.0), PROBLEM).notes)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"momentum": 0.5, "nesterov": True}], ids=str)
def test_the_stable_step_of_groups_of_one_is_hadamards(options):
    found = predict(*_model(_pairs(), groups=range(6), **options), PROBLEM)
    hadamard = DiagonalLinear(6, parametrisation="hadamard", init=1e-3)
    optimizer = LabelNoiseSGD(hadamard.parameters(), lr=0.005, noise=_pairs(), **options)
    plain = predict(hadamard, optimizer, PROBLEM)
    torch.testing.assert_close(found.weights * torch.from_numpy((X**2).mean(0)).sqrt(), plain.weights)
    top = np.linalg.eigvalsh(_hessian(X, found.reference.coef.numpy()))[-1]
    slack = (1 + options.get("momentum", 0)) / (1 + 2 * options.get("momentum", 0) if "nesterov" in options else 1)
    dynamics = Dynamics("hadamard", **options)
    assert stable_at(PROBLEM, found.reference, dynamics) == pytest.approx(2 * slack / top, rel=1e-9)
    assert found.stable_lr == pytest.approx(plain.stable_lr, rel=1e-9)


@pytest.mark.parametrize("std", [300.0, 1e4])
def test_noise_that_shakes_weights_apart_is_no_stable_step(std):
    """Its reference is 0, where no curvature bounds the step."""
    for options in ({"groups": range(6)}, {"groups": LABELS}):
        model, optimizer = _model(GaussianNoise(std), lr=0.01, **options)
        found = predict(model, optimizer, PROBLEM)
        assert not found.reference.active.any()
        assert any("expect divergence" in note for note in found.notes)
        with pytest.raises(DivergenceError):
            list(train(model, optimizer, PROBLEM, 200))


def _hessian(X, beta):
    """S^(1/2) J J^T S^(1/2) has the eigenvalues of J^T S J: for u = |v| = sqrt |beta|, J J^T = 2 |beta|."""
    A = X * np.sqrt(2 * np.abs(beta))
    return A @ A.T / len(X)


def test_training_leaves_the_reference_just_above_the_stable_step():
    """The linear part of a step at the reference: its spectral radius passes 1 at stable_lr."""
    model, optimizer = _model(_pairs())
    found = predict(model, optimizer, PROBLEM)
    coef, C = found.reference.coef, PROBLEM.X.mT @ PROBLEM.X / N
    with torch.no_grad():
        for g in torch.nonzero(found.reference.active)[:, 0].tolist():
            own = torch.from_numpy(g == LABELS)
            block = C[own][:, own]
            u2 = (coef[own] @ block @ coef[own] / block.trace()).sqrt()
            model.u[g], model.v[own] = u2.sqrt(), coef[own] / u2.sqrt()
        for g in torch.nonzero(~found.reference.active)[:, 0].tolist():
            model.u[g] = 0.0
    y = PROBLEM.X @ coef  # without residual, the Hessian is J^T S J
    groups, weights = torch.from_numpy(LABELS), torch.cat([model.u.detach(), model.v.detach()])

    def loss(w):
        return (PROBLEM.X @ (w[:3][groups] * w[3:]) - y).square().mean() / 2

    curvature = torch.autograd.functional.hessian(loss, weights)
    step = stable_at(PROBLEM, found.reference, Dynamics("hadamard"))
    assert step == pytest.approx(2 / float(torch.linalg.eigvalsh(curvature)[-1]), rel=1e-8)


def test_evaluate_at_the_reference_is_perfect_and_claims_no_l1():
    model, optimizer = _model(_pairs(), replicas=2)
    found = predict(model, optimizer, PROBLEM)
    *_, last = train(model, optimizer, PROBLEM, 4)
    at = found.reference.coef.expand(2, -1)
    last = dataclasses.replace(last, mean_coef=at, tail_coef=at, coef=at, mean_noise=0 * last.mean_noise)
    row = evaluate(PROBLEM, last, found)
    for name in ("distance_mean", "distance_last", "distance_compensated", "kkt_residual", "suboptimality_mean"):
        assert row[name] == pytest.approx(0, abs=1e-6)
    assert row["lambda_ratio"] == pytest.approx(1, rel=1e-6)
    assert not any("l1" in name or "support" in name for name in row)
    assert evaluate(PROBLEM, last, found.reference) == row
    with pytest.raises(ValueError, match="carries its own"):
        evaluate(PROBLEM, last, found, penalty=1.0)


def test_evaluate_measures_blocks():
    """The residual of a block by hand, off the reference; and labels that move are compensated for."""
    model, optimizer = _model(_pairs())
    found = predict(model, optimizer, PROBLEM)
    *_, last = train(model, optimizer, PROBLEM, 4)
    beta, noise = found.reference.coef + 0.05, torch.linspace(-0.1, 0.1, N, dtype=torch.float64)
    last = dataclasses.replace(last, mean_coef=beta, tail_coef=beta, mean_noise=noise, tail_noise=noise)
    row, worst, ratios_ = evaluate(PROBLEM, last, found), [], []
    h = PROBLEM.X.mT @ (PROBLEM.X @ beta - PROBLEM.y - noise) / N
    for g, lam in enumerate(found.weights.tolist()):
        own = g == LABELS
        C = (PROBLEM.X.mT @ PROBLEM.X / N)[own][:, own]
        towards = C @ beta[own] / (beta[own] @ C @ beta[own]).sqrt()
        if found.reference.active[g]:
            left = h[own] + lam * towards
            worst.append(float((left @ torch.linalg.solve(C, left)).sqrt()) / lam)
            ratios_.append(float(-(h[own] @ beta[own]) / (beta[own] @ C @ beta[own]).sqrt()) / lam)
        else:
            worst.append(max(float((h[own] @ torch.linalg.solve(C, h[own])).sqrt()) / lam - 1, 0.0))
    assert row["kkt_residual"] == pytest.approx(max(worst), rel=1e-9)
    assert row["lambda_ratio"] == pytest.approx(np.mean(ratios_), rel=1e-9)
    moved = group_lasso(X, Y + noise.numpy(), found.weights, LABELS).coef
    assert row["distance_compensated"] == pytest.approx(float((beta - moved).norm() / moved.norm()), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: group_penalty(X, [[0, 1]], lr=0.1, std=1.0), "groups lack column 2"),
        (lambda: group_penalty(X, LABELS, lr=0.0, std=1.0), "lr=0.0"),
        (lambda: group_penalty(X, LABELS, lr=0.1, std=0.0), "std=0.0"),
        (lambda: group_penalty(X * np.nan, LABELS, lr=0.1, std=1.0), "not finite"),
        (lambda: predict(*_model(lr=[0.1, 0.2], replicas=2), PROBLEM), "lr is one a replica"),
    ],
)
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_adaptive_optimisers_and_groups_are_refused_together():
    model, _ = _model()
    with pytest.raises(ValueError, match="Adam and groups: give SGD"):
        predict(model, torch.optim.Adam(model.parameters(), lr=0.01), PROBLEM, noise=1.0)
