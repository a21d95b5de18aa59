"""How the weights move: what a configuration says of them, and what follows for penalty, bias and stability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lntrain._moved import sampling_named
from lntrain.data.problem import Problem
from lntrain.lasso.solve import LassoSolution
from lntrain.penalty.corrections import corrected_penalty
from lntrain.penalty.formula import (
    decay_penalty,
    effective_lr,
    finite_step_bias,
    gradient_kurtosis,
    stable_lr,
    step_factor,
)


@dataclass(frozen=True)
class Dynamics:
    """What determines the dynamics of training, except the step size and the noise level."""

    parametrisation: str = "difference"
    loss_constant: float = 0.5
    batch_size: int | None = None
    sampling: str | None = None
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    antithetic: bool = False
    noise_kurtosis: float = 3.0
    init: float = 0.1
    stream: str = "labels"  # or "gram": the noise is drawn in the directions of X's columns

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampling", sampling_named(self.sampling))

    def penalty_options(self) -> dict[str, Any]:
        """The keyword arguments of `effective_penalty` beside lr and std."""
        names = ("parametrisation", "loss_constant", "batch_size", "sampling", "momentum", "dampening", "nesterov")
        return {name: getattr(self, name) for name in (*names, "weight_decay", "antithetic")}

    @property
    def decay(self) -> float:
        """What weight decay adds to every lambda_j."""
        return decay_penalty(self.weight_decay, self.parametrisation, self.loss_constant)

    def rate(self, lr: float) -> float:
        """a * lr, with momentum's factor: log w^2 moves by 2 a lr (lambda -/+ g) a step."""
        return float(
            step_factor(self.parametrisation, self.loss_constant) * effective_lr(lr, self.momentum, self.dampening)
        )

    def time(self, steps: float) -> float:
        """Time of the flow after `steps` steps, in units of lr: momentum makes a step longer."""
        return float(effective_lr(1.0, self.momentum, self.dampening)) * steps

    def reads_all(self, n: int) -> bool:
        """Whether a step's gradient is that of all n rows."""
        return self.batch_size is None or self.batch_size >= n or self.sampling == "noisy_rows"

    def cost(self, n: int, d: int) -> float:
        """Nominal operations of one step of one network: X read twice, the weights, the draws."""
        rows = n if self.reads_all(n) else int(self.batch_size or n)
        rows = min(rows, d) if self.stream == "gram" else rows
        return 4.0 * rows * d + 12.0 * d + 40.0 * rows

    def bias(self, problem: Problem, lasso: LassoSolution, lr: float) -> Tensor:
        """Finite-step bias of lambda, (d,)."""
        return finite_step_bias(
            problem,
            lasso.coef,
            lasso.penalty,
            lr=lr,
            parametrisation=self.parametrisation,
            loss_constant=self.loss_constant,
            momentum=self.momentum,
            dampening=self.dampening,
            antithetic=self.antithetic,
            kurtosis=gradient_kurtosis(problem, self.noise_kurtosis, self.batch_size),
        )

    def actual_penalty(self, problem: Problem, lasso: LassoSolution, lr: float, std: float) -> Tensor:
        """(d,) the lambda that training shows near this Lasso: label noise, sampling, the finite step's bias."""
        residuals = None if self.reads_all(problem.n) else problem.design.X @ lasso.coef - problem.y.double().cpu()
        return corrected_penalty(
            problem,
            lasso.coef,
            lr=lr,
            std=std,
            residuals=residuals,
            noise_kurtosis=self.noise_kurtosis,
            **self.penalty_options(),
        )

    def stable(self, X: Any, size: Any) -> float:
        """The largest stable step at weights of `size` (d,): w_plus^2 + w_minus^2, which is |beta| at a minimum."""
        return stable_lr(
            X,
            size,
            parametrisation=self.parametrisation,
            loss_constant=self.loss_constant,
            momentum=self.momentum,
            dampening=self.dampening,
            nesterov=self.nesterov,
            batch_size=self.batch_size,
        )
