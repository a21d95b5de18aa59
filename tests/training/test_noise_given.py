"""train(..., noise=): label noise for any torch optimiser, with the numbers that a LabelNoiseSGD draws."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from lntrain import (
    Antithetic,
    DiagonalLinear,
    DivergenceError,
    GaussianNoise,
    LabelFlips,
    LabelNoiseSGD,
    ParameterNoise,
    RademacherNoise,
    sparse_regression,
    train,
)
from lntrain.noise import PowerDecay
from lntrain.noise.philox import normals

PROBLEM = sparse_regression(12, 7, 2, column_scales=(0.5, 2.0), seed=1)
OPTIMISERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.01),
}
PAIRS = Antithetic(GaussianNoise(2.0)), Antithetic(RademacherNoise(2.0))


def _run(steps, optimiser="adam", *, replicas=None, init=0.3, model=None, **options):
    model = model or DiagonalLinear(PROBLEM.d, init=init, replicas=replicas)
    options = {"noise": 2.0, "seed": 3, "snapshots": [steps], **options}
    return train(model, OPTIMISERS[optimiser](model.parameters()), PROBLEM, steps, **options)


def _last(*args, **options):
    return list(_run(*args, **options))[-1]


@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_adam_step_for_step_against_numpy(engine):
    X, y, n = PROBLEM.X.numpy(), PROBLEM.y.numpy(), PROBLEM.n
    z = normals(3, 0, 0, 300, n).astype(float) * 2.0
    w, m, v, coefs = np.full((2, PROBLEM.d), 0.3), 0.0, 0.0, []
    for k in range(300):
        coefs.append(w[0] ** 2 - w[1] ** 2)
        g = X.T @ (X @ coefs[-1] - y - z[k]) / n
        G = np.array([2 * w[0] * g, -2 * w[1] * g])
        m, v = 0.9 * m + 0.1 * G, 0.999 * v + 0.001 * G**2
        w = w - 0.01 * m / (1 - 0.9 ** (k + 1)) / (np.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8)
    last = _last(300, engine=engine)
    np.testing.assert_allclose(last.coef, w[0] ** 2 - w[1] ** 2, rtol=1e-9)
    np.testing.assert_allclose(last.mean_coef, np.mean(coefs, 0), rtol=1e-9)
    np.testing.assert_allclose(last.mean_noise, z.mean(0), rtol=1e-9)
    assert (last.std, last.engine) == (2.0, engine)


@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize("noise", [RademacherNoise(2.0), Antithetic(GaussianNoise(2.0, PowerDecay(0.5, start=3)))])
@pytest.mark.parametrize("batch", [{}, {"batch_size": 3}, {"batch_size": 3, "sampling": "noisy_rows"}], ids=str)
def test_sgd_draws_what_labelnoisesgd_draws(engine, noise, batch):
    given = _last(70, "sgd", noise=noise, engine=engine, **batch)
    model = DiagonalLinear(PROBLEM.d, init=0.3)
    own = LabelNoiseSGD(model.parameters(), lr=0.01, momentum=0.9, noise=noise, seed=3)
    *_, carried = train(model, own, PROBLEM, 70, engine=engine, snapshots=[70], **batch)
    assert given.engine == carried.engine == engine
    assert given.std == carried.std
    for name in ("coef", "mean_coef", "mean_noise", "log_weights"):
        torch.testing.assert_close(getattr(given, name), getattr(carried, name), rtol=0, atol=0)


def test_which_optimisers_are_fused():
    found = {name: _last(10, name).engine for name in OPTIMISERS if name != "lbfgs"}  # which train refuses
    assert found == {"adam": "fused", "adamw": "fused", "sgd": "fused", "rmsprop": "torch", "adagrad": "torch"}
    with pytest.raises(ValueError, match="the optimizer is Adagrad"):
        _run(10, "adagrad", engine="fused")


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "rmsprop", "sgd"])
@pytest.mark.parametrize("options", [{}, {"replicas": 3}, {"replicas": 2, "seed": [5, 9], "batch_size": 4}], ids=str)
def test_a_run_resumes_bit_for_bit(optimiser, options):
    whole = _last(62, optimiser, **options)
    stored = io.BytesIO()
    torch.save(_last(31, optimiser, **options).state_dict(), stored)
    stored.seek(0)
    state = torch.load(stored, weights_only=True)
    resumed = _last(62, optimiser, state=state, **options)
    for name in ("coef", "mean_coef", "mean_noise"):
        torch.testing.assert_close(getattr(resumed, name), getattr(whole, name), rtol=0, atol=0)


def test_replicas_have_noise_of_their_own_and_the_one_they_have_alone():
    both = _last(40, "adagrad", replicas=2, seed=[5, 9], noise=GaussianNoise((1.0, 2.0)))
    for r, (seed, std) in enumerate([(5, 1.0), (9, 2.0)]):
        alone = _last(40, "adagrad", seed=seed, noise=std)
        torch.testing.assert_close(both.coef[r], alone.coef, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(both.mean_noise[r], alone.mean_noise, rtol=1e-12, atol=1e-14)
    shared = _last(40, replicas=2).mean_noise
    assert not torch.equal(shared[0], shared[1])


def test_a_seed_without_noise_draws_other_rows():
    first, second = (_last(20, noise=None, batch_size=3, seed=seed).coef for seed in (0, 1))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, _last(20, noise=None, batch_size=3, seed=None).coef, rtol=0, atol=0)


def _grouped(begin):
    """A model of groups 0..begin-1 and the rest, or, for 2, the state of such a model's run."""
    model = DiagonalLinear(PROBLEM.d, groups=[range(begin), range(begin, PROBLEM.d)])
    return _last(5, model=model).state_dict() if begin == 2 else model


