"""scripts/optimisers.py: its simulation is torch's optimiser, and what it measures is what is predicted."""

from __future__ import annotations

import numpy as np
import optimisers
import pytest
import torch

from lntrain import DiagonalLinear, Problem, predict, train
from lntrain.noise.philox import normals


def _problem(n=20, d=5, seed=0):
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((n, d)) + rng.standard_normal((n, 1))) * rng.uniform(0.5, 2, d)
    return Problem(X, X @ np.array([1.0, -0.7, *[0.0] * (d - 2)]))


@pytest.mark.parametrize("name", optimisers.OPTIMISERS)
def test_the_simulation_is_torchs_optimiser_step_for_step(name):
    problem, (kind, options) = _problem(), optimisers.OPTIMISERS[name]
    X, y = problem.X.numpy(), problem.y.numpy()
    model = DiagonalLinear(problem.d, init=0.4)
    optimizer = kind(model.parameters(), lr=0.01, **options)
    rule = optimisers.rule_of(optimizer)
    *_, last = train(model, optimizer, problem, 200, noise=2.0, seed=7)
    noise = normals(7, 0, 0, 200, problem.n).astype(float) * 2.0 @ X / problem.n
    w, m, v, sums = (
        np.full((2, problem.d), 0.4),
        np.zeros((2, problem.d)),
        np.zeros((2, problem.d)),
        np.zeros((2, problem.d)),
    )
    for first in (0, 120):  # in two calls
        part = noise[first : 120 if first == 0 else 200]
        optimisers.advance(w, m, v, rule, X.T @ X / problem.n, X.T @ y / problem.n, part, first, sums)
    np.testing.assert_allclose(w[0] ** 2 - w[1] ** 2, last.coef, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(sums[0] / 200, last.mean_coef, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(sums[1] / 200, last.mean_noise.numpy() @ X / problem.n, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [20, 4])
def test_what_is_measured_is_what_is_predicted(n):
    """RMSprop, more and fewer rows than columns: within four standard errors and 1 %; half of std is seen as half."""
    problem = _problem(n)
    model = DiagonalLinear(problem.d, init=0.5)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.02, alpha=0.999)
    found = predict(model, optimizer, problem, noise=4.0)
    means = optimisers.simulate(problem, optimisers.rule_of(optimizer), 4.0, 1_000_000, init=0.5, seed=3)
    seen = optimisers.compare(problem, found, *means)
    assert 1 <= len(seen.full) <= 3
    assert (seen.error < 0.02).all()
    assert (np.abs(seen.full - 1) <= 4 * seen.error + 0.01).all()
    wrong = optimisers.compare(problem, predict(model, optimizer, problem, noise=8.0), *means)
    assert (wrong.full < 0.6).all()


def test_rows_and_their_triangle_give_one_law():
    """n > d draws d numbers a step by R of X = Q R: the covariance of the noise is S std^2 / n."""
    problem = _problem(n=50, d=3)
    X = problem.X.numpy()
    factor = np.linalg.qr(X)[1]
    np.testing.assert_allclose(factor.T @ factor, X.T @ X, rtol=1e-12)
