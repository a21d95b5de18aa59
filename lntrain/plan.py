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
PAIRED_BIAS = 0.005  # and with antithetic noise, whose last iterate is as far from the Lasso as the step is large
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

    def rate(self, lr: float) -> float:
        """a * lr, with momentum's factor: log w^2 moves by 2 a lr (lambda -/+ g) a step."""
        return float(
            step_factor(self.parametrisation, self.loss_scale) * effective_lr(lr, self.momentum, self.dampening)
        )

    def bias(self, problem: Problem, lasso: LassoSolution, lr: float) -> Tensor:
        """Finite-step bias of lambda, (d,)."""
        return finite_step_bias(
            problem.X, lasso.coef, lasso.penalty, lr=lr, parametrisation=self.parametrisation, loss_scale=self.loss_scale,
            momentum=self.momentum, dampening=self.dampening, antithetic=self.antithetic,
            kurtosis=gradient_kurtosis(problem.X, self.noise_kurtosis, self.batch_size),
        )  # fmt: skip

    def stable(self, problem: Problem, lasso: LassoSolution) -> float:
        """The largest stable step at the Lasso's solution."""
        return stable_lr(
            problem.X, lasso.coef, parametrisation=self.parametrisation, loss_scale=self.loss_scale,
            momentum=self.momentum, dampening=self.dampening, nesterov=self.nesterov, batch_size=self.batch_size,
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


@dataclass(frozen=True)
class Errors:
    """What keeps the mean of K steps from the Lasso, relative to its norm: noise / sqrt(K) at random, start / K, bias."""

    noise: float
    start: Tensor
    bias: Tensor
    largest_bias: float

    def distance(self, steps: int) -> float:
        """The rms distance to expect after so many steps."""
        return math.hypot(self.noise / math.sqrt(steps), float((self.start / steps + self.bias).norm()))


def expected_errors(problem: Problem, dynamics: Dynamics, lasso: LassoSolution, *, lr: float, std: float) -> Errors:
    """Errors on the Lasso's support (theory.md sections 3 and 4), S and beta restricted to it.

    noise^2 = tr(S^-1) (std^2 + mean square residual, in batches) / b; 0 for antithetic pairs;
    start = S^-1 (log(|beta| / init^2) sign / (2 a lr)); bias = S^-1 (relative bias * lambda sign).
    """
    X, y = problem.X.double().cpu(), problem.y.double().cpu()
    on, size = lasso.support, float(lasso.coef.norm())
    relative = dynamics.bias(problem, lasso, lr)
    if not bool(on.any()):
        nothing = torch.zeros(1, dtype=torch.float64)
        return Errors(0.0, nothing, nothing, float(relative.max()))
    inverse = torch.linalg.pinv(X[:, on].T @ X[:, on] / len(y))
    b = dynamics.batch_size or len(y)
    power = 0.0 if dynamics.antithetic else std**2
    if b < len(y) and dynamics.sampling != "haochen":
        power += float((y - X @ lasso.coef).square().mean())
    way = (lasso.coef[on].abs() / dynamics.init**2).log() / (2 * dynamics.rate(lr))
    sign = torch.sign(lasso.coef[on])
    return Errors(
        noise=math.sqrt(float(inverse.diagonal().sum()) * power / b) / size,
        start=inverse @ (way * sign) / size,
        bias=inverse @ (relative[on] * lasso.penalty[on] * sign) / size,
        largest_bias=float(relative[on].max()),
    )


def choose_lr(
    problem: Problem,
    dynamics: Dynamics,
    *,
    std: float | None,
    alpha: float | None,
    lr: float | None,
    accuracy: float = math.inf,
    bias: float = BIAS,
) -> tuple[float, float, LassoSolution]:
    """(lr, std, Lasso): lr as given, or the largest whose bias of lambda is at most `bias` and half the stable step.

    Its bias of the coefficients stays within `accuracy` too. A wished alpha fixes the Lasso and std follows
    from lr; a given std makes alpha follow lr.
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
        errors = expected_errors(problem, dynamics, lasso, lr=rate, std=float(level))  # type: ignore[arg-type]
        share = max(errors.largest_bias / bias, float(errors.bias.norm()) / accuracy)
        bound = min(rate / share, dynamics.stable(problem, lasso) / 2)
        if 0.9 * bound <= rate <= bound:
            break
        rate = 0.99 * bound if alpha is not None else math.sqrt(rate * 0.95 * bound)
    return rate, float(level), lasso  # type: ignore[arg-type]


def steps_needed(
    problem: Problem, dynamics: Dynamics, lasso: LassoSolution, errors: Errors, *, lr: float, accuracy: float
) -> dict[str, float]:
    """Steps for each thing that takes time (theory.md sections 3 to 5).

    "noise" and "start": each within `accuracy` of the Lasso, and the start within 2 % of lambda;
    "support": log w^2 of every off coordinate beyond a near tie falls by 8 over half the run.
    """
    rate, on, penalty = dynamics.rate(lr), lasso.support, lasso.penalty
    needed = {"noise": (errors.noise / accuracy) ** 2, "start": float(errors.start.norm()) / accuracy, "support": 0.0}
    if bool(on.any()):
        way = (lasso.coef[on].abs() / dynamics.init**2).log().abs()
        needed["start"] = max(needed["start"], float((way / penalty[on]).mean()) / (2 * rate * INIT_SHARE))
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
    >>> round(plan.bias, 9) <= 0.02, plan.lr < plan.stable_lr
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
    bias = PAIRED_BIAS if dynamics.antithetic else BIAS
    rate, level, lasso = choose_lr(problem, dynamics, std=std, alpha=alpha, lr=lr, accuracy=accuracy, bias=bias)
    errors = expected_errors(problem, dynamics, lasso, lr=rate, std=level)
    needed = steps_needed(problem, dynamics, lasso, errors, lr=rate, accuracy=accuracy)
    planned = max(1000, _round_up(max(needed.values())))
    K = planned if steps is None else steps
    alpha = float((lasso.penalty / mean_squares(problem.X).cpu()).mean())
    plan = Plan(
        lr=rate, std=level, penalty=lasso.penalty, reference=lasso, alpha=alpha, alpha_ratio=alpha / largest,
        stable_lr=dynamics.stable(problem, lasso), bias=errors.largest_bias, steps=K, planned_steps=planned,
        expected_distance=errors.distance(K), near_ties=int((margins(problem, lasso) < MARGIN).sum()),
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
    if plan.steps < 0.8 * plan.planned_steps:
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
