"""Section 6 of theory.md: depth beyond two, and classes with flipped labels."""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
import torch

from lntrain import corrections, references, stream
from lntrain import lasso as lassos
from lntrain import penalty as penalties
from lntrain.claims.measure import Array, At, distances, run
from lntrain.claims.section4 import PLAIN, case_at
from lntrain.claims.verdict import Check, Outcome
from lntrain.problem import sparse_regression

FLIP = 0.2  # probability of a flipped label


def depth(at: At) -> Outcome:
    """Depth L: the time average minimises (1/2n)||y - X beta||^2 + sum kappa_j |beta_j|^(2 - 2/L), and no Lasso."""
    problem, checks = sparse_regression(20, 30, 3, signs="random", seed=at.data), []
    for L in (3, 4):
        given = case_at(problem, PLAIN, 0.00025, alpha=0.02)
        kappa = corrections.depth_penalty(problem.X, lr=given.lr, std=given.std, depth=L)
        steps = at.pick(2_000_000, 8_000_000)
        half, last = run(given, at.seeds(8, str(L)), steps, [steps // 2], depth=L)
        assert half.mean_coef is not None
        assert last.mean_coef is not None
        mean, labels = 2 * last.mean_coef - half.mean_coef, problem.y + 2 * last.mean_noise - half.mean_noise
        bridge = torch.stack([references.bridge(problem.X, y, kappa, L).coef for y in labels])
        start = references.bridge(problem.X, problem.y, kappa, L).coef
        norm = float(start.abs().sum() / (start.abs() ** (2 - 2 / L)).sum())  # the Lasso of the same total penalty
        lasso = torch.stack([lassos.weighted_lasso(problem.X, y, kappa / norm).coef for y in labels])
        near, far = ((mean - end).norm(dim=-1).numpy() / float(start.norm()) for end in (bridge, lasso))
        checks += [
            Check(f"L={L}: distance to the l_(2-2/L) solution (compensated)", 0.01, near, "<="),
            Check(f"L={L}: distance to the Lasso of the same penalty", 0.03, far, ">="),
        ]
    return Outcome(checks)


@nb.njit(nogil=True, error_model="numpy")
def _logistic_steps(X, targets, plus, minus, lr, total, slope):  # type: ignore[no-untyped-def]
    """len(targets) steps on half-flipped labels; beta and its clean gradient's residual are added to the sums."""
    n = X.shape[0]
    for k in range(targets.shape[0]):
        beta = plus * plus - minus * minus
        total += beta
        p = 1 / (1 + np.exp(-(X @ beta)))
        slope += p
        g = X.T @ (p - targets[k]) / n
        plus *= 1 - 2 * lr * g
        minus *= 1 + 2 * lr * g


def flip_variance(c: torch.Tensor, n: int) -> Array:
    """V_j of flips with probability p: p (1 - p) c_j / n on the whole batch."""
    return np.asarray(FLIP * (1 - FLIP) * c.numpy() / n)


def _flipped(problem: Any, classes: Array, lr: float, steps: int, seeds: list[int]) -> tuple[Array, Array]:
    """Means of beta and of the predicted probabilities over the last three quarters, (R, d) and (R, n)."""
    X = np.ascontiguousarray(problem.X.numpy())
    means, outputs, chunk = [], [], 4096
    for seed in seeds:
        plus, minus = np.full(X.shape[1], 0.1), np.full(X.shape[1], 0.1)
        total, slope, counted = np.zeros(X.shape[1]), np.zeros(len(X)), 0
        for start in range(0, steps, chunk):
            if start <= steps // 4 < start + chunk:
                total[:], slope[:], counted = 0, 0, 0
            coins = stream.words(seed, 0, start, start + chunk, len(X)) < FLIP * 2**32
            _logistic_steps(X, np.where(coins, 1 - classes, classes), plus, minus, lr, total, slope)
            counted += chunk
        means.append(total / counted)
        outputs.append(slope / counted)
    return np.array(means), np.array(outputs)


def flips(at: At) -> Outcome:
    """Flipped labels, cross entropy: the mean gradient obeys the l1 KKT conditions; the solution is no l1 logistic fit."""
    problem = sparse_regression(100, 20, 3, signs="random", seed=at.data)
    classes = (problem.y.numpy() > 0).astype(float)
    smooth, lr = (1 - FLIP) * classes + FLIP * (1 - classes), 0.5
    mean, output = _flipped(problem, classes, lr, at.pick(150_000, 600_000), at.seeds(8))
    penalty = 0.5 * 2 * lr * flip_variance(penalties.mean_squares(problem.X), problem.n)
    gradient = (output - smooth) @ problem.X.numpy() / problem.n
    reference = l1_logistic(problem.X.numpy(), smooth, penalty)
    on = np.abs(reference) > 0.2 * np.abs(reference).max()
    ratio = (-np.sign(reference) * gradient / penalty)[:, on].mean(1)
    off = (np.abs(gradient) / penalty)[:, ~on].mean(0).max()
    far = distances(torch.from_numpy(mean), torch.from_numpy(reference))
    return Outcome(
        [
            Check("-sign (mean gradient) / lambda on the support", 1.0, ratio, allowance=0.02),
            Check("off the support: largest |mean gradient| / lambda", 1.05, float(off), "<="),
            Check("distance to l1 logistic regression: NOT 0", 0.02, far, ">="),
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

