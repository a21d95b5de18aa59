"""Which step size and how many steps: the least work that reaches the wished distance, or the best within a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain.lasso.solve import weighted_lasso
from lntrain.penalty.formula import noise_for_penalty
from lntrain.theory.dynamics import Dynamics
from lntrain.theory.expectation import Target, Way, spread

Array = NDArray[np.float64]
BIAS = 0.02  # the finite-step bias of lambda that an automatic lr may have
PAIRED_BIAS = 0.005  # the same with antithetic noise, whose last iterate's distance to the Lasso grows with lr
CORRECTED_BIAS = 0.15  # the same where std is chosen to compensate for it: the formula is of first order
SHAKE = (
    0.1  # variance of a weight's factor: at .5 a draw of three sd multiplies a weight by 3, and that feeds on itself
)
FINEST = 128  # the largest lr over the smallest that is looked at
SLACK = 0.1  # of log distance + log fit: how much worse a choice of less work may be
FEWEST = 1000  # steps of a planned run
SUPPORT_SHARE = 4  # steps planned for the support are at most this many times those for the distance


@dataclass(frozen=True)
class Limits:
    """What bounds a choice: a step size or steps that are given, work in nominal operations, the wished distance."""

    lr: float | None
    steps: int | None
    work: float
    target_distance: float
    corrected: bool
    tail: bool
    replicas: int


@dataclass(frozen=True)
class Choice:
    """A step size, its std, and steps; steps and work `needed` where no steps are given; `tenfold` as in Plan."""

    dynamics: Dynamics
    lr: float
    std: float
    steps: int
    needed: int
    needed_work: float
    score: float
    tenfold: tuple[float, float]


def label_share(target: Target, dynamics: Dynamics, lr: float) -> float | None:
    """Which share of the target penalty the label noise must give, so that with all other terms the target is met.

    None where the sampling of rows alone gives nearly all of it, or more.

    The other terms are those of sampling and of the finite step, averaged over the support by lambda_j |beta_j|.
    """
    lasso, on = target.lasso, target.lasso.support
    if not bool(on.any()):
        return 1.0
    with_noise = dynamics.actual_penalty(target.problem, lasso, lr, wished_std(target, dynamics, lr))[on]
    without = dynamics.actual_penalty(target.problem, lasso, lr, 0.0)[on]
    weight = lasso.coef[on].abs()
    gain, wished = float(weight @ (with_noise - without)), float(weight @ lasso.penalty[on])
    left = wished - float(weight @ without)
    return left / gain if left > 0.1 * wished else None


def wished_std(target: Target, dynamics: Dynamics, lr: float, share: float = 1.0) -> float:
    """The std whose penalty is `share` of the Lasso's."""
    c = target.problem.design.c
    alpha = float(((target.lasso.penalty - dynamics.decay) / c).mean())
    return float(noise_for_penalty(target.problem, share * alpha, lr=lr, **dynamics.penalty_options()))


def std_of(target: Target, dynamics: Dynamics, lr: float, corrected: bool) -> float | None:
    """The std at this step size; None where the draw of rows alone penalises more than is wished."""
    share = label_share(target, dynamics, lr) if corrected else 1.0
    return None if share is None else wished_std(target, dynamics, lr, share)


def stable_along(target: Target, dynamics: Dynamics, way: Way | None) -> float:
    """The step beyond which training is unstable somewhere: at the start, along the path, or at the Lasso.

    Three bounds: the curvature 2 / (a h), h = max eig(S diag(w_plus^2 + w_minus^2)); each weight's factor
    1 - a lr g stays positive; the noise in this factor has a variance 2 a lr lambda_j of at most SHAKE.
    """
    kept, lasso, unit = target.kept, target.lasso, dynamics.rate(1.0)
    weights = 1 if dynamics.parametrisation == "square" else 2
    start = torch.full((target.problem.d,), weights * dynamics.init**2, dtype=torch.float64) * kept
    sizes, coefs = [start, lasso.coef], [torch.zeros_like(start), lasso.coef]
    if way is not None:
        sizes += list(way.mass[::2])
        coefs += list(way.coef[::2])
    slopes = (torch.stack(coefs) @ target.X.T - target.y) @ target.X / len(target.y)
    steepest = float((slopes.abs() * kept).max())
    curved = min(dynamics.stable(target.problem, size) for size in sizes)
    return min(
        curved, 1 / (unit * max(steepest, 1e-300)), SHAKE / (2 * unit * max(float(lasso.penalty[kept].max()), 1e-300))
    )


def largest_lr(target: Target, dynamics: Dynamics, stable: float, limits: Limits) -> float:
    """Half the stable step, or less where the allowed bias of lambda requires it."""
    lasso, on = target.lasso, target.lasso.support
    if not bool(on.any()):
        return stable / 2
    relative = dynamics.bias(target.problem, lasso, 1.0)[on]
    if limits.corrected:
        return min(stable / 2, CORRECTED_BIAS / float(relative.mean()))
    away = torch.linalg.pinv(target.gram) @ (relative * lasso.penalty[on] * torch.sign(lasso.coef[on]))
    bound = PAIRED_BIAS if dynamics.antithetic else BIAS
    return min(stable / 2, bound / float(relative.max()), limits.target_distance * target.size / float(away.norm()))


