"""Certified stationary points of least squares with a penalty |beta|^q, q < 1: a problem with many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import diags_array, issparse, vstack
from torch import Tensor

from lntrain._checks import as_float64, real_number
from lntrain.lasso.certificate import Array, finite, fitting_problem, of_shape
from lntrain.lasso.solve import weighted_lasso

CERTIFIED = 1e-8  # the largest KKT residual, relative to the penalty's slope
ROUNDS = 1000  # reweighted Lassos; they stop when Newton's method takes over
FLAT = 1e-12  # curvatures below this are rounding


@dataclass(frozen=True)
class Power:
    """A penalty sum_j weights_j |beta_j|^exponent.

    >>> Power(torch.tensor([2.0]), 1.5).slope(torch.tensor([4.0])).item()
    6.0
    """

    weights: Tensor
    exponent: float

    def slope(self, coef: Tensor) -> Tensor:
        """Its derivative in |beta_j|, (..., d): infinite at 0 for an exponent below 1."""
        return self.exponent * self.weights * coef.abs() ** (self.exponent - 1)


@dataclass(frozen=True)
class StationaryPoint:
    """A point where the gradient on the support balances the penalty, one of many.

    coef (d,) float64; objective F(coef); residual: max over the support of |h_j + p'(|beta_j|) sign_j| / p'(|beta_j|),
    h = X^T (X beta - y)/n, at most 1e-8; curvature: the smallest eigenvalue of the Hessian on the support for columns
    scaled to c_j = 1 (1 for an empty support); powers: the penalty's terms.
    """

    coef: Tensor
    objective: float
    residual: float
    curvature: float
    powers: tuple[Power, ...]
    positive: bool = False

    @property
    def exponent(self) -> float:
        """q."""
        return self.powers[0].exponent

    @property
    def minimum(self) -> bool:
        """Whether it is a strict local minimum: on the support by its Hessian, off it since q < 1."""
        return self.curvature > FLAT

    @property
    def support(self) -> Tensor:
        """(d,) bool, where coef is not zero."""
        return self.coef != 0


def stationary_point(
    X: Any,
    y: Any,
    weights: Any,
    exponent: float,
    *,
    terms: Sequence[Power] = (),
    start: Any = None,
    nearest: bool = False,
    positive: bool = False,
) -> StationaryPoint:
    """A local minimum of (1/2n)||y - X beta||^2 + sum_j weights_j |beta_j|^q + terms, 0 < q < 1, below `start`.

    Reweighted l1: |beta|^q lies below its tangent at |start_j| and a term's power p below a parabola (between: a
    weighted Lasso with ridge), so that the objective falls; then Newton's method on the support. Zeros of start stay.

    Args:
        X: (n, d), dense or scipy.sparse; columns may be equal. y: (n,). weights: positive, a number or (d,).
        exponent: q. terms: further powers 1 <= p <= 2, such as decay's.
        start: (d,), a run's mean say; None: |beta_j| of the size at which column j alone has the power of y.
        nearest: the point to which Newton's method goes from `start` on its support, be it a saddle (as where equal
            columns share a coefficient); if it goes nowhere near, as without.
        positive: impose beta >= 0 (the "square" parametrisation).

    Returns:
        StationaryPoint: another start may lead to another one, and none is known to be the least.

    Raises:
        ValueError: exponents or weights out of range, shapes that do not agree.
        RuntimeError: no certificate.

    >>> found = stationary_point([[1.0]], [2.0], 1.0, 0.5)
    >>> round(float(found.coef + 0.5 / found.coef**0.5), 12), found.minimum
    (2.0, True)

    Source: Candes, Wakin, Boyd 2008 (reweighted l1); theory.md section 9.
    """
    X, y, weights = fitting_problem(X, y, weights)
    exponent = real_number("exponent", exponent)
    if not 0 < exponent < 1:
        raise ValueError(f"exponent={exponent} must lie between 0 and 1: 1 is weighted_lasso, above it bridge")
    powers = (Power(torch.from_numpy(weights), exponent), *_checked(terms, len(weights)))
    squares = np.asarray((X.multiply(X) if issparse(X) else X**2).mean(0))
    if start is None:
        size = np.sqrt((y @ y) / len(y) / np.where(squares > 0, squares, np.inf))
        coef = _reweighted(X, y, powers, size, positive)
    else:
        coef = np.where(squares > 0, finite("start", of_shape("start", as_float64(start), squares.shape)), 0.0)
        coef = np.maximum(coef, 0.0) if positive else coef
    problem = _Problem(X, y, powers, positive)
    if nearest and (near := problem.newton(coef, bent=True)) is not None:
        return problem.point(near)
    for _ in range(1 + len(coef)):
        coef = problem.descend(coef)
        point = problem.point(coef)
        if point.minimum:
            break
        coef = problem.leave(coef)  # a saddle, such as equal columns that share a coefficient
    if not point.residual <= CERTIFIED or not point.minimum:
        raise RuntimeError(
            f"a stationary point was found to a KKT residual of {point.residual:.1e} (wanted {CERTIFIED:g}), curvature "
            f"{point.curvature:.1e}: raise the weights (their mean is {weights.mean():.3g}) or standardise X"
        )
    return point


def _checked(terms: Any, d: int) -> list[Power]:
    """The terms in float64."""
    found = list(terms) if isinstance(terms, Sequence) else [terms]
    for term in found:
        weights = as_float64(term.weights) if isinstance(term, Power) else np.empty(0)
        if weights.shape != (d,) or not ((weights >= 0) & (weights < np.inf)).all() or not 1 <= term.exponent <= 2:
            raise ValueError(
                f"terms: {term} is no penalty: give Power(weights, p), {d} finite weights >= 0 and 1 <= p <= 2"
            )
    return [Power(torch.from_numpy(as_float64(term.weights)), float(term.exponent)) for term in found]


def _reweighted(X: Any, y: Array, powers: Sequence[Power], coef: Array, positive: bool) -> Array:
    """One majorising weighted Lasso, with ridge for powers above 1, at |coef|; it starts at coef if that has a fit."""
    on, n = coef != 0, len(y)
    if not on.any():
        return coef
    used, size, k = X[:, on], np.abs(coef[on]), int(on.sum())
    slopes = _slopes(powers, coef, on)
    penalty = np.sum([slope for p, slope in slopes if p <= 1], axis=0)
    ridge = np.sum([slope / size for p, slope in slopes if p > 1] or [np.zeros(k)], axis=0)
    labels = y
    if ridge.any():  # further rows, all scaled so that the Lasso's 1 / rows is 1 / n
        scale = np.sqrt((n + k) / n)
        rows = diags_array(np.sqrt((n + k) * ridge))
        used = vstack([used * scale, rows], "csr") if issparse(X) else np.vstack([used * scale, rows.toarray()])
        labels = np.concatenate([y * scale, np.zeros(k)])
    new = np.zeros_like(coef)
    new[on] = weighted_lasso(used, labels, penalty, positive=positive, start=coef[on]).coef.numpy()
    return new


def _slopes(powers: Sequence[Power], coef: Array, on: Array) -> list[tuple[float, Array]]:
    """(exponent, its slope on the support) of each term."""
    size = torch.from_numpy(coef[on])
    return [(p.exponent, Power(p.weights[torch.from_numpy(on)], p.exponent).slope(size).numpy()) for p in powers]


@dataclass(frozen=True, eq=False)
class _Problem:
    X: Any
    y: Array
    powers: tuple[Power, ...]
    positive: bool

    def objective(self, coef: Array) -> float:
        residual = self.y - self.X @ coef
        size = np.abs(coef)
        penalty = sum(float(power.weights.numpy() @ size**power.exponent) for power in self.powers)
        return float(residual @ residual) / (2 * len(self.y)) + penalty

    def slopes(self, coef: Array, on: Array) -> tuple[Array, Array]:
        """(h, p') on the support, h_j the gradient of least squares times the sign of beta_j."""
        fit = (self.X[:, on].T @ (self.X @ coef - self.y)) / len(self.y) * np.sign(coef[on])
        return fit, np.sum([slope for _, slope in _slopes(self.powers, coef, on)], axis=0)

    def hessian(self, coef: Array, on: Array) -> tuple[Array, Array]:
        """(sqrt(c_j) of the support, the Hessian there in sqrt(c_j) |beta_j|: least squares' diagonal is 1)."""
        used = (self.X[:, on].toarray() if issparse(self.X) else self.X[:, on]) * np.sign(coef[on])
        scale = np.sqrt((used**2).mean(0))
        used = used / scale
        bend = np.sum([(p - 1) * slope for p, slope in _slopes(self.powers, coef, on)], axis=0)
        return scale, used.T @ used / len(self.y) + np.diag(bend / np.abs(coef[on]) / scale**2)

    def descend(self, coef: Array) -> Array:
        """Reweighted Lassos until the support stays and Newton's method finds the stationary point of their basin."""
        for _ in range(ROUNDS):
            if not coef.any():
                return coef
            new = _reweighted(self.X, self.y, self.powers, coef, self.positive)
            kept, size = np.array_equal(new != 0, coef != 0), np.linalg.norm(coef)
            close = kept and np.linalg.norm(new - coef) <= 1e-2 * size
            still = kept and np.linalg.norm(new - coef) <= 1e-12 * size
            coef = new
            if close and (polished := self.newton(coef)) is not None:
                return polished
            if still:
                break
        return coef

    def newton(self, coef: Array, *, bent: bool = False) -> Array | None:
        """Newton's method on the support; None if it leaves the basin, or if the Hessian bends down, unless `bent`."""
        on, begun = coef != 0, self.objective(coef)
        if not on.any():
            return coef
        for _ in range(50):
            fit, slope = self.slopes(coef, on)
            if float(np.max(np.abs(fit + slope) / slope)) <= CERTIFIED / 100:
                break
            scale, hessian = self.hessian(coef, on)
            bends = np.linalg.eigvalsh(hessian)
            if np.abs(bends).min() <= FLAT or (bends[0] < 0 and not bent):
                return None
            move = np.linalg.solve(hessian, -(fit + slope) / scale) / scale / np.abs(coef[on])
            if not np.max(np.abs(move)) < 0.5:  # far from the point: not yet
                return None
            coef = coef.copy()
            coef[on] *= 1 + move
        else:
            return None
        return coef if bent or self.objective(coef) <= begun + 1e-12 * abs(begun) else None

    def leave(self, coef: Array) -> Array:
        """From a saddle along its most negative curvature, to where the first coefficient is 0."""
        on = coef != 0
        scale, hessian = self.hessian(coef, on)
        along = np.linalg.eigh(hessian)[1][:, 0] / scale / np.abs(coef[on])
        ends = []
        for move in (along, -along):
            first = int(np.argmin(move))  # in beta_j / coef_j, the first to reach -1
            end = coef.copy()
            if move[first] < 0:
                end[on] = coef[on] * (1 + move / -move[first])
                end[np.flatnonzero(on)[first]] = 0.0
                ends.append(end)
        return min(ends, key=self.objective)

    def point(self, coef: Array) -> StationaryPoint:
        """The certificate of `coef`."""
        on, residual, curvature = coef != 0, 0.0, 1.0
        if on.any():
            fit, slope = self.slopes(coef, on)
            residual = float(np.max(np.abs(fit + slope) / slope))
            curvature = float(np.linalg.eigvalsh(self.hessian(coef, on)[1])[0])
        found = torch.from_numpy(coef)
        return StationaryPoint(found, self.objective(coef), residual, curvature, self.powers, self.positive)
