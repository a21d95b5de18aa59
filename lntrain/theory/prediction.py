"""predict(): which penalised problem this optimiser solves on this model, read from the objects themselves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lntrain._checks import real_number
from lntrain.data.problem import Problem
from lntrain.lasso.concave import Power, StationaryPoint
from lntrain.lasso.dual import Reference
from lntrain.lasso.groups import GroupLassoSolution, group_lasso
from lntrain.lasso.references import bridge
from lntrain.lasso.solve import LassoSolution, weighted_lasso
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.labels import Additive, Antithetic, Noise, NoNoise, as_noise, unpaired
from lntrain.noise.philox import check_sampling
from lntrain.optim.held import ADAPTIVE, SGD, held_of
from lntrain.optim.sgd import LabelNoiseSGD, noise_of, noise_std
from lntrain.penalty.adaptive import AdaptiveStep
from lntrain.penalty.corrections import depth_penalty
from lntrain.penalty.formula import effective_penalty
from lntrain.penalty.groups import group_penalty
from lntrain.theory.adaptive import adaptive_problem, options_of
from lntrain.theory.choose import stable_along
from lntrain.theory.dynamics import Dynamics
from lntrain.theory.expectation import expect, whole
from lntrain.theory.groups import iid_note, stable_group_lr


@dataclass(frozen=True)
class Prediction:
    """min (1/2n)||y - X beta||^2 + sum_j weights_j |beta_j|^exponent + terms, known before the first step.

    With groups sum_g weights_g ||K_g^(1/2) beta_g||, weights (G,), K_g the reference's metric, bias unknown: NaN.
    weights (d,) float64; exponent: of SGD 1 at depth 2, 2 - 2/L at depth L, of Adam, AdamW and RMSprop 1 - 1/L;
    terms: what an adaptive optimiser's decay adds; reference: its certified solution, or, with an exponent below 1,
    one of its stationary points; bias (d,): of the weights, relative, to first order in the step;
    memory (d,): what the finite memory of v leaves of the weights at the reference, None for SGD;
    stable_lr: the step beyond which training is unstable, NaN where not known; notes: one line each.
    """

    weights: Tensor
    exponent: float
    reference: LassoSolution | GroupLassoSolution | Reference | StationaryPoint
    bias: Tensor
    stable_lr: float
    notes: tuple[str, ...] = ()
    terms: tuple[Power, ...] = ()
    memory: Tensor | None = None
    _expect: Any = field(default=None, repr=False, compare=False)
    _step: AdaptiveStep | None = field(default=None, repr=False, compare=False)

    @property
    def penalty(self) -> Tensor:
        """The Lasso's lambda (d,): the weights, where the exponent is 1."""
        if not isinstance(self.reference, LassoSolution):
            raise ValueError(f"the penalty is {self._form}, no Lasso's: read .weights, .exponent and .reference")
        return self.weights

    def powers_at(self, coef: Tensor) -> tuple[Power, ...]:
        """The penalty that acts near coef (d,), term by term: an adaptive step's memory and bias are taken there."""
        if self._step is None:
            return (Power(self.weights, self.exponent),)
        grown = 1 + self._step.excess(coef) / 2  # of sqrt(v): a decoupled decay is weighed against it
        kept = self.weights * self._step.memory(coef) * (1 + self._step.bias(coef))
        further = (Power(p.weights * grown, p.exponent) if p.exponent > 1 else p for p in self.terms)
        return (Power(kept, self.exponent), *further)

    def hovers(self, coef: Tensor) -> Tensor:
        """(d,) bool, where coef is no larger than what an adaptive step leaves off the support; else exact zeros."""
        return coef == 0 if self._step is None else ~self._step.on(coef)

    def expected_distance(self, steps: int, *, average: str = "all") -> float:
        """Relative distance to the reference that the mean of so many steps should show.

        Args:
            steps: of the whole run. average: "all" (`snapshot.mean_coef`) or "tail" (`snapshot.tail_coef`).

        Raises:
            ValueError: an exponent other than 1, or groups, whose way there is not known in closed form.
        """
        if self._expect is None:
            raise ValueError(f"no distance is predicted for the penalty {self._form}")
        if average not in ("all", "tail") or steps < 1:
            raise ValueError(f'average={average!r}, steps={steps}: give "all" or "tail", and at least 1 step')
        target, dynamics, lr, std = self._expect
        return expect(target, dynamics, lr=lr, std=std, steps=steps, tail=average == "tail").distance

    @property
    def _form(self) -> str:
        return "of groups" if isinstance(self.reference, GroupLassoSolution) else f"|beta|^{self.exponent:.3g}"


