"""A sparse X: the same numbers as a dense one, at the cost of what its rows hold."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from lntrain import (
    Antithetic,
    DiagonalLinear,
    GaussianNoise,
    LabelNoiseSGD,
    Problem,
    RademacherNoise,
    effective_penalty,
    evaluate,
    train,
    weighted_lasso,
)
from lntrain.engine import choose, cpu, loop
from lntrain.noise.schedules import PowerDecay
from lntrain.penalty.formula import alpha_max, mean_squares
from lntrain.training.loop import _begin

N, D = 30, 50


def matrix():
    X = scipy.sparse.random_array((N, D), density=0.1, format="lil", rng=np.random.default_rng(0))
    X[[j % N for j in range(D)], range(D)] = 1.0  # no column of zeros
    return X.tocsr()


def problem(*, dense=False, dtype=torch.float64):
    X = matrix()
    y = X[:, :3].sum(1)
    return Problem(X.toarray() if dense else X, y).to(dtype)


def run_of(data, model="difference", sampling="replacement", noise=None, *, replicas=None):
    net = DiagonalLinear(D, parametrisation=model, init=0.3, replicas=replicas, dtype=data.X.dtype)
    optimizer = LabelNoiseSGD(net.parameters(), lr=0.02, noise=noise or GaussianNoise(0.5), seed=1)
    return _begin(net, optimizer, data, 1, sampling, 0.5, None)


def assert_close(one, other, tolerance):
    for a, b in ((one.coef, other.coef), *((one.mean(name), other.mean(name)) for name in ("coef", "noise"))):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("model", ["difference", "square", "hadamard"])
@pytest.mark.parametrize("sampling", ["replacement", "without", "shuffle"])
@pytest.mark.parametrize("noise", [Antithetic(GaussianNoise(0.5)), RademacherNoise(0.5, PowerDecay(1.0, 50))], ids=repr)
def test_sparse_follows_the_loop(model, sampling, noise):
    reference, sparse = (run_of(problem(dense=dense), model, sampling, noise) for dense in (True, False))
    assert choose("auto", sparse) == ("fused", cpu.advance)
    loop.advance(reference, 900)
    cpu.advance(sparse, 900)
    assert_close(reference, sparse, 1e-10)


def test_loop_makes_a_sparse_matrix_dense():
    reference, sparse = (run_of(problem(dense=dense), replicas=2) for dense in (True, False))
    for run in (reference, sparse):
        loop.advance(run, 50)
    assert torch.equal(reference.coef, sparse.coef)


def test_replicas_and_resume_are_bit_equal():
    def last(state=None, steps=1500, replicas=2, **options):
        net = DiagonalLinear(D, replicas=replicas)
        optimizer = LabelNoiseSGD(net.parameters(), lr=0.02, noise=0.5, seed=1, **options)
        *_, end = train(net, optimizer, problem(), steps, batch_size=1, snapshots=[700, 1500], state=state)
        assert end.engine == "fused"
        return end

    whole, halves, alone = last(), last(last(steps=700).state_dict()), last(replicas=None, rank=1)
    for name in ("coef", "mean_coef", "mean_noise"):
        assert torch.equal(getattr(whole, name), getattr(halves, name)), name
        assert torch.equal(getattr(whole, name)[1], getattr(alone, name)), name


def test_penalty_reference_and_evaluation_equal_the_dense_ones():
    data = problem(), problem(dense=True)
    penalties = [effective_penalty(each.X, lr=0.01, std=1.0, batch_size=1) for each in data]
    torch.testing.assert_close(*penalties, rtol=1e-14, atol=0)
    torch.testing.assert_close(mean_squares(matrix()), mean_squares(data[1].X), rtol=1e-14, atol=0)
    assert alpha_max(data[0].X, data[0].y) == pytest.approx(alpha_max(data[1].X, data[1].y), rel=1e-12)
    references = [weighted_lasso(each.X, each.y, penalties[0]) for each in data]
    torch.testing.assert_close(references[0].coef, references[1].coef, rtol=1e-5, atol=1e-7)
    rows = []
    for each in data:
        net = DiagonalLinear(D)
        optimizer = LabelNoiseSGD(net.parameters(), lr=0.01, noise=1.0)
        *_, snapshot = train(net, optimizer, each, 2000, batch_size=1)
        rows.append(evaluate(each, snapshot, references[1], penalties[0]))
    assert rows[0] == pytest.approx(rows[1], rel=1e-6)


def test_what_the_sparse_engine_cannot_run_goes_through_the_loop():
    run = run_of(problem())
    run.batch_size = 2
    with pytest.raises(ValueError, match="sparse X needs SGD with batch_size=1"):
        choose("fused", run)
    assert choose("auto", run) == ("torch", loop.advance)


def test_bad_sparse_matrices_are_refused():
    X = matrix()
    X.data[3] = np.nan
    with pytest.raises(ValueError, match=r"X.data\[3\] is nan"):
        Problem(X, np.zeros(N))
    with pytest.raises(ValueError, match="column 50 of X is all zeros"):
        Problem(scipy.sparse.hstack([matrix(), scipy.sparse.csr_array((N, 1))]), np.zeros(N))
    with pytest.raises(ValueError, match="CSR"):
        Problem(torch.eye(3).to_sparse_coo(), torch.ones(3))
