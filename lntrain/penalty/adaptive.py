"""Label noise under Adam, AdamW and RMSprop: a penalty |beta|^(1 - 1/L), linear in std (theory.md section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lntrain.data.design import Design

HOVER = 10.0  # weights below so many lr come from bursts of some lr: they are off, and have no memory factor


@dataclass(frozen=True, eq=False)
class AdaptiveStep:
    """The step w <- w - lr m / sqrt(v) on noisy labels, where beta = w^depth.

    Args:
        design: of X (n, d). lr, std: as ever. rows: labels a step reads, b. depth: L.
        beta1, beta2: memory of m and of v.

    >>> step = AdaptiveStep(Design([[2.0], [2.0]]), lr=0.01, std=3.0, rows=4)
    >>> step.sd.tolist(), step.weights.tolist(), step.exponent
    ([3.0], [0.03], 0.5)

    Source: theory.md section 9; the slow flow: Li, Wen, Lyu 2025 (arXiv 2511.02773).
    """

    design: Design
    lr: float
    std: float
    rows: int
    depth: int = 2
    beta1: float = 0.0
    beta2: float = 0.999

    @cached_property
    def sd(self) -> Tensor:
        """(d,) s_j = std sqrt(c_j / b), the standard deviation of the label noise in the gradient of beta."""
        return self.std * (self.design.c / self.rows).sqrt()

    @property
    def weights(self) -> Tensor:
        """(d,) kappa_j = (L/2) lr s_j of sum_j kappa_j |beta_j|^(1 - 1/L)."""
        return self.depth / 2 * self.lr * self.sd

    @property
    def exponent(self) -> float:
        """1 - 1/L."""
        return 1 - 1 / self.depth

    def on(self, coef: Tensor) -> Tensor:
        """(d,) bool: where |beta| is beyond what bursts of weights off the support leave in a mean."""
        return coef.abs() > (HOVER * self.lr) ** self.depth

    def _rates(self, coef: Tensor, on: Tensor) -> Tensor:
        """lr L |w|^(L-1) / s_j on the support: how fast beta_j answers to a gradient."""
        return self.lr * self.depth * coef[on].abs() ** self.exponent / self.sd[on]

    def memory(self, coef: Tensor) -> Tensor:
        """What the finite memory of v leaves of the penalty, (d,): [S A (A + (1 - beta2) I)^-1]_jj / c_j.

        A = lr diag(L |beta|^(1-1/L) / s) S on the support; 1 off it.

        >>> step = AdaptiveStep(Design([[1.0]]), lr=0.01, std=1.0, rows=1, beta2=0.98)
        >>> round(float(step.memory(torch.ones(1, dtype=torch.float64))), 12)  # k = .02: k / (k + 1 - beta2)
        0.5
        """
        on, factor = self.on(coef), torch.ones_like(coef)
        S = self.design.gram(on)[on]
        A = self._rates(coef, on)[:, None] * S
        kept = torch.linalg.solve(A.T + (1 - self.beta2) * torch.eye(len(A), dtype=A.dtype), S @ A)  # S A (A + ..)^-1
        factor[on] = kept.diagonal() / self.design.c[on]
        return factor

    def excess(self, coef: Tensor) -> Tensor:
        """(d,) q_j = (lr/2) sum_k S_jk^2 L |beta_k|^(1-1/L) / (s_k c_j): the variance of h_j over s_j^2."""
        on = self.on(coef)
        return self.design.gram(on).square() @ self._rates(coef, on) / (2 * self.design.c)

    def bias(self, coef: Tensor) -> Tensor:
        """(d,) what a finite step and beta1 change of the weights, relative: q_j ((1 - beta1)/(1 + beta1) - 1/2)."""
        return self.excess(coef) * ((1 - self.beta1) / (1 + self.beta1) - 0.5)
