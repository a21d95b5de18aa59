"""The limit flow at depth 2 in dual variables, theta(t) = the integral of the residuals: one number per label.

The weights follow from it, log w_pm(t) = log alpha - a (+/- X^T theta(t) / n + lambda t), however small, so no
small weight is ever integrated; d theta/dt = X beta - y is the gradient of a concave function at each time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import LSODA

Array = NDArray[np.float64]
COARSE = 1e-6  # the rtol above which two Gauss nodes per step are enough
ROOM = 100.0  # how far the log w^2 of a trial step may exceed that of any solution


def integrate(
    slope: Callable[[float, Array], Array],
    jacobian: Callable[[float, Array], Array] | None,
    start: Array,
    times: Array,
    coef: Callable[[Array, Array], Array],
    rtol: float,
    atol: float,
    first: float | None = None,
    order: int = 4,
) -> tuple[Array, Array]:
    """States (T, m) of dx/dt = slope(t, x) from `start`, and the averages over (0, t) of coef (T, d).

    coef maps times (k,) and states (k, m) to (k, d). By LSODA (Adams or BDF, by stiffness), with Gauss's
    rule of `order` nodes within each step; the first step is at most `first` long. RuntimeError: LSODA failed.
    """
    value = coef(np.zeros(1), start[None])[0]
    states, means = [start] * int(times[0] == 0), [value] * int(times[0] == 0)
    if times[-1] == 0:
        return np.stack(states), np.stack(means)
    first = None if first is None else min(first, float(times[-1]))
    solver = LSODA(slope, 0.0, start, times[-1], first_step=first, rtol=rtol, atol=atol, jac=jacobian)
    total, nodes, weights = np.zeros_like(value), *(part / 2 for part in np.polynomial.legendre.leggauss(order))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of LSODA's failures: the message below says it
        while solver.status == "running":
            message = solver.step()
            if solver.status == "failed" or not np.isfinite(solver.y).all():
                raise RuntimeError(f"the flow stopped at time {solver.t:.3g}: {message or 'not finite'}")
            inside, wanted = solver.dense_output(), times[(times > solver.t_old) & (times <= solver.t)]
            edges = np.unique([solver.t_old, *wanted, solver.t])
            widths = np.diff(edges)
            at = ((edges[:-1] + edges[1:])[:, None] / 2 + widths[:, None] * nodes).ravel()
            values = coef(at, inside(at).T).reshape(len(widths), len(nodes), -1)
            totals = total + np.cumsum(widths[:, None] * (weights @ values), 0)
            states += [np.asarray(inside(t)) for t in wanted]
            means += list(totals[: len(wanted)] / wanted[:, None])
            total = totals[-1]
    return np.stack(states), np.stack(means)


def dual_flow(
    X: Array, y: Array, start: Array, times: Array, penalty: Array, signs: Array, pull: float, rtol: float
) -> tuple[Array, Array, Array]:
    """coef (T, d), log w^2 (T, m, d) and mean coef (T, d) of d log w_pm = -pull (+/- g + penalty) dt.

    X (n, d), start (d,) log w at time 0, signs (m, 1), rtol the relative error of coef. RuntimeError: it gave up.
    """
    dual = _Dual(X, y, start, penalty, signs, pull, rtol)
    still = np.zeros(len(dual.y))
    error = max(rtol / 30 / dual.excess, 1e-14)  # per step in log w^2, which gives about rtol in coef
    atol = error / dual.reach.max()
    order = 2 if rtol > COARSE else 4
    states, means = integrate(dual.slope, dual.jacobian, still, times, dual.coef, 1e-13, atol, dual.first(), order)
    logs = dual.logs(times, states)
    if not logs.max() < dual.top:
        raise RuntimeError(f"the flow left all bounds: a weight squared above exp({dual.top:.0f})")
    return np.asarray((signs * np.exp(logs)).sum(-2)), logs, means


def deep_flow(
    model: Any, X: Array, y: Array, start: Array, times: Array, kappa: Array, rtol: float
) -> tuple[Array, Array, Array]:
    """As `dual_flow` at depth > 2, where log w itself is integrated from `start` (m, d): small weights hardly move."""

    def drift(_: float, flat: Array) -> Array:
        u = flat.reshape(start.shape)
        g = X.T @ (X @ model.coef(u) - y) / len(y)
        shrink = 2 * (1 - 1 / model.depth) * kappa * np.exp((model.depth - 2) * u)
        return np.asarray(-model.speed(u) * (model.signs * g + shrink)).ravel()

    def coef(_: Array, flat: Array) -> Array:
        return np.asarray(model.coef(flat.reshape(-1, *start.shape)))

    with np.errstate(over="ignore", invalid="ignore"):  # `integrate` checks the result
        states, means = integrate(drift, None, start.ravel(), times, coef, rtol, rtol / 10)
    u = states.reshape(-1, *start.shape)
    return model.coef(u), 2 * u, means


class _Dual:
    """theta's equation on the columns `on`; the others together would change it by less than `rtol` / 1000 of y.

    |change of log w^2| <= reach |change of theta|, so a column of tiny weights stays out until theta has moved enough.
    """

    def __init__(
        self, X: Array, y: Array, start: Array, penalty: Array, signs: Array, pull: float, rtol: float
    ) -> None:
        n, d = X.shape
        if n > d:  # the same gradient from d rows
            Q, X = np.linalg.qr(X)
            y = Q.T @ y
        with np.errstate(over="ignore", invalid="ignore"):
            norms, size = np.linalg.norm(X, axis=0), float(np.linalg.norm(y)) or 1.0
        if not (np.isfinite(norms).all() and math.isfinite(size)):
            raise RuntimeError("the flow of so large an X or y leaves all bounds: scale them to moderate sizes")
        self.X, self.y, self.start, self.signs = X, y, 2 * start, signs
        self.rate, self.decay = 2 * pull / n, 2 * pull * penalty
        self.reach = self.rate * np.maximum(norms, 1e-200)
        largest = np.where(norms > 0, math.log(size) - np.log(np.where(norms > 0, norms, 1)), self.start)
        self.top = ROOM + max(float(self.start.max()), float(largest.max()))
        self.excess = max(1.0, 2 * math.exp(min(float((self.start - largest).max()), 100.0)))  # weights over beta
        self.floor = largest + math.log(1e-3 * rtol / d)
        # a step back in time by dt counts as a move of theta by back * dt
        self.back = float((self.decay / self.reach)[norms > 0].max(initial=0.0))
        self.norms, self.time, self.theta, self.room = norms, 0.0, np.zeros(len(y)), 0.0
        self._keep(np.arange(d))

    def first(self) -> float:
        """A first step so short that neither theta nor any weight changes much."""
        still = np.zeros(len(self.y))
        fast = float(np.linalg.norm(self.jacobian(0.0, still))) + float(self.decay.max())
        return 1e-3 / (fast + float(self.reach.max() * np.linalg.norm(self.slope(0.0, still))) or 1.0)

    def logs(self, t: Array, theta: Array) -> Array:
        """log w^2 (T, m, d) at times (T,)."""
        sides = self.signs * (self.rate * (theta @ self.X))[:, None]
        return np.asarray(self.start - self.decay * t[:, None, None] - sides)

    def coef(self, t: Array, theta: Array) -> Array:
        """beta (k, d), 0 where it does not count."""
        weights = self._weights(t, theta)
        beta = np.zeros((len(t), len(self.start)))
        beta[:, self.on] = weights[0] - weights[1] if len(weights) == 2 else weights[0]
        return beta

    def slope(self, t: float, theta: Array) -> Array:
        weights = self._weights(np.array([t]), theta[None])
        beta = weights[0] - weights[1] if len(weights) == 2 else weights[0]
        return np.asarray(self.near @ beta[0] - self.y)

    def jacobian(self, t: float, theta: Array) -> Array:
        curve = np.concatenate(self._weights(np.array([t]), theta[None])).sum(0)
        power = curve * self.norms[self.on] ** 2
        heavy = power > 1e-14 * power.max(initial=0.0)  # Newton's matrix needs no more digits
        return np.asarray(-(self.near[:, heavy] * (self.rate * curve[heavy])) @ self.near[:, heavy].T)

    def _weights(self, t: Array, theta: Array) -> list[Array]:
        """w_pm^2, each (k, columns on); the columns are first chosen anew if theta has moved too far."""
        moved = float(np.sqrt(((theta - self.theta) ** 2).sum(1).max())) + self.back * max(self.time - t.min(), 0.0)
        if not moved <= self.room:
            self._choose(float(t.min()), theta[t.argmin()])
            if not float(np.sqrt(((theta - self.theta) ** 2).sum(1).max())) <= self.room:
                self._keep(np.arange(len(self.start)))
                self.room = 0.0
        z = self.rate * np.stack([row @ self.near for row in theta])  # a few rows at once take BLAS far longer
        middle = self.begin - self.fall * t[:, None]
        return [np.exp(np.minimum(middle - sign * z, self.top)) for sign in self.signs[:, 0]]

    def _choose(self, t: float, theta: Array) -> None:
        """Keep columns that may matter before theta moves by `room`, half of the median column's need or an e-fold."""
        highest = self.logs(np.array([t]), theta[None])[0].max(0)
        needs = (self.floor - highest) / self.reach
        self.time, self.theta, self.room = t, theta.copy(), max(float(np.median(needs)) / 2, 1 / self.reach.max())
        self._keep(np.flatnonzero(needs <= self.room))

    def _keep(self, on: NDArray[np.int64]) -> None:
        self.on, self.near = on, self.X if len(on) == len(self.start) else self.X[:, on]
        self.begin, self.fall = self.start[on], self.decay[on]