@pytest.mark.parametrize("noise", [2, np.float32(2), np.int64(2), torch.tensor(2.0), np.array(2.0)], ids=repr)
def test_a_number_is_a_number(noise):
    torch.testing.assert_close(_last(9, noise=noise).coef, _last(9).coef, rtol=0, atol=0)


@pytest.mark.parametrize("seed", [np.array([5, 9]), torch.tensor([5, 9]), (5, 9)], ids=["numpy", "torch", "tuple"])
def test_seeds_are_given_in_any_form(seed):
    own = LabelNoiseSGD([torch.ones(2, requires_grad=True)], seed=seed)
    assert own.param_groups[0]["seed"] == [5, 9]
    expected = _last(9, replicas=2, seed=[5, 9]).coef
    torch.testing.assert_close(_last(9, replicas=2, seed=seed).coef, expected, rtol=0, atol=0)


def test_a_snapshots_std_is_the_noises():
    assert _last(5, noise=0.1).std == 0.1
    assert _last(5, noise=1e200).std == 1e200


def test_advice_on_divergence_is_sgds_alone():
    model = DiagonalLinear(PROBLEM.d, init=0.3)
    for make, says in ((torch.optim.Adagrad, "; take a smaller lr$"), (torch.optim.SGD, "a stable lr")):
        with pytest.raises(DivergenceError, match=says):
            list(train(model, make(model.parameters(), lr=1e9), PROBLEM, 50))


def test_any_module_is_trained():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(PROBLEM.d, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double()
    assert _last(5, model=net).mean_noise.abs().max() > 0


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: _run(5, noise=LabelFlips(0.1, 2)), "labels need numbers added"),
        (lambda: _run(5, noise=ParameterNoise(1.0)), "labels need numbers added"),
        (lambda: _run(5, noise="much"), "must be a number"),
        (lambda: _run(5, seed=-1), "seed=-1 must be a whole number"),
        (lambda: _run(5, seed=[1, 2]), "seed holds 2 values"),
        (lambda: _run(5, noise=GaussianNoise((1.0, 2.0))), "std holds 2 values"),
        (lambda: _run(9, state=_last(5).state_dict(), noise=1.0), r"std=1.0\)' differs from the state's"),
        (lambda: _run(9, state=_last(5).state_dict(), seed=4), "seed='4' differs from the state's '3'"),
        (lambda: _run(9, "sgd", state=_last(5).state_dict()), "optimizer='SGD' differs from the state's 'Adam'"),
        (lambda: _run(9, state=_last(5, noise=PAIRS[0]).state_dict(), noise=PAIRS[1]), "of RademacherNoise"),
        (lambda: _run(9, state=_grouped(2), model=_grouped(3)), "groups=.* differs from the state's"),
        (lambda: _run(9, state=7), "state is a int"),
        (lambda: _run(5, "lbfgs"), "LBFGS asks for a closure"),
        (lambda: train(DiagonalLinear(PROBLEM.d), 3, PROBLEM, 5), "optimizer is a int"),
        (lambda: _run(5, seed=np.array([1, 2])), "seed holds 2 values"),
        (lambda: _run(5, seed=torch.tensor([1.5])), "seed=1.5 must be a whole number"),
        (lambda: _run(5, seed=[[1]]), r"seed=\[1\] must be a whole number"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(build, says):
    with pytest.raises(ValueError, match=says) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [{"noise": 1.0}, {"seed": 1}, {"noise": 0.0}], ids=str)
def test_a_labelnoisesgd_carries_its_own(given):
    model = DiagonalLinear(PROBLEM.d)
    with pytest.raises(ValueError, match="a LabelNoiseSGD carries its own"):
        train(model, LabelNoiseSGD(model.parameters(), noise=1.0), PROBLEM, 5, **given)