def predict(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    problem: Problem,
    *,
    noise: Noise | float | None = None,
    batch_size: int | None = None,
    sampling: str | None = None,
    loss_constant: float = 0.5,
) -> Prediction:
    """The penalised problem that training will solve; call it before the first step.

    SGD: lambda_j = (1/2) a lr V_j + weight_decay / a, V_j = std^2 c_j / b (theory.md section 3); with groups
    `group_penalty`'s group lasso (section 10).
    Adam, AdamW, RMSprop: (L/2) lr std sqrt(c_j / b) |beta_j|^(1 - 1/L) and their decay's term (section 9).

    Args:
        model: a DiagonalLinear: its parametrisation, depth, groups and present weights are read.
        optimizer: LabelNoiseSGD, or torch.optim's SGD, Adam, AdamW or RMSprop: its options and noise are read.
        problem: X (n, d), y (n,). noise: of the labels, where the optimizer carries none.
        batch_size, sampling, loss_constant: as for `train`.

    Returns:
        Prediction.

    Raises:
        ValueError: a model or an optimizer whose penalty is not known, by name; no label noise.

    >>> from lntrain import sparse_regression
    >>> problem = sparse_regression(20, 10, 2)
    >>> model = DiagonalLinear(problem.d, parametrisation="hadamard")
    >>> prediction = predict(model, LabelNoiseSGD(model.parameters(), lr=0.01, noise=10.0), problem)
    >>> wished = effective_penalty(problem, lr=0.01, std=10.0, parametrisation="hadamard")
    >>> bool(torch.equal(prediction.penalty, wished))
    True

    Source: theory.md sections 3, 4, 6, 9 and 10.
    """
    if not isinstance(model, DiagonalLinear):
        raise ValueError(f"no penalty is predicted for a {type(model).__name__}: give a DiagonalLinear")
    _check_fit(model, optimizer, problem)
    if type(optimizer) in ADAPTIVE:
        if model.groups is not None:
            raise ValueError(f"no penalty is predicted for {type(optimizer).__name__} and groups: give SGD")
        return _adaptive(model, optimizer, problem, _noise(optimizer, noise), batch_size, sampling, loss_constant)
    group = _group(optimizer)
    labels = _noise(optimizer, noise)
    lr, std = _number("lr", group["lr"], group.get("lr_ratio")), _number("std", labels.std)
    dynamics = Dynamics(
        parametrisation=model.parametrisation,
        loss_constant=loss_constant,
        batch_size=batch_size,
        sampling=sampling,
        momentum=group["momentum"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        weight_decay=group["weight_decay"],
        antithetic=isinstance(labels, Antithetic),
        noise_kurtosis=labels.kurtosis,
        init=float((model.log_weights.mean() / 2).exp()),
    )
    if model.groups is not None:
        return _grouped(model.groups, problem, dynamics, lr, std, labels)
    if model.depth > 2:
        return _deeper(model, problem, dynamics, lr, std)
    penalty = effective_penalty(problem, lr=lr, std=std, **dynamics.penalty_options())
    reference = weighted_lasso(problem.design.array, problem.y, penalty, positive=model.parametrisation == "square")
    target = whole(problem, reference)
    stable = stable_along(target, dynamics, None)
    notes = _notes(lr, stable, labels)
    bias = dynamics.bias(problem, reference, lr)
    return Prediction(penalty, 1.0, reference, bias, stable, tuple(notes), _expect=(target, dynamics, lr, std))


def _check_fit(model: DiagonalLinear, optimizer: torch.optim.Optimizer, problem: Problem) -> None:
    if not isinstance(problem, Problem):
        raise ValueError(f"problem is a {type(problem).__name__}: give a Problem(X, y)")
    if model.in_features != problem.d:
        raise ValueError(f"model has in_features={model.in_features}, the problem d={problem.d}")
    if not all(held_of(optimizer, model)):
        raise ValueError("optimizer does not hold all of the model's weights: build it from model.parameters()")


def _notes(lr: float, stable: float, labels: Any) -> list[str]:
    notes = [f"lr={lr:g} is above the stable step {stable:.3g}: expect divergence"] if lr > stable else []
    return notes + _scheduled(labels)


def _group(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The options of an optimiser whose penalty is known."""
    if type(optimizer) not in SGD:
        raise ValueError(
            f"no penalty is predicted for {type(optimizer).__name__}: give LabelNoiseSGD, or torch.optim's SGD, Adam, "
            "AdamW or RMSprop"
        )
    first, *others = optimizer.param_groups
    names = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "maximize")
    if any(other[name] != first[name] for other in others for name in names) or first["maximize"]:
        raise ValueError("optimizer: parameter groups of different options, or maximize=True, solve no known problem")
    return first


def _noise(optimizer: torch.optim.Optimizer, noise: Noise | float | None) -> Any:
    own = noise_of(optimizer)
    if noise is not None and isinstance(optimizer, LabelNoiseSGD) and as_noise(noise) != own:
        raise ValueError(f"noise={noise}: the optimizer carries {own}, which trains: give one of the two")
    chosen = own if noise is None else as_noise(noise)
    kind = unpaired(chosen)
    if not isinstance(kind, Additive) or isinstance(chosen, NoNoise) or noise_is_zero(chosen.std):
        raise ValueError(
            f"noise is {chosen}: a penalty is predicted for noise added to numbers, such as Gaussian or Rademacher"
        )
    if noise is None and isinstance(optimizer, LabelNoiseSGD):  # a checkpoint's std counts, not the constructor's
        std = noise_std(optimizer)
        inner = replace(kind, std=tuple(std) if isinstance(std, list) else std)
        return Antithetic(inner) if isinstance(chosen, Antithetic) else inner
    return chosen


def noise_is_zero(std: Any) -> bool:
    return not isinstance(std, (tuple, list)) and float(std) == 0


def _number(name: str, value: Any, ratio: Any = None) -> float:
    if isinstance(value, (tuple, list)) or ratio is not None:
        raise ValueError(f"{name} is one a replica: predict one at a time, with a single {name}")
    return float(value)


def _grouped(groups: Tensor, problem: Problem, dynamics: Dynamics, lr: float, std: float, labels: Any) -> Prediction:
    """Groups: sum_g weights_g ||K_g^(1/2) beta_g||."""
    options = dynamics.penalty_options()
    del options["parametrisation"]
    penalty = group_penalty(problem, groups, lr=lr, std=std, **options)
    reference = group_lasso(problem.design.array, problem.y, penalty.weights, groups, metric=penalty.metric)
    stable = stable_group_lr(problem, reference, dynamics)
    notes = _notes(lr, stable, labels)
    notes.append("exact as lr goes to 0: the first order in lr is not known for groups")
    if not dynamics.reads_all(problem.n):
        notes.append("what drawing rows adds, about (residuals / std)^2 of the weights, is left out")
    if not dynamics.antithetic:
        notes += iid_note(problem, reference)
    nothing = torch.full_like(penalty.weights, torch.nan)
    return Prediction(penalty.weights, 1.0, reference, nothing, stable, tuple(notes))


def _scheduled(labels: Any) -> list[str]:
    return [] if labels.schedule is None else ["the noise has a schedule: the prediction is for its first step"]


def _adaptive(
    model: DiagonalLinear,
    optimizer: torch.optim.Optimizer,
    problem: Problem,
    labels: Any,
    batch_size: int | None,
    sampling: str | None,
    loss_constant: float,
) -> Prediction:
    """Adam, AdamW, RMSprop: sum_j kappa_j |beta_j|^(1 - 1/L) + terms."""
    if isinstance(labels, Antithetic):
        raise ValueError(f"no penalty is predicted for {type(optimizer).__name__} and antithetic pairs: give iid noise")
    rows, how = check_sampling(problem.n, batch_size, sampling)
    found = adaptive_problem(
        model,
        problem,
        options_of(optimizer),
        std=_number("std", labels.std),
        rows=rows,
        drawn=how not in ("full", "noisy_rows"),
        loss_constant=real_number("loss_constant", loss_constant, positive=True),
    )
    step, coef = found.step, found.reference.coef
    notes = (*found.notes, *_scheduled(labels))
    known = (step.weights, step.exponent, found.reference, step.bias(coef), torch.nan, notes)
    return Prediction(*known, found.terms, found.memory, _step=step)


def _deeper(model: DiagonalLinear, problem: Problem, dynamics: Dynamics, lr: float, std: float) -> Prediction:
    """Depth L > 2: sum_j kappa_j |beta_j|^(2 - 2/L)."""
    if dynamics.momentum or dynamics.weight_decay or dynamics.antithetic:
        raise ValueError(
            "at depth above 2 a penalty is predicted without momentum, weight decay and antithetic pairs only"
        )
    weights = depth_penalty(
        problem.X,
        lr=lr,
        std=std,
        depth=model.depth,
        batch_size=dynamics.batch_size,
        sampling=dynamics.sampling,
        loss_constant=dynamics.loss_constant,
    )
    reference = bridge(problem.design.array, problem.y, weights, model.depth)
    notes = ("exact as lr goes to 0: the first order in lr is not known at this depth",)
    nothing = torch.full((problem.d,), torch.nan, dtype=torch.float64)
    return Prediction(weights, 2 - 2 / model.depth, reference, nothing, torch.nan, notes)