def shift_of(target: Target, dynamics: Dynamics, lr: float, std: float) -> Tensor:
    """(d,) from the target Lasso to the Lasso with the actual penalty, finite-step bias included."""
    lasso = target.lasso
    if not bool(lasso.support.any()):
        return torch.zeros_like(lasso.coef)
    actual = dynamics.actual_penalty(target.problem, lasso, lr, std)
    return weighted_lasso(target.X, target.y, actual, positive=lasso.positive, start=lasso.coef).coef - lasso.coef


def best_choice(target: Target, dynamics: Dynamics, way: Way, largest: float, limits: Limits) -> Choice | None:
    """The least work whose distance and fit are within SLACK of the best that the limits allow."""
    cost, time = dynamics.cost(target.problem.n, target.problem.d) * limits.replicas, dynamics.time(1.0)
    rates = largest * 2.0 ** (-np.arange(0, 2 * math.log2(FINEST) + 1) / 2)
    rates = rates if limits.corrected or limits.lr else rates[:3]
    rates = np.array([float(f"{rate:.4g}") for rate in rates])  # so that it can be typed again
    rates = rates if limits.lr is None else np.array([limits.lr])
    middle = float(rates[len(rates) // 2])
    std = std_of(target, dynamics, middle, limits.corrected)
    if std is None:
        return None
    shift = shift_of(target, dynamics, middle, std) / middle
    steps = way.times.numpy()[None] / (rates[:, None] * time)
    distance, fit = _errors(target, dynamics, way, rates, steps, shift, std * math.sqrt(middle), limits)
    score = np.log(np.maximum(distance, limits.target_distance)) + np.log(np.maximum(fit, limits.target_distance))
    most = limits.work / cost
    i, k = _least(steps, score, steps <= most)
    planned = _whole(
        max(
            float(steps[i, k]), min(support_steps(target, dynamics, float(rates[i])), SUPPORT_SHARE * steps[i, k], most)
        )
    )
    if limits.steps is not None:
        i, k = _least(steps, score, np.arange(steps.shape[1]) == (steps <= limits.steps).sum(1, keepdims=True) - 1)
    lr, count = float(rates[i]), limits.steps or planned
    own = std_of(target, dynamics, lr, limits.corrected)
    if own is None:
        return None
    far = np.where(steps[i] <= 10 * max(most, float(count)), score[i], np.inf).argmin()
    tenfold = float(distance[i, far]), float(fit[i, far])
    return Choice(dynamics, lr, own, count, planned, planned * cost, float(score[i, k]), tenfold)


def _least(steps: Array, score: Array, allowed: NDArray[np.bool_]) -> tuple[int, int]:
    """The indices of the fewest steps whose score is within SLACK of the best allowed one."""
    allowed = allowed if allowed.any() else steps == steps.min()
    near = np.where(allowed & (score <= score[allowed].min() + SLACK), steps, np.inf)
    i, k = np.unravel_index(int(near.argmin()), near.shape)
    return int(i), int(k)


def _errors(
    target: Target,
    dynamics: Dynamics,
    way: Way,
    rates: Array,
    steps: Array,
    shift: Tensor,
    level: float,
    limits: Limits,
) -> tuple[Array, Array]:
    """(distance, fit) at each step size (rows) and time (columns)."""
    away = way.average(limits.tail) - target.lasso.coef
    found = []
    for weights, size in ((None, target.size), (target.X.T, target.fit_size)):
        base, move = (away, shift) if weights is None else (away @ weights, shift @ weights)
        plain, cross, own = base.square().sum(1).numpy(), (base @ move).numpy(), float(move @ move)
        found.append((plain + 2 * rates[:, None] * cross + rates[:, None] ** 2 * own) / size**2)
    reach = float(steps.max())
    for row, lr in enumerate(rates):
        at = min(reach, max(limits.steps or 0, limits.work / dynamics.cost(target.problem.n, target.problem.d)))
        noise = spread(target, dynamics, lr=float(lr), std=level / math.sqrt(lr), steps=at, tail=limits.tail)
        found[0][row] += float(noise.trace()) / target.size**2 * at / steps[row]
        found[1][row] += float((noise @ target.gram).trace()) * target.problem.n / target.fit_size**2 * at / steps[row]
    return np.sqrt(np.maximum(found[0], 0.0)), np.sqrt(np.maximum(found[1], 0.0))


def margins(target: Target) -> Tensor:
    """1 - |g_j| / lambda_j of the coordinates off the support (one-sided where coef >= 0 is imposed)."""
    lasso = target.lasso
    slope = target.X.T @ (target.y - target.X @ lasso.coef) / len(target.y)
    return (1 - (slope if lasso.positive else slope.abs()) / lasso.penalty)[~lasso.support & target.kept]


def support_steps(target: Target, dynamics: Dynamics, lr: float, near: float = 0.05) -> float:
    """Steps until log w^2 of every coordinate off the support, except near ties, falls by 8 over half the run."""
    margin = margins(target)
    far = margin[margin > near]
    slowest = float(far.min()) if len(far) else 1.0
    penalty = float(target.lasso.penalty[target.kept].min())
    return 1.5 * 8.0 / (dynamics.rate(lr) * penalty * slowest) if len(margin) else 0.0


def _whole(value: float) -> int:
    """Two significant digits, upwards: an even number, at least FEWEST.

    >>> _whole(123456.0)
    130000
    """
    value = max(value, FEWEST)
    unit = int(10 ** (math.floor(math.log10(value)) - 1))
    return math.ceil(value / unit) * unit
