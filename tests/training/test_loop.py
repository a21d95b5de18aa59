"""train: a NumPy twin step for step, what the means run over, resumes, snapshots, divergence, any module."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from lntrain import Antithetic, DiagonalLinear, GaussianNoise, LabelNoiseSGD, Problem, train
from lntrain.noise.philox import normals, sampled_rows
from lntrain.noise.schedules import Cosine, PowerDecay, StepDecay

SAMPLING = {
    "full": {},
    "replacement": {"batch_size": 3},
    "without": {"batch_size": 3, "sampling": "without"},
    "shuffle": {"batch_size": 5, "sampling": "shuffle"},
    "noisy_rows": {"batch_size": 2, "sampling": "noisy_rows"},
}
MOMENTUM = {
    "plain": {},
    "heavy ball": {"momentum": 0.9},
    "nesterov": {"momentum": 0.7, "nesterov": True},
    "dampening": {"momentum": 0.5, "dampening": 0.4, "weight_decay": 0.01},
}
LR, STD, SEED, INIT = 0.002, 1.5, 5, 0.3


def _start(problem, parametrisation="difference", noise=None, **options):
    options = {"lr": LR, "noise": GaussianNoise(STD) if noise is None else noise, "seed": SEED, **options}
    replicas = options.pop("replicas", None)
    model = DiagonalLinear(problem.d, parametrisation=parametrisation, init=INIT, replicas=replicas)
    return model, LabelNoiseSGD(model.parameters(), **options)


def _twin(problem, steps, parametrisation, batch_size=None, sampling=None, lrs=None, scales=None, **opt):
    """Hand-written NumPy SGD on w+^2 - w-^2, w^2 or u v: (coef, mean coef, mean noise)."""
    X, y, n = problem.X.numpy(), problem.y.numpy(), problem.n
    sampling = sampling or ("full" if batch_size is None else "replacement")
    b = batch_size or n
    z = normals(SEED, 0, 0, steps, b).astype(float) * STD
    if sampling != "full":
        rows = sampled_rows(SEED, 0, 0, steps, n=n, batch_size=b, sampling=sampling)
    w = np.full((2, problem.d), INIT)
    if parametrisation == "hadamard":
        w = np.array([[2 * INIT], [0.0]]) * np.ones(problem.d)
    mu, tau, wd = (opt.get(k, 0.0) for k in ("momentum", "dampening", "weight_decay"))
    coefs, noises, buffer = [], [], None
    for k in range(steps):
        beta = {"difference": w[0] ** 2 - w[1] ** 2, "square": w[0] ** 2, "hadamard": w[0] * w[1]}[parametrisation]
        noise = np.zeros(n)
        if sampling == "full":
            noise = z[k]
            g = X.T @ (X @ beta - y - noise) / n
        else:
            np.add.at(noise, rows[k], z[k] * n / b)
            Xb, yb = X[rows[k]], y[rows[k]] + z[k]
            g = Xb.T @ (Xb @ beta - yb) / b if sampling != "noisy_rows" else X.T @ (X @ beta - y - noise) / n
        coefs.append(beta)
        noises.append(noise)
        slope = {"difference": [2 * w[0], -2 * w[1]], "square": [2 * w[0], 0 * w[1]], "hadamard": [w[1], w[0]]}
        d = g * np.array(slope[parametrisation]) + wd * w
        if mu:
            buffer = d.copy() if buffer is None else mu * buffer + (1 - tau) * d
            d = d + mu * buffer if opt.get("nesterov") else buffer
        w = w - (LR if lrs is None else LR * float(lrs(k))) * d
    beta = {"difference": w[0] ** 2 - w[1] ** 2, "square": w[0] ** 2, "hadamard": w[0] * w[1]}[parametrisation]
    return beta, np.mean(coefs, 0), np.mean(noises, 0)


@pytest.mark.parametrize("momentum", list(MOMENTUM.values()), ids=list(MOMENTUM))
@pytest.mark.parametrize("sampling", list(SAMPLING.values()), ids=list(SAMPLING))
@pytest.mark.parametrize("parametrisation", ["difference", "square", "hadamard"])
def test_train_is_hand_written_sgd(problem, parametrisation, sampling, momentum):
    """300 steps cross a block of partial sums; half the mean square makes the gradient in beta g itself."""
    *_, last = train(*_start(problem, parametrisation, **momentum), problem, 300, engine="torch", **sampling)
    for got, expected in zip(
        (last.coef, last.mean_coef, last.mean_noise),
        _twin(problem, 300, parametrisation, **sampling, **momentum),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    assert last.coef.abs().max() > 0.1


@pytest.mark.parametrize("schedule", [StepDecay((5, 20), 0.5), Cosine(40), PowerDecay(1.0, 10.0)], ids=repr)
def test_lr_schedules_scale_the_step(problem, schedule):
    *_, last = train(*_start(problem), problem, 50, lr_schedule=schedule, engine="torch")
    expected, mean, _ = _twin(problem, 50, "difference", lrs=schedule)
    np.testing.assert_allclose(last.coef, expected, rtol=1e-12)
    np.testing.assert_allclose(last.mean_coef, mean, rtol=1e-12)
    assert last.lr == pytest.approx(LR * float(schedule(50)))


def test_means_run_over_pre_step_values():
    """One column of ones, y = 1, no noise: beta_0 = .25, w <- w (1 - 2 lr (beta - 1)), twice, by hand."""
    problem = Problem([[1.0], [1.0]], [1.0, 1.0])
    model = DiagonalLinear(1, parametrisation="square", init=0.5)
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    snapshots = [s for s in train(model, plain, problem, 2, snapshots=[1, 2]) if s.scheduled]
    w1 = 0.5 * (1 - 0.2 * (0.25 - 1))
    w2 = w1 * (1 - 0.2 * (w1**2 - 1))
    assert [float(s.coef) for s in snapshots] == pytest.approx([w1**2, w2**2], rel=1e-14)
    assert [float(s.mean_coef) for s in snapshots] == pytest.approx([0.25, (0.25 + w1**2) / 2], rel=1e-14)
    assert float(snapshots[1].loss) == pytest.approx((w2**2 - 1) ** 2 / 2, rel=1e-13)
    assert bool((snapshots[1].mean_noise == 0).all())


@pytest.mark.parametrize("loss_constant", [0.25, 1.0])
def test_loss_scale_scales_the_step(problem, loss_constant):
    *_, one = train(*_start(problem, lr=LR / (2 * loss_constant)), problem, 40, loss_constant=loss_constant)
    *_, half = train(*_start(problem), problem, 40)
    torch.testing.assert_close(one.coef, half.coef, rtol=1e-12, atol=1e-14)
    assert float(one.loss) == pytest.approx(float(half.loss) * loss_constant / 0.5, rel=1e-11)


def _scheduled(run):
    return [s for s in run if s.scheduled]


def _same(a, b):
    for name in ("step", "lr", "std", "earlier_step", "scheduled"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("coef", "mean_coef", "mean_noise", "log_weights", "earlier_log_weights", "loss"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


STATES = {
    "full": ({}, {}),
    "batches, momentum": ({"momentum": 0.9}, {"batch_size": 3}),
    "epochs": ({}, {"batch_size": 5, "sampling": "shuffle"}),
    "antithetic": ({"noise": Antithetic(GaussianNoise(STD, PowerDecay(1.0, 50.0)))}, {"batch_size": 3}),
    "lr schedule": ({}, {"lr_schedule": Cosine(600)}),
    "replicas": ({"replicas": 3}, {"batch_size": 3, "sampling": "without"}),
}


@pytest.mark.parametrize(("optimizer", "options"), list(STATES.values()), ids=list(STATES))
@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_resuming_from_every_snapshot_is_bit_equal(problem, optimizer, options, engine):
    options = {**options, "engine": engine, "snapshots": [1, 7, 100, 255, 256, 257, 400, 511, 600]}
    whole = _scheduled(train(*_start(problem, **optimizer), problem, 600, **options))
    for k, snapshot in enumerate(whole):
        file = io.BytesIO()
        torch.save(snapshot.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        model, again = _start(problem, **{**optimizer, "seed": 99})  # the state's counts
        rest = _scheduled(train(model, again, problem, 600, state=state, **options))
        for a, b in zip(whole[k + 1 :] or whole[-1:], rest, strict=True):
            _same(a, b)


def test_a_snapshot_is_frozen_while_training_goes_on(problem):
    run = train(*_start(problem), problem, 20, snapshots=[10])
    first = next(s for s in run if s.scheduled)
    before = (first.coef.clone(), first.state_dict())
    list(run)
    assert torch.equal(first.coef, before[0])
    assert torch.equal(first.state_dict()["model"]["plus"], before[1]["model"]["plus"])


def test_replicas_equal_the_runs_alone(problem):
    *_, many = train(
        *_start(problem, seed=[1, 2], noise=GaussianNoise((1.0, 2.0)), replicas=2), problem, 300, batch_size=3
    )
    for r, (seed, std) in enumerate([(1, 1.0), (2, 2.0)]):
        *_, alone = train(*_start(problem, seed=seed, noise=GaussianNoise(std)), problem, 300, batch_size=3)
        torch.testing.assert_close(many.coef[r], alone.coef, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(many.mean_noise[r], alone.mean_noise, rtol=1e-12, atol=1e-13)
        assert float(many.loss[r]) == pytest.approx(float(alone.loss), rel=1e-11)


def test_one_lr_a_replica(problem):
    *_, many = train(*_start(problem, lr=[LR, LR / 2], seed=[SEED, SEED], replicas=2), problem, 100)
    for r, lr in enumerate((LR, LR / 2)):
        *_, alone = train(*_start(problem, lr=lr), problem, 100)
        torch.testing.assert_close(many.coef[r], alone.coef, rtol=1e-12, atol=1e-13)


def test_the_realised_mean_noise_telescopes_log_w(problem):
    """theory.md section 3: g(mean) + lambda sign = -(log beta(K) - log beta(0)) / (2 a lr K) + mean noise, + O(lr)."""
    gaps = []
    for lr in (0.004, 0.002, 0.001):
        steps = int(8 / lr)
        model, optimizer = _start(problem, "square", lr=lr, noise=GaussianNoise(1.0))
        start = model.log_weights[0].clone()
        *_, last = train(model, optimizer, problem, steps)
        X, n, a = problem.X, problem.n, 2.0
        g = X.T @ (X @ last.mean_coef - problem.y - last.mean_noise) / n
        drift = (last.log_weights[0] - start) / (2 * a * lr * steps)
        gaps.append(float((g + drift).abs().max()))
    assert gaps[0] < 0.2
    for finer, coarser in zip(gaps[1:], gaps[:-1], strict=True):
        assert 0.3 < finer / coarser < 0.75  # halves with lr


@pytest.mark.parametrize("replicas", [None, 3])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_the_tail_mean_is_the_mean_over_the_second_half(problem, replicas, antithetic, engine):
    noise = Antithetic(GaussianNoise(0.5)) if antithetic else GaussianNoise(0.5)

    def run():
        model = DiagonalLinear(problem.d, replicas=replicas)
        optimizer = LabelNoiseSGD(model.parameters(), lr=0.01, noise=noise, seed=2)
        return model, optimizer

    every = {s.step: s for s in train(*run(), problem, 602, engine=engine, snapshots=range(1, 603)) if s.scheduled}
    start = 300 if antithetic else 301  # whole pairs
    assert every[602].earlier_step == start
    later = torch.stack([every[k].coef for k in range(start, 602)])  # coef after k steps is step k's pre-step value
    torch.testing.assert_close(every[602].tail_coef, later.mean(0), rtol=1e-10, atol=1e-12)
    weights = torch.stack([every[602].mean_noise * 602 - every[start].mean_noise * start]) / (602 - start)
    torch.testing.assert_close(every[602].tail_noise, weights[0], rtol=1e-9, atol=1e-12)
    if antithetic:
        assert float(every[602].tail_noise.abs().max()) < 1e-12
    *_, half = train(*run(), problem, 400, engine=engine)
    *_, resumed = train(*run(), problem, 602, engine=engine, state=half.state_dict(), snapshots=[602])
    *_, whole = train(*run(), problem, 602, engine=engine, snapshots=[400, 602])
    assert resumed.step == whole.step == 602
    torch.testing.assert_close(resumed.coef, whole.coef, rtol=0, atol=0)  # one machine, one path: bit for bit


def test_a_state_from_before_tail_means_still_goes_on(problem):
    model = DiagonalLinear(problem.d)
    optimizer = LabelNoiseSGD(model.parameters(), lr=0.01, noise=GaussianNoise(0.5))
    *_, half = train(model, optimizer, problem, 200)
    state = half.state_dict()
    state["history"] = [(kept["step"], kept["log_weights"]) for kept in state["history"]]
    *_, last = train(model, optimizer, problem, 300, state=state)
    torch.testing.assert_close(last.tail_coef, last.mean_coef)  # told by the docstring: no sums, no tail
