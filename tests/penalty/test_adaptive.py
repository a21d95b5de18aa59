"""AdaptiveStep: its factors against the linear equation they come from, solved by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from lntrain.data.design import Design
from lntrain.penalty.adaptive import AdaptiveStep


def _step(depth=2, lr=0.01, beta1=0.0, beta2=0.99):
    rng = np.random.default_rng(depth)
    X = (rng.standard_normal((30, 4)) + rng.standard_normal((30, 1))) * np.array([0.5, 1.0, 2.0, 1.0])
    coef = torch.tensor([1.0, -0.5, 0.7, 1.4], dtype=torch.float64)
    return AdaptiveStep(Design(X), lr, 1.5, 30, depth, beta1, beta2), coef


def _linear(step, coef):
    """(S J, A, the covariance of the gradient's noise, D) of dw <- dw - lr D^-1 (S J dw + noise)."""
    S = step.design.gram(torch.ones(4, dtype=torch.bool)).numpy()
    J = step.depth * coef.abs().numpy() ** (1 - 1 / step.depth)
    return S * J, step.lr * (S * J) / step.sd.numpy()[:, None], S * step.std**2 / step.rows, step.sd.numpy()


@pytest.mark.parametrize("depth", [2, 3])
def test_the_memory_factor_is_the_lagged_covariance(depth):
    """E h_j (dw_j - mean of the past dw_j) over lr s_j / 2, the past summed term by term."""
    step, coef = _step(depth, lr=1e-4, beta2=1 - 4e-4)
    H, A, noise, sd = _linear(step, coef)
    cov = solve_discrete_lyapunov(np.eye(4) - A, step.lr**2 * noise / np.outer(sd, sd))
    epsilon = 1 - step.beta2
    values, vectors = np.linalg.eig(np.eye(4) - A)
    past = vectors @ np.diag(epsilon / (1 - step.beta2 * values)) @ np.linalg.inv(vectors)  # sum of e b^k (I - A)^k
    seen = np.diag(H @ (np.eye(4) - past) @ cov).real / (step.lr * sd / 2)
    np.testing.assert_allclose(step.memory(coef), seen, rtol=5e-3)
    assert 0.2 < seen.min() < seen.max() < 0.95


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_the_bias_is_the_discrete_covariance_over_the_root_of_v(beta1):
    """E h_j dw_j over lr s_j / 2, divided by sqrt(1 + Var h_j / s_j^2), with the buffer m in the state."""
    step, coef = _step(lr=0.002, beta1=beta1)
    H, A, noise, sd = _linear(step, coef)
    eye, kick = np.eye(4), np.diag(1 / sd) * step.lr
    move = np.block([[eye - (1 - beta1) * A, -beta1 * eye], [(1 - beta1) * A, beta1 * eye]])  # of (dw, lr m / s)
    push = np.vstack([-(1 - beta1) * kick, (1 - beta1) * kick])
    cov = solve_discrete_lyapunov(move, push @ noise @ push.T)[:4, :4]
    grown = np.diag(H @ cov @ H.T) / sd**2
    np.testing.assert_allclose(step.excess(coef), grown, rtol=0.05)
    seen = np.diag(H @ cov) / (step.lr * sd / 2) / np.sqrt(1 + grown) - 1
    np.testing.assert_allclose(step.bias(coef), seen, rtol=0.08)


def test_the_covariance_of_the_weights_is_diagonal_for_any_design():
    step, coef = _step(lr=1e-5)
    H, A, noise, sd = _linear(step, coef)
    cov = solve_discrete_lyapunov(np.eye(4) - A, step.lr**2 * noise / np.outer(sd, sd))
    J = step.depth * coef.abs().numpy() ** 0.5
    np.testing.assert_allclose(cov, np.diag(step.lr * step.std**2 / step.rows / 2 / J / sd), atol=1e-4 * cov.max())
    np.testing.assert_allclose(np.diag(H @ cov), step.lr * sd / 2, rtol=1e-3)


def test_the_weights():
    step, _ = _step(3)
    assert step.exponent == pytest.approx(2 / 3)
    expected = 1.5 * 0.01 * 1.5 * (step.design.c / 30).sqrt()
    torch.testing.assert_close(step.weights, expected, rtol=1e-14, atol=0)


def test_what_hovers_has_no_factor():
    """Weights below ten lr are off: no memory of their own, no part in that of the others."""
    step, coef = _step()
    less = torch.tensor([1.0, -0.5, 0.0099, 0.0], dtype=torch.float64)
    assert step.on(less).tolist() == [True, True, False, False]
    two = AdaptiveStep(Design(step.design.X[:, :2]), 0.01, 1.5, 30, 2, 0.0, 0.99)
    torch.testing.assert_close(step.memory(less)[:2], two.memory(coef[:2]), rtol=1e-12, atol=0)
    assert step.memory(less)[2:].tolist() == [1.0, 1.0]
    assert step.memory(torch.zeros(4, dtype=torch.float64)).tolist() == [1.0] * 4
