"""What is known before the first step: the step size, the penalty, its Lasso, and how long it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lntrain.lasso import LassoSolution, weighted_lasso
from lntrain.penalty import (
    alpha_max,
    effective_lr,
    effective_penalty,
    finite_step_bias,
    gradient_kurtosis,
    mean_squares,
    noise_for_penalty,
    stable_lr,
    step_factor,
)
from lntrain.problem import Problem

BIAS = 0.02  # the finite-step bias of lambda that an automatic lr may have
MARGIN = 0.05  # 1 - |g_j|/lambda_j below which an off coordinate is a near tie, which no plan waits for
INIT_SHARE = 0.02  # of lambda: what the way from the initial weights may still add at the end
DEFAULT_RATIO = 0.1


@dataclass(frozen=True)
class Dynamics:
    """How the weights move: everything but the step size and the noise level."""

    parametrisation: str = "difference"
    loss_scale: float = 0.5
    batch_size: int | None = None
    sampling: str | None = None
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    antithetic: bool = False
    noise_kurtosis: float = 3.0
    init: float = 0.1

    def penalty_options(self) -> dict[str, Any]:
        """The keyword arguments of `effective_penalty` beside lr and std."""
        names = ("parametrisation", "loss_scale", "batch_size", "sampling", "momentum", "dampening", "nesterov")
        return {name: getattr(self, name) for name in (*names, "weight_decay", "antithetic")}

    def bias(self, problem: Problem, lasso: LassoSolution, lr: float) -> float:
        """Largest finite-step bias of lambda on the Lasso's support (everywhere, where that is empty)."""
        values = finite_step_bias(
            problem.X, lasso.coef, lasso.penalty, lr=lr, parametrisation=self.parametrisation, loss_scale=self.loss_scale,
            momentum=self.momentum, dampening=self.dampening, antithetic=self.antithetic,
            kurtosis=gradient_kurtosis(problem.X, self.noise_kurtosis, self.batch_size),
        )  # fmt: skip
        return float((values[lasso.support] if bool(lasso.support.any()) else values).max())

    def stable(self, problem: Problem, lasso: LassoSolution) -> float:
        """The largest stable step at the Lasso's solution."""
        return stable_lr(
            problem.X, lasso.coef, parametrisation=self.parametrisation, loss_scale=self.loss_scale,
            momentum=self.momentum, batch_size=self.batch_size,
        )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A prediction: lr, std, penalty (d,), its Lasso (None without noise), alpha = mean lambda_j / c_j, steps."""

    lr: float
    std: float
    penalty: Tensor | None
    reference: LassoSolution | None
    alpha: float
    alpha_ratio: float
    stable_lr: float
    bias: float
    steps: int
    planned_steps: int
    expected_distance: float
    near_ties: int
    notes: list[str] = field(default_factory=list)


def choose_lr(
    problem: Problem, dynamics: Dynamics, *, std: float | None, alpha: float | None, lr: float | None
) -> tuple[float, float, LassoSolution]:
    """(lr, std, Lasso): lr as given, or the largest with bias <= 2 % and half the stable step.

    A wished alpha fixes the Lasso and std follows from lr; a given std makes alpha follow lr.
    """
    options = dynamics.penalty_options()
    automatic, rate = lr is None, 0.01 if lr is None else lr
    positive = dynamics.parametrisation == "square"
    for _ in range(60):
        level = noise_for_penalty(problem.X, alpha, lr=rate, **options) if alpha is not None else std
        penalty = effective_penalty(problem.X, lr=rate, std=level, **options)
        lasso = weighted_lasso(problem.X, problem.y, penalty, positive=positive)
        if not automatic:
            break
        bound = min(rate * BIAS / dynamics.bias(problem, lasso, rate), dynamics.stable(problem, lasso) / 2)
        if 0.9 * bound <= rate <= bound:
            break
        rate = 0.99 * bound if alpha is not None else math.sqrt(rate * 0.95 * bound)
    return rate, float(level), lasso  # type: ignore[arg-type]


def steps_needed(
    problem: Problem, dynamics: Dynamics, lasso: LassoSolution, *, lr: float, accuracy: float
) -> dict[str, float]:
    """Steps for each thing that takes time (theory.md sections 3 to 5).

    "noise": rms distance of the mean `accuracy`: E|dbeta|^2 = (s^2 / (b K)) tr (S_on)^-1;
    "start": the way of log w^2 from the initial weights adds less than 2 % to lambda;
    "support": log w^2 of every off coordinate beyond a near tie falls by 8 over half the run.
    """
    rate = step_factor(dynamics.parametrisation, dynamics.loss_scale) * effective_lr(
        lr, dynamics.momentum, dynamics.dampening
    )
    X, y = problem.X.double().cpu(), problem.y.double().cpu()
    on, penalty = lasso.support, lasso.penalty
    needed = {"noise": 0.0, "start": 0.0, "support": 0.0}
    if bool(on.any()):
        S = X[:, on].T @ X[:, on] / len(y)
        alpha = float((penalty / mean_squares(X)).mean())
        spread = float(torch.linalg.pinv(S).diagonal().sum()) * 2 * alpha / rate
        needed["noise"] = spread / (float(lasso.coef.norm()) * accuracy) ** 2
        way = (lasso.coef[on].abs() / dynamics.init**2).log().abs()
        needed["start"] = float((way / penalty[on]).mean()) / (2 * rate * INIT_SHARE)
    margin = margins(problem, lasso)
    if len(margin):
        far = margin[margin > MARGIN]
        slowest = float(far.min()) if len(far) else 1.0
        needed["support"] = 1.5 * 8.0 / (rate * float(penalty.min()) * slowest)
    return needed


def margins(problem: Problem, lasso: LassoSolution) -> Tensor:
    """1 - |g_j| / lambda_j of the coordinates off the support (one-sided where coef >= 0 is imposed)."""
    X, y = problem.X.double().cpu(), problem.y.double().cpu()
    slope = X.T @ (y - X @ lasso.coef) / len(y)
    return (1 - (slope if lasso.positive else slope.abs()) / lasso.penalty)[~lasso.support]


def make_plan(
    problem: Problem,
    dynamics: Dynamics,
    *,
    lr: float | None = None,
    std: float | None = None,
    alpha: float | None = None,
    alpha_ratio: float | None = None,
    steps: int | None = None,
    accuracy: float = 0.01,
) -> Plan:
    """Predict the Lasso and size the run.

    Args:
        lr, steps: None chooses them. std, alpha, alpha_ratio: at most one; none means alpha_ratio 0.1.
        accuracy: wished rms distance of the mean to the Lasso, for the planned steps.

    Raises:
        ValueError: two wishes at once, or one out of range, named as in the configuration.

    >>> from lntrain import sparse_regression
    >>> plan = make_plan(sparse_regression(seed=1), Dynamics(), alpha_ratio=0.1)
    >>> plan.bias <= 0.02, plan.lr < plan.stable_lr
    (True, True)
    """
    given = {"noise.std": std, "penalty.alpha": alpha, "penalty.alpha_ratio": alpha_ratio}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} are both given: each fixes the penalty, keep one")
    for name, value in given.items():
        if value is not None and not (math.isfinite(value) and value >= 0 and (value > 0 or name == "noise.std")):
            raise ValueError(f"{name}={value} must be positive and finite")
    for name, value in (("optimizer.lr", lr), ("steps", steps), ("accuracy", accuracy)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be positive and finite")
    largest = alpha_max(problem.X, problem.y)
    if std == 0:
        return _plan_without_noise(problem, dynamics, lr, steps, largest)
    if std is None and alpha is None:
        alpha = (DEFAULT_RATIO if alpha_ratio is None else alpha_ratio) * largest
    if alpha == 0:
        raise ValueError("the target is orthogonal to every column of X: its Lasso is zero, there is nothing to train")
    rate, level, lasso = choose_lr(problem, dynamics, std=std, alpha=alpha, lr=lr)
    needed = steps_needed(problem, dynamics, lasso, lr=rate, accuracy=accuracy)
    planned = max(1000, _round_up(max(needed.values())))
    K = planned if steps is None else steps
    alpha = float((lasso.penalty / mean_squares(problem.X).cpu()).mean())
    plan = Plan(
        lr=rate, std=level, penalty=lasso.penalty, reference=lasso, alpha=alpha, alpha_ratio=alpha / largest,
        stable_lr=dynamics.stable(problem, lasso), bias=dynamics.bias(problem, lasso, rate), steps=K, planned_steps=planned,
        expected_distance=accuracy * math.sqrt(needed["noise"] / K), near_ties=int((margins(problem, lasso) < MARGIN).sum()),
    )  # fmt: skip
    plan.notes.extend(_notes(plan, needed, accuracy))
    return plan


def _plan_without_noise(
    problem: Problem, dynamics: Dynamics, lr: float | None, steps: int | None, largest: float
) -> Plan:
    zero = torch.zeros(problem.d, dtype=torch.float64)
    coef = problem.coef if problem.coef is not None else torch.linalg.pinv(problem.X.double()) @ problem.y.double()
    guess = LassoSolution(coef.double().cpu(), 0.0, 0.0, zero)
    stable = dynamics.stable(problem, guess)
    rate = stable / 20 if lr is None else lr
    notes = ["no label noise: no Lasso is predicted; gradient descent finds an interpolator that depends on init"]
    return Plan(rate, 0.0, None, None, 0.0, 0.0, stable, math.nan, steps or 100_000, 100_000, math.nan, 0, notes)


def _notes(plan: Plan, needed: dict[str, float], accuracy: float) -> list[str]:
    notes = []
    if plan.steps < plan.planned_steps / 2:
        what = max(needed, key=lambda name: needed[name])
        why = {"noise": f"for an expected distance of {accuracy:g}", "start": "for the start to be forgotten",
               "support": "for the support to show"}[what]  # fmt: skip
        notes.append(
            f"steps={plan.steps} is short: about {plan.planned_steps} are needed {why} (steps=auto plans them)"
        )
    if plan.lr > plan.stable_lr:
        notes.append(f"optimizer.lr={plan.lr:g} is above the stable step {plan.stable_lr:.3g}: expect divergence")
    elif plan.bias > 5 * BIAS:
        notes.append(f"optimizer.lr={plan.lr:g} is large: lambda will be about {plan.bias:.0%} above the prediction")
    if plan.near_ties:
        notes.append(
            f"{plan.near_ties} coordinate(s) are near ties (within {MARGIN:.0%} of entering): their support shows late"
        )
    if plan.reference is not None and not bool(plan.reference.support.any()):
        notes.append("the penalty exceeds alpha_max: the predicted solution is zero")
    return notes


def _round_up(value: float) -> int:
    """Two significant digits, upwards.

    >>> _round_up(123456.0)
    130000
    """
    unit = 10 ** max(0, math.floor(math.log10(max(value, 1.0))) - 1)
    return int(math.ceil(value / unit) * unit)
