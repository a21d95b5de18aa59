"""What a run is expected to reach: the mean path of its weights, the finite step's bias, and what noise leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import polygamma
from torch import Tensor

from lntrain.data.problem import Problem
from lntrain.lasso.solve import LassoSolution
from lntrain.theory.dynamics import Dynamics
from lntrain.theory.flow import limit_flow

Array = NDArray[np.float64]
PER_OCTAVE = 2  # points per octave of a Way
RTOL = 1e-3  # of the flow: plans speak of percents
# relative sd of an expected distance beside its noise: formulas are of first order in lr, and iid noise moves supports
MODEL_ERROR, IID_MODEL_ERROR = 0.15, 0.25
NORMAL_90 = 1.645  # two-sided


@dataclass(frozen=True)
class Expectation:
    """The expected relative errors of the judged average against the Lasso: the mean over runs.

    distance: of the coefficients; fit: ||X b - X b*|| / ||X b*||; excess: (F(b) - F*) / F*, without
    what changes of the support add under iid noise;
    drift: the distance without the contribution of noise;
    low, high: between which the distance lies in nine of ten runs; lambda_ratio: the penalty seen in training over
    the predicted one, mean over the support (nan where the Lasso is zero).
    """

    distance: float
    fit: float
    excess: float
    drift: float
    low: float
    high: float
    lambda_ratio: float


@dataclass(frozen=True)
class Way:
    """The mean path at times (M,) of lr * steps: running mean of beta, beta, w_plus^2 + w_minus^2, (M, d) each."""

    times: Tensor
    mean_coef: Tensor
    coef: Tensor
    mass: Tensor

    def average(self, tail: bool) -> Tensor:
        """(M, d) means over [0, T], or over [T/2, T]: 2 mean(T) - mean(T/2)."""
        if not tail:
            return self.mean_coef
        step = PER_OCTAVE
        earlier = torch.cat((self.mean_coef[:1].expand(step, -1), self.mean_coef[:-step]))
        return torch.cat((self.mean_coef[:step], (2 * self.mean_coef - earlier)[step:]))


@dataclass(frozen=True)
class Target:
    """A problem, its Lasso and which columns are trained; with the norms that errors are relative to."""

    problem: Problem
    lasso: LassoSolution
    kept: Tensor

    @cached_property
    def X(self) -> Tensor:  # noqa: N802 (the field's name)
        return self.problem.design.X

    @cached_property
    def y(self) -> Tensor:
        return self.problem.y.double().cpu()

    @cached_property
    def gram(self) -> Tensor:
        """(k, k) S on the support."""
        used = self.X[:, self.lasso.support]
        return used.T @ used / len(self.y)

    @cached_property
    def size(self) -> float:
        """||b*||, or 1 where the Lasso is zero."""
        return float(self.lasso.coef.norm()) or 1.0

    @cached_property
    def fit_size(self) -> float:
        """||X b*||, or ||y|| where the Lasso is zero."""
        return float((self.X @ self.lasso.coef).norm()) or float(self.y.norm()) or 1.0

    def errors(self, coef: Tensor) -> tuple[Array, Array, Array]:
        """(distance, fit, excess) of coefficients (M, d)."""
        away = coef - self.lasso.coef
        fitted = away @ self.X.T
        residual = self.y - self.X @ self.lasso.coef - fitted
        value = residual.square().sum(-1) / (2 * len(self.y)) + coef.abs() @ self.lasso.penalty
        best = self.lasso.objective or 1.0
        distance, fit = away.norm(dim=-1) / self.size, fitted.norm(dim=-1) / self.fit_size
        return distance.numpy(), fit.numpy(), ((value - self.lasso.objective) / best).numpy()


def whole(problem: Problem, lasso: LassoSolution) -> Target:
    """The Target in which all columns are trained."""
    return Target(problem, lasso, torch.ones(problem.d, dtype=torch.bool))


def way(target: Target, dynamics: Dynamics, penalty: Tensor, times: Tensor) -> Way:
    """The limit flow at `times`, on the columns that take part; the others stay at 0."""
    kept, d = target.kept, target.problem.d
    flow = limit_flow(
        target.X[:, kept],
        target.y,
        times,
        penalty[kept],
        parametrisation=dynamics.parametrisation,
        loss_constant=dynamics.loss_constant,
        init=dynamics.init,
        rtol=RTOL,
    )
    assert flow.mean_coef is not None

    def filled(part: Tensor) -> Tensor:
        out = torch.zeros(len(part), d, dtype=torch.float64)
        out[:, kept] = part
        return out

    return Way(flow.times, filled(flow.mean_coef), filled(flow.coef), filled(flow.log_weights.exp().sum(-2)))


def octaves(last: float, count: int) -> Tensor:
    """(count,) times up to `last`, PER_OCTAVE to an octave."""
    return last * 2.0 ** (torch.arange(1 - count, 1, dtype=torch.float64) / PER_OCTAVE)


def spread(target: Target, dynamics: Dynamics, *, lr: float, std: float, steps: float, tail: bool) -> Tensor:
    """(k, k) covariance, between runs, of the average on the Lasso's support.

    M^-1 V M^-1, M = S + sqrt(3) / (2 a lr K |beta|) over a window of K steps (a slow direction has not moved
    as far as S^-1 says). V of iid noise is S std^2 / (b K), and the ends' log-weights, each of variance
    trigamma(|beta| / 2 lambda_0); in antithetic pairs only the realised power of the noise varies:
    (kurtosis - 1) lambda_i lambda_j corr_ij^2 / (K/2). Rows drawn in batches add S residual^2 / (b K).

    Source: theory.md sections 3 and 5.
    """
    lasso, S, rate = target.lasso, target.gram, dynamics.rate(lr)
    on, n = lasso.support, target.problem.n
    window = steps / 2 if tail else steps
    size, lam, c = lasso.coef[on].abs(), lasso.penalty[on], target.problem.design.c[on]
    b = n if dynamics.batch_size is None else dynamics.batch_size
    power = 0.0 if dynamics.antithetic else std**2
    if not dynamics.reads_all(n):
        power += float((target.y - target.X @ lasso.coef).square().mean())
    V = S * (power / (b * window))
    if dynamics.antithetic:
        corr = S.square() / (c[:, None] * c)
        V = V + (dynamics.noise_kurtosis - 1) * lam[:, None] * lam * corr / (window / 2)
    else:
        ends = torch.from_numpy(polygamma(1, (size * c / (2 * lam)).numpy())) * (2 if tail else 1)
        V = V + torch.diag(ends / (2 * rate * window) ** 2)
    M = S + torch.diag(math.sqrt(3) / (2 * rate * window * size))
    covariance: Tensor = torch.linalg.solve(M, torch.linalg.solve(M, V).T)
    return covariance


def expectation(target: Target, mean: Tensor, covariance: Tensor, error: float, replicas: int = 1) -> Expectation:
    """The errors of an average of given mean (d,) and covariance (on the support); error: relative sd of the model."""
    distance, fit, excess = (float(v[0]) for v in target.errors(mean[None]))
    on, lasso = target.lasso.support, target.lasso
    away = (mean - lasso.coef)[on]
    slope = target.X[:, on].T @ (target.X @ mean - target.y) / len(target.y)
    trace, fitted = float(covariance.trace()), float((covariance @ target.gram).trace())
    total = distance**2 + trace / target.size**2
    wide = (2 * float(covariance.square().sum()) + 4 * float(away @ covariance @ away)) / target.size**4
    wide = wide / total**2 if total else 0.0  # squared coefficient of variation of distance^2, as if lognormal
    middle, n = math.sqrt(total) * (1 + wide) ** -0.125, len(target.y)
    sd = math.sqrt(math.log1p(wide / replicas) + (2 * error) ** 2) / 2
    return Expectation(
        distance=middle,
        fit=math.sqrt(fit**2 + n * fitted / target.fit_size**2),
        excess=excess + fitted / 2 / (target.lasso.objective or 1.0),
        drift=distance,
        low=middle * math.exp(-NORMAL_90 * sd),
        high=middle * math.exp(NORMAL_90 * sd),
        lambda_ratio=float((-torch.sign(lasso.coef[on]) * slope / lasso.penalty[on]).mean()),
    )


def expect(
    target: Target, dynamics: Dynamics, *, lr: float, std: float, steps: int, tail: bool, replicas: int = 1
) -> Expectation:
    """What a run of so many steps should show: the flow under its actual penalty, and the noise about it."""
    penalty = dynamics.actual_penalty(target.problem, target.lasso, lr, std)
    last = dynamics.time(lr * steps)
    times = torch.tensor([last / 2, last], dtype=torch.float64)
    half, full = way(target, dynamics, penalty, times).mean_coef
    mean = 2 * full - half if tail else full
    covariance = spread(target, dynamics, lr=lr, std=std, steps=steps, tail=tail)
    bias = dynamics.bias(target.problem, target.lasso, lr)[target.lasso.support]
    second = float(bias.mean()) if len(bias) else 0.0  # what the second order in lr may be, relative to the first
    error = math.hypot(MODEL_ERROR if dynamics.antithetic else IID_MODEL_ERROR, second)
    return expectation(target, mean, covariance, error, replicas)
