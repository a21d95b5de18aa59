"""Noise in the column space of X: the law of every gradient exactly, one stream in any slice, refusals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_array

from lntrain import (
    Antithetic,
    ColumnSpaceNoise,
    DiagonalLinear,
    LabelNoiseSGD,
    Problem,
    effective_penalty,
    predict,
    sparse_regression,
    train,
)
from lntrain._checks import as_tensor
from lntrain.noise.labels import Draw
from lntrain.noise.philox import normals
from lntrain.noise.schedules import PowerDecay


def _duplicated():
    X = sparse_regression(50, 9, 2, design="correlated", rho=0.9, seed=5).X
    X[:, 3], X[:, 7] = X[:, 0], X[:, 1] - 2 * X[:, 2]
    return X


DESIGNS = {
    "tall": sparse_regression(60, 7, 2, seed=1).X,
    "wide": sparse_regression(6, 9, 2, seed=1).X,
    "square": sparse_regression(8, 8, 2, seed=1).X,
    "unequal": sparse_regression(60, 7, 2, seed=1).X * torch.tensor([1e-9, 1e9, 1.0, 1e-3, 7.0, 1e4, 1e-6]),
    "dependent": _duplicated(),
    "sparse": as_tensor(csr_array(sparse_regression(60, 7, 2, seed=2).X.clamp(min=0).numpy())),
    "float32": sparse_regression(60, 7, 2, seed=1).X.float(),
}
TALL = DESIGNS["tall"]


def _unit_columns(X):
    X = X.to_dense().double().numpy()
    return X / np.linalg.norm(X, axis=0)


@pytest.mark.parametrize("name", DESIGNS)
def test_every_gradient_has_the_law_that_independent_labels_give_it(name):
    """Cov(X' Q eta) = X' Q Q' X = X' X, column by column: Q' Q = I and Q Q' X = X; and Q eta is what is added."""
    X = DESIGNS[name]
    noise, rows = ColumnSpaceNoise(2.0, X=X), _unit_columns(X)
    Q = noise.basis
    assert Q.shape == (len(X), min(X.shape))
    np.testing.assert_allclose(Q.T @ Q, np.eye(Q.shape[1]), rtol=0, atol=1e-13)
    np.testing.assert_allclose(Q @ (Q.T @ rows), rows, rtol=0, atol=1e-13)
    eta = normals(7, 1, 3, 40, Q.shape[1]).astype(np.float64)
    zero = torch.zeros(len(X), dtype=torch.float64)
    added = np.stack([noise.perturb(zero, Draw(((7, 1),), step)).numpy() for step in range(3, 40)])
    np.testing.assert_allclose(added, 2.0 * eta @ Q.T, rtol=0, atol=1e-13)


def test_the_draws_have_that_law():
    """The whitened X' xi, 20,000 of them: standard normals."""
    xi = ColumnSpaceNoise(1.0, X=TALL).unit(3, 0, 0, 20_000, 60)
    white = np.linalg.solve(np.linalg.cholesky(TALL.numpy().T @ TALL.numpy()), TALL.numpy().T @ xi.T)
    assert stats.kstest(white.ravel(), "norm").pvalue > 1e-6
    np.testing.assert_allclose(white @ white.T / 20_000, np.eye(7), rtol=0, atol=5 * np.sqrt(2 / 20_000))


@pytest.mark.parametrize("name", ["tall", "unequal", "dependent"])
def test_what_a_gradient_sees_is_a_function_of_x(name):
    """B = (X' X)^(1/2) for columns of length 1, though Q of X = Q R is any where columns depend on each other."""
    X = DESIGNS[name]
    rows, length = _unit_columns(X), X.norm(dim=0).numpy()
    values, vectors = np.linalg.eigh(rows.T @ rows)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    np.testing.assert_allclose(ColumnSpaceNoise(1.0, X=X).coordinates(X) / length, root, rtol=0, atol=1e-7)
    moved = X * (1 + 1e-15 * torch.randn(X.shape, generator=torch.Generator().manual_seed(0), dtype=X.dtype))
    seen = [rows.T @ ColumnSpaceNoise(1.0, X=each).unit(0, 0, 0, 4, len(X)).T for each in (X, moved)]
    np.testing.assert_allclose(*seen, rtol=0, atol=1e-12)


@pytest.mark.parametrize("paired", [False, True])
def test_perturb_and_unit_are_one_stream_in_any_slice(paired):
    noise = ColumnSpaceNoise(2.0, X=TALL)
    noise = Antithetic(noise) if paired else noise
    whole = noise.unit(3, 1, 0, 41, 60)
    for start, stop in [(0, 1), (1, 2), (3, 8), (4, 9), (17, 41), (5, 5)]:
        np.testing.assert_array_equal(noise.unit(3, 1, start, stop, 60), whole[start:stop])
    zero = torch.zeros(60, dtype=torch.float64)
    added = torch.stack([noise.perturb(zero, Draw(((3, 1),), step)) for step in range(41)]).numpy()
    np.testing.assert_array_equal(added, 2.0 * whole)
    assert np.abs(added[0]).max() > 0
    if paired:
        np.testing.assert_array_equal(added[0:40:2], -added[1:41:2])


def test_replicas_and_schedules_scale_the_draws_of_each_alone():
    keys, zero = ((5, 0), (5, 1), (9, 0)), torch.zeros(3, 60, dtype=torch.float64)
    stds, schedule = (1.0, 3.0, 0.0), PowerDecay(1.0, 3.0)
    together = ColumnSpaceNoise(stds, schedule, X=TALL).perturb(zero, Draw(keys, 6))
    for key, std, got in zip(keys, stds, together, strict=True):
        alone = ColumnSpaceNoise(1.0, X=TALL).unit(*key, 6, 7, 60)[0] * (std * float(schedule(6)))
        np.testing.assert_array_equal(got.numpy(), alone)


def test_two_designs_are_two_noises():
    """Also for what is drawn ahead, which is remembered; and a copy draws what the first draws."""
    one, other = (ColumnSpaceNoise(1.0, X=X) for X in (TALL, TALL.flip(0)))
    zero = torch.zeros(60, dtype=torch.float64)
    assert one != other
    assert Antithetic(one) != Antithetic(other)
    assert not torch.equal(one.perturb(zero, Draw()), other.perturb(zero, Draw()))
    assert torch.equal(one.perturb(zero, Draw()), copy.deepcopy(one).perturb(zero, Draw()))
    assert repr(one) == "ColumnSpaceNoise(std=1.0, schedule=None)"


def test_the_prediction_is_that_of_gaussian_noise():
    problem = sparse_regression(30, 8, 2, seed=1)
    model = DiagonalLinear(problem.d)
    optimizer = LabelNoiseSGD(model.parameters(), lr=0.01, noise=ColumnSpaceNoise(4.0, X=problem.X))
    assert torch.equal(predict(model, optimizer, problem).penalty, effective_penalty(problem, lr=0.01, std=4.0))


def _train(X=TALL, model=None, given=None, **options):
    problem = Problem(X, X[:, 0].clone())
    model = DiagonalLinear(X.shape[1], dtype=X.dtype) if model is None else model
    noise = ColumnSpaceNoise(1.0, X=X if given is None else given)
    *_, last = train(
        model, LabelNoiseSGD(model.parameters(), lr=0.01, noise=noise), problem, 3, engine="torch", **options
    )
    return last


def test_models_linear_in_x_train_and_a_noise_of_float64_trains_float32():
    for last in (
        _train(model=torch.nn.Linear(7, 1, bias=False, dtype=torch.float64)),
        _train(TALL.float(), given=TALL),
    ):
        assert last.mean_noise.shape == (60,)


class _Net(torch.nn.Module):
    """Its gradient sees more of the labels' noise than X' xi."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(7, 1, dtype=torch.float64)

    def forward(self, x):
        return self.layer(x)[..., 0].tanh()


REFUSED = {
    "a part of the labels": (lambda: ColumnSpaceNoise(1.0, X=TALL).perturb(torch.zeros(8), Draw()), "n=60.*not 8"),
    "two outputs": (lambda: ColumnSpaceNoise(1.0, X=TALL).perturb(torch.zeros(60, 2), Draw()), "not 120.*one output"),
    "classes": (lambda: ColumnSpaceNoise(1.0, X=TALL).perturb(torch.arange(60), Draw()), "float targets"),
    "a vector": (lambda: ColumnSpaceNoise(1.0, X=torch.ones(3)), r"X has shape \(3,\)"),
    "nan": (lambda: ColumnSpaceNoise(1.0, X=torch.full((3, 2), torch.nan)).basis, "not finite"),
    "std": (lambda: ColumnSpaceNoise(-1.0, X=TALL), "std=-1.0"),
    "batches": (lambda: _train(batch_size=8), "whole batches, not sampling='replacement', batch_size=8"),
    "as many drawn rows": (lambda: _train(batch_size=60, sampling="shuffle"), "whole batches"),
    "noisy rows": (lambda: _train(batch_size=60, sampling="noisy_rows"), "whole batches"),
    "another X": (lambda: _train(given=TALL + 1e-4 * TALL.flip(0)), "another X"),
    "fewer rows": (lambda: _train(given=TALL[:50]), "another X"),
    "a net": (lambda: _train(model=_Net()), "linear in X.*not a _Net"),
    "a bias": (lambda: _train(model=torch.nn.Linear(7, 1, dtype=torch.float64)), "linear in X.*not a Linear"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_have_another_law_is_refused_in_one_line(what):
    call, says = REFUSED[what]
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
