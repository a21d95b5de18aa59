"""What the stationary state of label noise obeys, each as a measurement with an error bar or a test."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from lntrain._checks import as_float64
from lntrain._moved import former, renamed
from lntrain.data.design import Design
from lntrain.lasso.solve import LassoSolution
from lntrain.penalty.formula import effective_lr, step_factor

Array = NDArray[np.float64]
FLOOR = -600.0  # of log w^2: the fused engine stops a weight of float64 at 1e-145
__getattr__ = former(__name__, {"exponents": "lyapunov_exponents"})
SUNK = -60.0  # of log w^2: a weight below e^-30 counts as off, as the fused engine clamps weights in float32 at 1e-15


class Estimate(NamedTuple):
    """A mean, its standard error, and from how many blocks it was taken."""

    value: Tensor
    stderr: Tensor
    blocks: int


def batch_means(values: Any, blocks: int | None = None) -> Estimate:
    """Mean over the leading axis and its standard error: sd of the block means / sqrt(blocks).

    Args:
        values: (K, ...), in order of time where neighbours are correlated.
        blocks: stretches of equal length that count as independent; None: each value is a block
            (independent seeds, or block means already). Values that do not fill a block are dropped.

    Returns:
        Estimate of shape (...).

    Raises:
        ValueError: fewer than 2 blocks, or more than values.

    >>> batch_means([1.0, 3.0]).value.item(), batch_means([1.0, 3.0]).stderr.item()
    (2.0, 1.0)

    Source: Flegal and Jones, Ann. Statist. 2010 (doi:10.1214/09-AOS735).
    """
    rows = torch.as_tensor(values, dtype=torch.float64)
    count = len(rows) if blocks is None else blocks
    if not 2 <= count <= len(rows):
        raise ValueError(f"blocks={count}: give between 2 and the {len(rows)} values")
    length = len(rows) // count
    means = rows[: length * count].reshape(count, length, *rows.shape[1:]).mean(1)
    return Estimate(means.mean(0), means.std(0) / math.sqrt(count), count)


def block_means(steps: Any, means: Any) -> Tensor:
    """Means over each stretch between records, from the running means since step 0.

    (k2 m2 - k1 m1) / (k2 - k1), e.g. of `Snapshot.mean_coef` or `.mean_noise` at each `Snapshot.step`.

    Args:
        steps: (B + 1,) increasing. means: (B + 1, ...); where steps[0] is 0 its mean is not read.

    Returns:
        (B, ...) float64.

    >>> block_means([1, 3], [[2.0], [4.0]]).tolist()
    [[5.0]]
    """
    rows, k = torch.as_tensor(means, dtype=torch.float64), torch.as_tensor(steps, dtype=torch.float64)
    if len(rows) != len(k) or len(k) < 2 or not bool((k.diff() > 0).all()):
        raise ValueError(f"steps ({len(k)}) must be increasing, at least 2, and one for each of the {len(rows)} means")
    k = k.view(-1, *[1] * (rows.ndim - 1))
    totals = torch.where(k > 0, k * rows, torch.zeros_like(rows))
    return totals.diff(dim=0) / k.diff(dim=0)


def lambda_hat(X: Any, y: Any, mean_coef: Any, lasso: LassoSolution, *, mean_noise: Any = None) -> Estimate:
    """The penalty that training shows, coordinate by coordinate: -sign(beta*_j) (g_j(mean beta) - mean noise_j).

    Args:
        X: (n, d). y: (n,). lasso: the reference, for support and signs.
        mean_coef: (B, d) or (B, R, d): means of beta over blocks of steps (`block_means`), over replicas, or both.
        mean_noise: (B, n) or (B, R, n), the realised noise of the same blocks: it is subtracted, and the error
            falls as 1 / T instead of 1 / sqrt(T); None leaves it in.

    Returns:
        Estimate (d,), nan off the reference's support; its standard error is that of batch means over
        all B * R blocks (compensated neighbouring blocks are negatively correlated: it tends to be too large).

    >>> from lntrain.lasso.solve import weighted_lasso
    >>> lasso = weighted_lasso([[1.0], [1.0]], [1.0, 1.0], 0.25)
    >>> lambda_hat([[1.0], [1.0]], [1.0, 1.0], [[0.625], [0.875]], lasso).value.tolist()
    [0.25]

    Source: theory.md section 3 (the identity) and section 8.
    """
    X, y = Design.of(X).X.numpy(), as_float64(y)
    beta = np.asarray(as_float64(mean_coef)).reshape(-1, X.shape[1])
    labels = y + (np.zeros((len(beta), 1)) if mean_noise is None else as_float64(mean_noise).reshape(-1, len(y)))
    if len(labels) != len(beta):
        raise ValueError(f"mean_noise holds {len(labels)} blocks, mean_coef {len(beta)}: give one for each")
    g = (beta @ X.T - labels) @ X / len(y)
    sign = np.sign(lasso.coef.numpy())
    return batch_means(np.where(sign != 0, -sign * g, np.nan))


def lyapunov_exponents(log_weights: Any, steps: Any) -> Estimate:
    """Lyapunov exponents: how much log w^2 moves per step, with the error bar of its increments.

    Args:
        log_weights: (B + 1, m, d) or (B + 1, R, m, d), log w^2 at `steps`, after the start is forgotten.
        steps: (B + 1,) evenly spaced.

    Returns:
        Estimate (m, d); the increments of all blocks and replicas count as independent. Records below
        e^-300 are left out, as the fused engine holds a weight there; nan where fewer than 2 remain.

    Raises:
        ValueError: records that do not fit, or not evenly spaced.

    >>> lyapunov_exponents([[[[0.0]], [[0.0]]], [[[-1.0]], [[-3.0]]]], [0, 8]).value.item()
    -0.25

    Source: theory.md section 5.
    """
    logs, k = torch.as_tensor(log_weights, dtype=torch.float64), torch.as_tensor(steps, dtype=torch.float64)
    if len(logs) != len(k) or len(k) < 2 or not torch.allclose(k.diff(), k.diff()[:1], rtol=0.01):
        raise ValueError(f"steps must be {len(logs)} evenly spaced numbers, one for each record")
    increments = logs.diff(dim=0) / k.diff().view(-1, *[1] * (logs.ndim - 1))
    increments[logs[1:] < FLOOR] = math.nan
    rows = increments.reshape(-1, *logs.shape[-2:])
    count, mean = (~rows.isnan()).sum(0), rows.nanmean(0)
    spread = (rows - mean).square().nanmean(0).sqrt() / (count - 1).clamp_min(0).sqrt()
    return Estimate(mean, torch.where(count > 1, spread, math.nan), len(rows))


@renamed
def predicted_exponents(
    X: Any,
    y: Any,
    lasso: LassoSolution,
    *,
    lr: float,
    parametrisation: str = "difference",
    loss_constant: float = 0.5,
    momentum: float = 0.0,
    dampening: float = 0.0,
) -> Tensor:
    """-2 a lr (lambda_j +/- g_j) at the Lasso, (m, d): of log w_plus^2, log w_minus^2 a step.

    0 exactly for the weight that carries a support coordinate, negative for all others; the two sum to
    -4 a lr lambda_j, so that the initialisation is forgotten.

    >>> from lntrain.lasso.solve import weighted_lasso
    >>> lasso = weighted_lasso([[1.0], [1.0]], [1.0, 1.0], 0.25)
    >>> (predicted_exponents([[1.0], [1.0]], [1.0, 1.0], lasso, lr=0.01) + 0.0).tolist()
    [[0.0], [-0.02]]

    Source: theory.md section 5.
    """
    X, y = Design.of(X).X.numpy(), as_float64(y)
    rate = step_factor(parametrisation, loss_constant) * float(effective_lr(lr, momentum, dampening))
    g = torch.from_numpy(X.T @ (X @ lasso.coef.numpy() - y) / len(y))
    both = torch.stack((lasso.penalty + g, lasso.penalty - g))
    return -2 * rate * (both[:1] if parametrisation == "square" else both)


def lyapunov_support(log_weights: Any, steps: Any, *, level: float = 1e-3) -> Tensor:
    """The support from the exponents, with no threshold on beta: off where every weight's is below 0 for certain.

    One-sided t-tests of the increments of log w^2 at the family-wise `level` (Bonferroni over weights and
    coordinates). On the support an exponent is 0: with probability 1 - level none is called off. A
    coordinate near a tie stays on until the run is long enough to tell. A weight below e^-30 is off.

    Args:
        log_weights, steps: as for `lyapunov_exponents`; replicas or several records give the error bar.

    Returns:
        (d,) bool.

    >>> fall, stay = [[0.0], [-5.0], [-11.0], [-15.0]], [[0.0], [1.0], [-1.0], [0.5]]
    >>> logs = torch.tensor([[f, s] for f, s in zip(fall, stay)]).permute(0, 2, 1)
    >>> lyapunov_support(logs, [0, 1, 2, 3], level=0.1).tolist()
    [False, True]

    Source: theory.md sections 4 and 5.
    """
    logs = torch.as_tensor(log_weights, dtype=torch.float64)
    found = lyapunov_exponents(logs, steps)
    t = (found.value / found.stderr.clamp_min(1e-300)).numpy()
    p = stats.t.cdf(t, df=found.blocks - 1)
    sunk = (logs[-1] < SUNK).reshape(-1, *logs.shape[-2:]).all(0)
    falls = torch.from_numpy(p < level / p.size) & (found.value < 0)
    return ~(falls | sunk).all(0)


def balancedness(log_weights: Any) -> Tensor:
    """log(beta_plus beta_minus) = log w_plus^2 + log w_minus^2, (..., d) of (..., 2, d).

    Gradient flow keeps it; label noise lowers it by exactly 4 a lr lambda_j a step (to first order in lr).

    Raises:
        ValueError: not two weights a coordinate.

    Source: theory.md section 5.
    """
    logs = torch.as_tensor(log_weights, dtype=torch.float64)
    if logs.ndim < 2 or logs.shape[-2] != 2:
        raise ValueError(f"log_weights has shape {tuple(logs.shape)}: balancedness needs (..., 2, d)")
    return logs.sum(-2)


def effective_init(log_weights: Any) -> Tensor:
    """alpha_j = sqrt(w_plus w_minus), the init whose noiseless flow ends where this one would, (..., d).

    Args:
        log_weights: (..., 2, d), log w^2.

    >>> round(effective_init(torch.tensor([[-2.0], [-2.0]])).log().item(), 9)
    -1.0

    Source: Pesme, Pillaud-Vivien, Flammarion, NeurIPS 2021 (arXiv 2106.09524).
    """
    return (balancedness(log_weights) / 4).exp()


def loss_identity(mean_loss: Any, lasso: LassoSolution) -> Estimate:
    """Time mean of (1/2n)||y - X beta_t||^2 over the Lasso's objective, with its standard error: 1 in theory.

    Args:
        mean_loss: (R,) or (B,), independent means, of `Flow.mean_loss` or of a snapshot's `loss` at loss_constant 0.5.

    Raises:
        ValueError: an objective of 0 (labels of 0), where the ratio is undefined.

    Source: theory.md section 5: sum_j E beta_j (g_j - lambda_j) = 0 with E g_j = -lambda_j on the support.
    """
    if not lasso.objective > 0:
        raise ValueError(f"lasso: its objective is {lasso.objective}: labels of 0 have no loss to compare with")
    return batch_means(torch.as_tensor(mean_loss, dtype=torch.float64).flatten() / lasso.objective)
