"""predict() for Adam, AdamW and RMSprop: the penalty |beta|^(1 - 1/L), its further terms, and what is left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lntrain._checks import real_number
from lntrain.data.problem import Problem
from lntrain.lasso.concave import Power, StationaryPoint, stationary_point
from lntrain.models.diagonal import DiagonalLinear
from lntrain.penalty.adaptive import AdaptiveStep
from lntrain.penalty.formula import decay_penalty

REFUSED = ("amsgrad", "maximize", "centered", "momentum")  # options under which no penalty is known
FORGETS = 0.5  # the least memory factor: below it the linear theory is off by more than a few percent
SAID = 0.01  # what changes the penalty by less than this is no note


@dataclass(frozen=True)
class AdaptiveProblem:
    """What `predict` says of an adaptive optimiser: the fields of Prediction that it knows."""

    step: AdaptiveStep
    terms: tuple[Power, ...]
    reference: StationaryPoint
    memory: Tensor
    notes: tuple[str, ...]


def options_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """lr, beta1, beta2, eps, weight_decay, decoupled of an optimiser whose penalty is known.

    Raises:
        ValueError: an option, or groups, under which none is, by name.
    """
    first, *others = optimizer.param_groups
    name = type(optimizer).__name__
    for option in REFUSED:
        if any(group.get(option) for group in optimizer.param_groups):
            raise ValueError(
                f"no penalty is predicted for {name} with {option}={first[option]}: leave it at its default"
            )
    kept = ("lr", "betas", "alpha", "eps", "weight_decay", "decoupled_weight_decay")
    if any(other.get(key) != first.get(key) for other in others for key in kept):
        raise ValueError(f"{name}: parameter groups of different options solve no known problem")
    if not real_number("lr", first["lr"]) > 0:
        raise ValueError(f"lr={first['lr']:g} must be positive: without steps nothing is trained")
    beta1, beta2 = first["betas"] if "betas" in first else (0.0, first["alpha"])
    if not 0 <= beta2 < 1:
        raise ValueError(f"alpha={beta2:g}: v is never renewed, so no penalty is predicted: take one below 1")
    decoupled = isinstance(optimizer, torch.optim.AdamW) or bool(first.get("decoupled_weight_decay"))
    return {
        "lr": float(first["lr"]),
        "beta1": float(beta1),
        "beta2": float(beta2),
        "eps": float(first["eps"]),
        "weight_decay": float(first["weight_decay"]),
        "decoupled": decoupled,
    }


def adaptive_problem(
    model: DiagonalLinear,
    problem: Problem,
    options: dict[str, Any],
    *,
    std: float,
    rows: int,
    drawn: bool,
    loss_constant: float,
) -> AdaptiveProblem:
    """The penalised problem of theory.md section 9, one certified stationary point of it, and notes.

    Args:
        model, problem: as for `predict`. options: of `options_of`. std: of the noise. rows: labels a step reads, b.
        drawn: whether these are drawn. loss_constant: of the loss.

    Raises:
        ValueError: v forgets too soon; coupled decay at depth above 2.
    """
    names = ("lr", "beta1", "beta2")
    step = AdaptiveStep(problem.design, std=std, rows=rows, depth=model.depth, **{key: options[key] for key in names})
    terms = _decay(step, model, options, loss_constant)
    positive = model.parametrisation == "square"
    X, y = problem.design.array, problem.y
    reference = stationary_point(X, y, step.weights, step.exponent, terms=terms, positive=positive)
    memory = step.memory(reference.coef)
    if float(memory.min()) < FORGETS:
        raise ValueError(_forgets(step, reference.coef, memory))
    notes = [*_notes(step, reference.coef, memory), *_more_notes(step, model, options, reference.coef, loss_constant)]
    if (twins := _twins(problem, reference.support)) is not None:
        where = (
            "at a saddle or, with this decay, a minimum" if any(term.exponent > 1 for term in terms) else "at a saddle"
        )
        notes.append(f"columns {twins} are proportional: from equal weights they share a coefficient, {where}")
    if drawn:
        notes.append("rows drawn in batches add the variance of their own gradients to s_j^2, which is left out")
    return AdaptiveProblem(step, terms, reference, memory, tuple(notes))


def _twins(problem: Problem, on: Tensor) -> str | None:
    """A column of the support and one proportional to it, "j and k"."""
    c = problem.design.c
    apart = c[:, None] * c[on] - problem.design.gram(on).square()
    same = (apart <= 1e-12 * c[:, None] * c[on]).nonzero()
    columns = on.nonzero()[:, 0]
    pairs = [(int(columns[k]), int(j)) for j, k in same if j != columns[k]]
    return f"{pairs[0][0]} and {pairs[0][1]}" if pairs else None


def _decay(
    step: AdaptiveStep, model: DiagonalLinear, options: dict[str, Any], loss_constant: float
) -> tuple[Power, ...]:
    decay, depth = options["weight_decay"], model.depth
    if not decay:
        return ()
    if options["decoupled"]:
        return (Power(decay * step.sd / (1 + 1 / depth), 1 + 1 / depth),)
    if depth > 2:
        raise ValueError(
            f"no penalty is predicted for weight_decay={decay} in the gradient at depth {depth}: use AdamW"
        )
    return (Power(torch.full_like(step.sd, decay_penalty(decay, model.parametrisation, loss_constant)), 1.0),)


def _forgets(step: AdaptiveStep, coef: Tensor, memory: Tensor) -> str:
    j = int(memory.argmin())
    relaxes = float(step.design.c[j] * step.lr * step.depth * coef[j].abs() ** step.exponent / step.sd[j])
    forgets = min(relaxes, 0.1) / 20
    enough = f"{1 - forgets:.{2 - math.floor(math.log10(forgets))}f}"  # as many digits as tell it from 1
    return (
        f"beta2={step.beta2:g} is too small: v forgets before weights relax, which leaves {float(memory[j]):.2g} "
        f"of the penalty of column {j}; take {enough}, which leaves .95, or a larger lr"
    )


def _notes(step: AdaptiveStep, coef: Tensor, memory: Tensor) -> list[str]:
    """What the formula itself leaves out."""
    on = step.on(coef)
    notes = [
        "not convex: the reference is one certified stationary point, a run may end at another",
        f"off the support weights fall and come back in bursts of some lr, |beta| near {step.lr**step.depth:.1g}"
        + (f"; with beta1={step.beta1:g} these take a few percent from the penalty of the others" * bool(step.beta1)),
    ]
    if not bool(on.any()):
        return [*notes, "the reference is 0"]
    if float((1 - memory).max()) > SAID:
        kept, most = float(memory[on].min()), float(memory[on].max())
        notes.append(f"the memory of v, beta2={step.beta2:g}, leaves {kept:.3f} to {most:.3f} of the penalty")
    bias = step.bias(coef)[on]
    largest = float(bias[bias.abs().argmax()])
    if abs(largest) > SAID:
        notes.append(f"the finite step and beta1={step.beta1:g} change the penalty by up to {largest:+.1%}")
    if step.depth > 2:
        notes.append("at depth above 2 exact only where the penalty moves beta little")
    return notes


def _more_notes(
    step: AdaptiveStep, model: DiagonalLinear, options: dict[str, Any], coef: Tensor, loss_constant: float
) -> list[str]:
    """What this optimiser and this parametrisation add to it."""
    on, notes = step.on(coef), []
    if not bool(on.any()):
        return []
    share = 1.0 if model.parametrisation == "hadamard" else float(step.depth)
    root = 2 * loss_constant * share * coef[on].abs() ** step.exponent * step.sd[on]  # sqrt(v)
    least = float(root.min())
    if options["eps"] > SAID * least:
        notes.append(f"eps={options['eps']:g} is {options['eps'] / least:.1%} of the least sqrt(v): take a smaller one")
    if model.parametrisation == "hadamard":
        notes.append(f"|u| and |v| become equal within some {2 * float(coef.abs().max()) / step.lr**2:.1g} steps")
    return notes
