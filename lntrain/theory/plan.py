"""What is known before the first step: the step size, the penalty, its Lasso, and how long it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lntrain._moved import renamed
from lntrain.data.problem import Problem
from lntrain.lasso.solve import LassoSolution, equicorrelation_set, weighted_lasso
from lntrain.penalty.formula import alpha_max, effective_penalty
from lntrain.theory.choose import FINEST, Choice, Limits, best_choice, largest_lr, margins, stable_along
from lntrain.theory.dynamics import Dynamics
from lntrain.theory.expectation import PER_OCTAVE, Expectation, Target, expect, octaves, way, whole
from lntrain.theory.support import undecided_probability

TARGET_DISTANCE = 0.005  # wished relative distance, where none is named
MARGIN = 0.05  # 1 - |g_j|/lambda_j below which a coordinate off the support is a near tie, which no plan waits for
DEFAULT_RATIO = 0.1
LARGE = 0.05  # a relative error of lambda that the plan notes
LOOSE = 0.03  # a distance of the coefficients from which on a table may be called ill-determined
FARTHER = 4.0  # columns are left out only if the stable step becomes this many times larger
PAIRS_PAY = 10.0  # iid noise must take so many times more work for antithetic pairs to be chosen
BATCHES_PAY = 2.0  # batches are chosen if whole-batch steps take this many times more work
NEARLY = 0.3  # of log distance + log fit: choices this close to the best are compared by work
LONGEST = 1e10  # bound on work and steps where there is no budget


@dataclass(frozen=True)
class Plan:
    """A prediction: lr, std, penalty (d,), its Lasso (None without noise), alpha = mean lambda_j / c_j, steps.

    expected: for the judged average, over the second half of the steps where `tail`, else over all;
    tenfold: (distance, fit) that ten times the work would reach; kept (d,): the columns that are trained;
    ill_determined: the uncertainty +/- x of the coefficients if they are less determined than the fit, else None.
    """

    dynamics: Dynamics
    lr: float
    std: float
    penalty: Tensor | None
    reference: LassoSolution | None
    alpha: float
    alpha_ratio: float
    stable_lr: float
    steps: int
    planned_steps: int
    kept: Tensor
    expected: Expectation | None = None
    tenfold: tuple[float, float] | None = None
    near_ties: int = 0
    corrected: bool = False
    tail: bool = False
    ill_determined: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def short(self) -> bool:
        """Whether the steps are too few for the distance that is wished."""
        return self.steps < 0.8 * self.planned_steps


@renamed
def make_plan(
    problem: Problem,
    dynamics: Dynamics | Sequence[Dynamics] = Dynamics(),  # noqa: B008 (frozen)
    *,
    lr: float | None = None,
    std: float | None = None,
    alpha: float | None = None,
    alpha_ratio: float | None = None,
    steps: int | None = None,
    target_distance: float | None = None,
    budget: float | None = None,
    corrected: bool = False,
    tail: bool = False,
    replicas: int = 1,
) -> Plan:
    """Predict the Lasso and size the run.

    Args:
        dynamics: one, or several to choose from: the first, unless antithetic pairs take a tenth of its work
            or batches half.
        lr, steps: None chooses them. std, alpha, alpha_ratio: at most one; none means alpha_ratio 0.1.
        target_distance: wished relative distance of the coefficients and of the fit; None: 0.005, within the budget.
        budget: most work of a run without given steps or target_distance, in nominal operations (`Dynamics.cost`).
        corrected: choose std so that the penalty with its finite-step bias is the wished one.
        tail: judge the mean over the second half. replicas: networks, which share the budget.

    Raises:
        ValueError: two of std, alpha, alpha_ratio, or a value out of range, named as in the configuration.

    >>> from lntrain import sparse_regression
    >>> plan = make_plan(sparse_regression(seed=1), Dynamics(), alpha_ratio=0.1)
    >>> plan.lr < plan.stable_lr, plan.expected.low < 0.005 < plan.expected.high
    (True, True)
    """
    _check(std, alpha, alpha_ratio, lr, steps, target_distance, budget)
    several = [dynamics] if isinstance(dynamics, Dynamics) else list(dynamics)
    largest = alpha_max(problem, problem.y)
    if std == 0:
        return _plan_without_noise(problem, several[0], lr, steps)
    if std is None and alpha is None:
        alpha = (DEFAULT_RATIO if alpha_ratio is None else alpha_ratio) * largest
    if alpha == 0:
        raise ValueError("the target is orthogonal to every column of X: its Lasso is zero, there is nothing to train")
    work = LONGEST if budget is None or target_distance is not None else budget
    limits = Limits(
        lr, steps, work, target_distance or TARGET_DISTANCE, corrected and alpha is not None, tail, replicas
    )
    if alpha is None:
        several = several[:1]
        lr, lasso = _lr_for_std(problem, several[0], float(std or 0), limits)
        limits = Limits(lr, steps, work, limits.target_distance, False, tail, replicas)
    else:
        lasso = _wished_lasso(problem, several[0], alpha)
    target, stables = _taking_part(problem, lasso, several)
    choice, stable = _choose(target, several, stables, limits)
    return _plan(target, choice, stable, limits, largest)


def _check(
    std: float | None,
    alpha: float | None,
    alpha_ratio: float | None,
    lr: float | None,
    steps: int | None,
    target_distance: float | None,
    budget: float | None,
) -> None:
    given = {"noise.std": std, "penalty.alpha": alpha, "penalty.alpha_ratio": alpha_ratio}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} are both given: each fixes the penalty, keep one")
    for name, value in given.items():
        if value is not None and not (math.isfinite(value) and value >= 0 and (value > 0 or name == "noise.std")):
            raise ValueError(f"{name}={value} must be positive and finite")
    for name, value in (
        ("optimizer.lr", lr),
        ("steps", steps),
        ("target_distance", target_distance),
        ("budget", budget),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be positive and finite")


def _wished_lasso(problem: Problem, dynamics: Dynamics, alpha: float) -> LassoSolution:
    """The Lasso with lambda_j = alpha c_j and what weight decay adds."""
    penalty = alpha * problem.design.c + dynamics.decay
    return weighted_lasso(problem.design.array, problem.y, penalty, positive=dynamics.parametrisation == "square")


def _lr_for_std(problem: Problem, dynamics: Dynamics, std: float, limits: Limits) -> tuple[float, LassoSolution]:
    """(lr, Lasso) of a given std: the penalty grows with lr, so that both are found together."""
    options, rate = dynamics.penalty_options(), 0.01 if limits.lr is None else limits.lr
    positive, last = dynamics.parametrisation == "square", None
    for _ in range(60):
        penalty = effective_penalty(problem, lr=rate, std=std, **options)
        last = weighted_lasso(
            problem.design.array, problem.y, penalty, positive=positive, start=None if last is None else last.coef
        )
        if limits.lr is not None:
            return rate, last
        target = whole(problem, last)
        bound = largest_lr(target, dynamics, stable_along(target, dynamics, None), limits)
        if 0.8 * bound <= rate <= bound:
            return rate, last
        rate = math.sqrt(rate * 0.9 * bound)
    raise ValueError(f"no step size suits noise.std={std:g}: give optimizer.lr, or penalty.alpha in place of noise.std")


def _taking_part(
    problem: Problem, lasso: LassoSolution, several: Sequence[Dynamics]
) -> tuple[Target, dict[Dynamics, float]]:
    """The columns to train: one with ||x_j|| ||y|| / n < lambda_j decays to 0 whatever the residual.

    Such a column is left out (at 0) only where its large penalty alone forbids the step that the others need.
    """
    everything = whole(problem, lasso)
    stables = {each: stable_along(everything, each, None) for each in several}
    lengths = problem.design.c.sqrt() * everything.y.square().mean().sqrt()
    kept = (lengths >= lasso.penalty) | lasso.support
    if bool(kept.all()) or not bool(lasso.support.any()):
        return everything, stables
    fewer = Target(problem, lasso, kept)
    freed = {each: stable_along(fewer, each, None) for each in several}
    return (fewer, freed) if freed[several[0]] > FARTHER * stables[several[0]] else (everything, stables)


def _choose(
    target: Target, several: Sequence[Dynamics], stables: dict[Dynamics, float], limits: Limits
) -> tuple[Choice, float]:
    """(the chosen dynamics with its step size and steps, its largest stable step along the path)."""
    n, d, first = target.problem.n, target.problem.d, several[0]
    cheapest = min(each.cost(n, d) for each in several) * limits.replicas
    most = min(max(limits.steps or 0, 10 * limits.work / cheapest), 10 * LONGEST)
    largest = max(each.time(limits.lr or stables[each] / 2) for each in several)
    smallest = min(each.time(limits.lr or stables[each] / 2) for each in several) / FINEST
    count = PER_OCTAVE * math.ceil(math.log2(most * largest / smallest / 256))
    path = way(target, first, target.lasso.penalty, octaves(most * largest, max(count, 4 * PER_OCTAVE)))
    found: list[tuple[Choice, float]] = []
    for each in several:
        stable = min(stables[each], stable_along(target, each, path))
        choice = best_choice(target, each, path, largest_lr(target, each, stable, limits), limits)
        if choice is not None:
            found.append((choice, stable))
    if not found:
        raise ValueError(
            "the draw of rows alone penalises more than is wished: raise batch_size, or lower optimizer.lr"
        )
    least = min(choice.score for choice, _ in found)

    def price(found: tuple[Choice, float]) -> float:
        own = found[0].dynamics
        pairs, batches = own.antithetic != first.antithetic, own.batch_size != first.batch_size
        return found[0].needed_work * (PAIRS_PAY if pairs else 1) * (BATCHES_PAY if batches else 1)

    if not math.isfinite(least):
        raise ValueError("no plan can be made of these numbers: lr, std or target_distance are too small or too large")
    return min((each for each in found if each[0].score <= least + NEARLY), key=price)


def _as_trained(target: Target, choice: Choice) -> Target:
    """The target with exactly the penalty that lr and std give, since a resumed run knows only these two."""
    problem, own = target.problem, choice.dynamics
    penalty = effective_penalty(problem, lr=choice.lr, std=choice.std, **own.penalty_options())
    lasso = weighted_lasso(problem.design.array, problem.y, penalty, positive=own.parametrisation == "square")
    return Target(problem, lasso, target.kept)


def _plan(target: Target, choice: Choice, stable: float, limits: Limits, largest: float) -> Plan:
    target = target if limits.corrected else _as_trained(target, choice)
    problem, lasso = target.problem, target.lasso
    expected = expect(
        target,
        choice.dynamics,
        lr=choice.lr,
        std=choice.std,
        steps=choice.steps,
        tail=limits.tail,
        replicas=limits.replicas,
    )
    alpha = float((lasso.penalty / problem.design.c).mean())
    own = expected.distance if choice.dynamics.antithetic else expected.drift  # iid noise is no fault of the table
    loose = expected.distance if own > LOOSE and expected.fit < expected.distance / 2 else None
    plan = Plan(
        choice.dynamics,
        choice.lr,
        choice.std,
        lasso.penalty,
        lasso,
        alpha,
        alpha / largest,
        stable,
        choice.steps,
        choice.needed,
        target.kept,
        expected,
        choice.tenfold,
        int((margins(target) < MARGIN).sum()),
        limits.corrected,
        limits.tail,
        loose,
    )
    plan.notes.extend(_notes(plan, target, limits))
    return plan


def _plan_without_noise(problem: Problem, dynamics: Dynamics, lr: float | None, steps: int | None) -> Plan:
    zero = torch.zeros(problem.d, dtype=torch.float64)
    coef = problem.coef if problem.coef is not None else torch.linalg.pinv(problem.design.X) @ problem.y.double()
    target = whole(problem, LassoSolution(coef.double().cpu(), 0.0, 0.0, zero))
    stable = stable_along(target, dynamics, None)
    rate = stable / 20 if lr is None else lr
    notes = ["no label noise: no Lasso is predicted; gradient descent finds an interpolator that depends on init"]
    return Plan(dynamics, rate, 0.0, None, None, 0.0, 0.0, stable, steps or 100_000, 100_000, target.kept, notes=notes)


def _notes(plan: Plan, target: Target, limits: Limits) -> list[str]:
    notes, expected = [], plan.expected
    assert expected is not None
    if plan.short:
        notes.append(
            f"steps={plan.steps} is short: about {plan.planned_steps} are needed for an expected distance of "
            f"{limits.target_distance:g} (steps=auto plans them)"
        )
    if plan.lr > plan.stable_lr:
        notes.append(f"optimizer.lr={plan.lr:g} is above the stable step {plan.stable_lr:.3g}: expect divergence")
    elif abs(expected.lambda_ratio - 1) > LARGE and bool(target.lasso.support.any()):
        notes.append(f"optimizer.lr={plan.lr:g} is large: lambda will be about {expected.lambda_ratio - 1:+.0%} off")
    if plan.near_ties:
        notes.append(
            f"{plan.near_ties} coordinate(s) are near ties (within {MARGIN:.0%} of entering): their support shows late"
        )
    if not plan.dynamics.antithetic and bool(target.lasso.support.any()):
        rate = plan.dynamics.rate(plan.lr)
        unsure = (
            undecided_probability(target.problem, target.y, target.lasso, rate=rate, steps=plan.steps) * target.kept
        )
        if float(unsure.sum()) >= 0.5:
            notes.append(
                f"about {float(unsure.sum()):.0f} coordinate(s) will be undecided, on or off, after these steps"
            )
    if not bool(target.lasso.support.any()):
        notes.append("the penalty exceeds alpha_max: the predicted solution is zero")
    left = int((~plan.kept).sum())
    if left:
        notes.append(
            f"{left} column(s) are left at 0: at this penalty |x_j| |y| / n < lambda_j, no residual can hold them, and "
            "their scale alone would forbid the step that the others need (problem.scale=true needs no such thing)"
        )
    if plan.ill_determined is not None:
        notes.append(_why_loose(target, plan.ill_determined))
    return notes


def _why_loose(target: Target, x: float) -> str:
    """Why the coefficients are less determined than the fit."""
    tied = equicorrelation_set(target.X, target.y, target.lasso)
    used = target.X[:, tied] / target.X[:, tied].norm(dim=0)
    values = torch.linalg.svdvals(used)
    rank = int((values > 1e-8 * values[0]).sum())
    if rank < int(tied.sum()):
        why = f"the Lasso is not unique ({int(tied.sum())} columns at their penalty, of rank {rank}: duplicates)"
    else:
        why = f"its {rank} columns have condition number {float(values[0] / values[-1]):.3g}"
    return f"ill-determined: the coefficients are known to +/- {x:.2g} only, {why}; judge the fit and the objective"
