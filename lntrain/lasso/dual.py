"""Certified references, and Newton's method on the dual that two of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Conjugate = Callable[
    [Array], tuple[float, Array, Array]
]  # z = X^T theta -> (sum phi*(z_j), beta = phi*'(z), phi*''(z))
CERTIFIED = 1e-8  # what each certificate must meet, relative


@dataclass(frozen=True)
class Reference:
    """A certified solution: coef (d,) float64, its objective, and two relative errors, each at most 1e-8.

    gap: the duality gap over the objective's scale. infeasibility: ||y - X coef|| / ||y|| (or divided by a millionth
    of the terms' size, where these cancel to less) where X coef = y is imposed, or the relative error of the equations
    that define coef.
    dual (n,): the dual variable that certifies it, where there is one.
    """

    coef: Tensor
    objective: float
    gap: float
    infeasibility: float = 0.0
    dual: Tensor | None = None

    @property
    def support(self) -> Tensor:
        """(d,) bool, where coef is not zero."""
        return self.coef != 0


def certify(what: str, reference: Reference) -> Reference:
    if not (reference.gap <= CERTIFIED and reference.infeasibility <= CERTIFIED):
        raise RuntimeError(
            f"{what}: relative gap {reference.gap:.1e}, infeasibility {reference.infeasibility:.1e} "
            f"(wanted {CERTIFIED:g}): is y in the range of X, and X well scaled?"
        )
    return reference


def dual_newton(X: Array, y: Array, conjugate: Conjugate, ridge: float, start: Tensor | None = None) -> Reference:
    """max over theta of y.theta - (ridge/2)|theta|^2 - sum phi*(x_j.theta), by damped Newton.

    ridge n gives min (1/2n)||y - X beta||^2 + sum phi(beta_j); ridge 0 imposes X beta = y.
    """
    theta = np.zeros(len(y)) if start is None else start.numpy()
    scale = float(np.linalg.norm(y)) or 1.0

    def dual(theta: Array) -> tuple[float, Array, Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            value, beta, curve = conjugate(X.T @ theta)
            return float(y @ theta - ridge / 2 * theta @ theta - value), beta, curve

    value, beta, curve = dual(theta)
    for _ in range(500):
        slope = y - ridge * theta - X @ beta
        if np.linalg.norm(slope) <= 1e-13 * scale:
            break
        hessian = (X * curve) @ X.T + ridge * np.eye(len(y))
        hessian[np.diag_indices(len(y))] *= 1 + 1e-15
        move = np.linalg.lstsq(hessian, slope, rcond=1e-14)[0]
        length, rise = 1.0, float(slope @ move)
        while length > 1e-12:
            trial = dual(theta + length * move)
            if np.isfinite(trial[0]) and trial[0] >= value + 1e-4 * length * rise - 1e-15 * abs(value):
                break
            spent = not ridge and rise <= 1e-8 * abs(value)  # the value has no digits left: judge by the slope
            if spent and np.linalg.norm(y - X @ trial[1]) < 0.5 * np.linalg.norm(slope):
                break
            length /= 2
        else:
            break
        theta = theta + length * move
        value, beta, curve = trial
    return _from_dual(X, y, theta, beta, value, conjugate, ridge, scale)


def _from_dual(
    X: Array, y: Array, theta: Array, beta: Array, value: float, conjugate: Conjugate, ridge: float, scale: float
) -> Reference:
    z = X.T @ theta
    penalty = float(beta @ z) - conjugate(z)[0]  # phi(beta) = beta z - phi*(z): equality, as beta = phi*'(z)
    residual = y - X @ beta
    objective = penalty + (float(residual @ residual) / (2 * ridge) if ridge else 0.0)
    worth = float(y @ y) / (2 * ridge) if ridge else abs(objective)
    gap = abs(objective - value) / (worth or 1.0)
    if not ridge:  # terms that cancel to a millionth leave no more digits
        scale = max(scale, 1e-6 * float(np.linalg.norm(np.abs(X) @ np.abs(beta))))
    infeasibility = float(np.linalg.norm(residual - ridge * theta)) / scale
    return Reference(torch.from_numpy(beta), objective, gap, infeasibility, torch.from_numpy(theta))
