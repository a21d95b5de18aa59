"""Section 6 of theory.md: depth beyond two, and classes with flipped labels."""

from __future__ import annotations

import math

import numba as nb
import numpy as np
import torch
from torch import Tensor

from lntrain.claims.measure import Array, distances, run
from lntrain.claims.rates import case_at
from lntrain.claims.section4 import PLAIN
from lntrain.data.problem import sparse_regression
from lntrain.experiments.verdicts import At, Check, Outcome
from lntrain.lasso import references
from lntrain.lasso import solve as lassos
from lntrain.noise import philox as stream
from lntrain.penalty import corrections
from lntrain.penalty import formula as penalties

FLIP = 0.2  # probability of a flipped label


def depth(at: At) -> Outcome:
    """Depth L: the time average minimises (1/2n)||y - X beta||^2 + sum kappa_j |beta_j|^(2 - 2/L), and no Lasso."""
    problem, checks = sparse_regression(40, 10, 5, signs="random", seed=at.data), []
    for L in (3, 4):
        given, q = case_at(problem, PLAIN, at.pick(0.001, 0.0005), alpha=0.02), 2 - 2 / L
        kappa = corrections.depth_penalty(problem.X, lr=given.lr, std=given.std, depth=L)
        steps = at.pick(800_000, 6_000_000)
        half, last = run(given, at.seeds(8, str(L)), steps, [steps // 2], depth=L, init=0.2)
        assert half.mean_coef is not None
        assert last.mean_coef is not None
        mean, labels = 2 * last.mean_coef - half.mean_coef, problem.y + 2 * last.mean_noise - half.mean_noise
        bridge = torch.stack([references.bridge(problem.X, y, kappa, L).coef for y in labels])
        share = kappa * q * mean.abs() ** q
        slope = (mean @ problem.X.T - labels) @ problem.X / problem.n
        seen = (-(slope * mean).sum(-1) / share.sum(-1)).numpy()  # of the stationarity conditions, weighted by beta
        p = (
            1 - 2 / L
        )  # fluctuations of variance 2 kappa |beta|^q / c change E |beta|^p / (E |beta|)^p: theory is for lr -> 0
        c = penalties.mean_squares(problem.X)
        spread = (p * (1 - p) * kappa / c * bridge.abs().clamp_min(1e-3) ** (-2 / L)).clamp_max(1.0)
        lasso = torch.stack([lassos.weighted_lasso(problem.X, y, given.lasso.penalty).coef for y in labels])
        near, far = ((mean - end).norm(dim=-1) / bridge.norm(dim=-1) for end in (bridge, lasso))
        rest = float((spread * share).sum() / share.sum())
        checks += [
            Check(f"L={L}: penalty seen / predicted", 1.0, seen, allowance=rest),
            Check(f"L={L}: distance to the l_(2-2/L) solution (compensated)", 0.01, near.numpy(), "<="),
            Check(f"L={L}: distance to the Lasso of depth 2", 0.03, far.numpy(), ">="),
        ]
    return Outcome(checks)


@nb.njit(nogil=True, error_model="numpy")
def _logistic_steps(X, targets, plus, minus, lr, total, slope):  # type: ignore[no-untyped-def]
    """len(targets) steps on flipped labels; beta and the output probabilities are added to the sums."""
    n = X.shape[0]
    for k in range(targets.shape[0]):
        beta = plus * plus - minus * minus
        total += beta
        p = 1 / (1 + np.exp(-(X @ beta)))
        slope += p
        g = X.T @ (p - targets[k]) / n
        plus *= 1 - 2 * lr * g
        minus *= 1 + 2 * lr * g


def flip_variance(c: Tensor, n: int) -> Array:
    """V_j of flips with probability p: p (1 - p) c_j / n on the whole batch."""
    return np.asarray(FLIP * (1 - FLIP) * c.numpy() / n)


def _flipped(X: Array, classes: Array, lr: float, steps: int, seeds: list[int]) -> tuple[Array, Array]:
    """Means over the last three quarters: beta (R, d), and output - noisy label (R, n)."""
    means, outputs, chunk = [], [], 4096
    for seed in seeds:
        plus, minus = np.full(X.shape[1], 0.1), np.full(X.shape[1], 0.1)
        total, slope, labels, counted = np.zeros(X.shape[1]), np.zeros(len(X)), np.zeros(len(X)), 0
        for start in range(0, steps, chunk):
            if start <= steps // 4 < start + chunk:
                total[:], slope[:], labels[:], counted = 0, 0, 0, 0
            coins = stream.words(seed, 0, start, start + chunk, len(X)) < FLIP * 2**32
            targets = np.where(coins, 1 - classes, classes)
            _logistic_steps(X, targets, plus, minus, lr, total, slope)
            labels += targets.sum(0)
            counted += chunk
        means.append(total / counted)
        outputs.append((slope - labels) / counted)
    return np.array(means), np.array(outputs)


def flips(at: At) -> Outcome:
    """Flips, cross entropy: the mean gradient obeys the l1 KKT conditions; the solution is no l1 logistic fit."""
    problem = sparse_regression(30, 20, 3, signs="random", seed=at.data)
    X, lr = np.ascontiguousarray(problem.X.numpy()), 0.25
    classes = (problem.y.numpy() > 0).astype(float)
    smooth = (1 - FLIP) * classes + FLIP * (1 - classes)
    c, n = penalties.mean_squares(problem.X), problem.n
    penalty = 0.5 * 2 * lr * flip_variance(c, n)
    mean, excess = _flipped(X, classes, lr, at.pick(400_000, 1_500_000), at.seeds(8))
    reference = l1_logistic(X, smooth, penalty)
    on = np.abs(reference) > 0.2
    p = 1 / (1 + np.exp(-X @ reference))
    S = (X * (p * (1 - p))[:, None]).T @ X / n  # the Hessian of the cross entropy
    # section 4's formula, where one S is of the squared loss, for the noise's covariance, and one is this Hessian
    bias = float((2 * lr * (S * (X.T @ X / n)) @ np.abs(reference) / c.numpy())[on].mean())
    gradient = excess @ X / n
    ratio = (-np.sign(reference) * gradient / penalty)[:, on].mean(1)
    off = (np.abs(gradient) / penalty)[:, reference == 0].mean(0).max(initial=0.0)
    far = distances(torch.from_numpy(mean), torch.from_numpy(reference))
    return Outcome(
        [
            Check("-sign (mean gradient) / lambda on the support", 1 + bias, ratio, allowance=bias, precision=0.15),
            Check("off it: largest |mean gradient| / lambda", 1 + 2 * bias, float(off), "<="),
            Check("distance to l1 logistic regression: NOT 0", 0.01, far, ">="),
        ]
    )


def l1_logistic(X: Array, targets: Array, penalty: Array) -> Array:
    """min mean cross entropy(X beta, targets) + sum lambda_j |beta_j|, by proximal gradient with momentum (FISTA)."""
    beta = z = np.zeros(X.shape[1])
    step, t = 4 * len(X) / np.linalg.norm(X, 2) ** 2, 1.0
    for _ in range(20_000):
        slope = X.T @ (1 / (1 + np.exp(-X @ z)) - targets) / len(X)
        move = z - step * slope
        new = np.sign(move) * np.maximum(np.abs(move) - step * penalty, 0)
        grown = (1 + math.sqrt(1 + 4 * t * t)) / 2
        z, beta, t = new + (t - 1) / grown * (new - beta), new, grown
    return np.asarray(beta)
