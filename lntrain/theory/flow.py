"""Continuous time: gradient flow, the limit flow of label noise, and the label-noise SDE itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain._moved import renamed
from lntrain.data.design import Design
from lntrain.noise.labels import Additive, Antithetic, GaussianNoise, as_noise
from lntrain.noise.schedules import factors
from lntrain.penalty.formula import step_factor
from lntrain.theory.dual_flow import deep_flow, dual_flow

Array = NDArray[np.float64]
SCHEMES = ("log-euler", "euler")
SIGNS = {"square": [[1.0]], "difference": [[1.0], [-1.0]], "hadamard": [[1.0], [-1.0]]}  # of w_+^L and w_-^L in beta
CHUNK = 256  # steps whose noise is drawn at once


@dataclass(frozen=True)
class Flow:
    """A flow or a simulated SDE at times (T,), in units of lr * steps.

    coef: (T, d), or (T, R, d) with replicas; log_weights: (T, m, d) or (T, R, m, d), log w^2, m = 1 for "square".
    mean_coef, like coef: a flow's average over (0, t), coef itself at time 0. A simulation's means are over the
    pre-step values from the beginning (after burn_in) to each time: mean_noise (T, R, n) the realised label noise,
    mean_loss (T, R) of (1/2n)||y - X beta||^2; both None for flows.
    """

    times: Tensor
    coef: Tensor
    log_weights: Tensor
    mean_coef: Tensor
    mean_noise: Tensor | None = None
    mean_loss: Tensor | None = None


@dataclass(frozen=True)
class _Model:
    """beta = sum of sign * w^L over m weights a coordinate, and how fast they move."""

    signs: Array  # (m, 1)
    depth: int
    pull: float  # d log w = -sign * pull * w^(L-2) * (g dt + noise): a at depth 2, 2 c L beyond

    def coef(self, u: Array) -> Array:
        """beta (..., d) of u = log w (..., m, d)."""
        return np.asarray((self.signs * np.exp(self.depth * u)).sum(-2))

    def speed(self, u: Array) -> Any:
        """pull * w^(L-2)."""
        return self.pull if self.depth == 2 else self.pull * np.exp((self.depth - 2) * u)


def _model(parametrisation: str, loss_constant: float, depth: int) -> _Model:
    a = step_factor(parametrisation, loss_constant)
    if not isinstance(depth, int) or depth < 2 or (depth > 2 and parametrisation == "hadamard"):
        raise ValueError(f"depth={depth!r}: give 2, or more for difference or square")
    if parametrisation not in SIGNS:
        raise ValueError(f"parametrisation={parametrisation!r} has no flow yet: choose one of {', '.join(SIGNS)}")
    return _Model(np.array(SIGNS[parametrisation]), depth, a if depth == 2 else 2 * loss_constant * depth)


def _data(X: Any, y: Any, init: Any, m: int) -> tuple[Array, Array, Array]:
    X = Design.of(X).X.numpy()
    y = torch.as_tensor(y, dtype=torch.float64).detach().cpu().numpy()
    if y.shape != X.shape[:1]:
        raise ValueError(f"X {X.shape} and y {y.shape} do not fit: give (n, d) and (n,)")
    if not (np.isfinite(X).all() and np.isfinite(y).all()):
        raise ValueError("X and y must be finite: drop or fill the rows that are not")
    alpha = np.broadcast_to(torch.as_tensor(init, dtype=torch.float64).detach().cpu().numpy(), X.shape[1:])
    if not (np.isfinite(alpha).all() and (alpha > 0).all()):
        raise ValueError(f"init={init} must be positive and finite: it is the scale of each weight")
    return X, y, np.tile(np.log(alpha), (m, 1))


@renamed
def limit_flow(
    X: Any,
    y: Any,
    times: Any,
    penalty: Any,
    *,
    parametrisation: str = "difference",
    loss_constant: float = 0.5,
    depth: int = 2,
    init: Any = 0.1,
    rtol: float = 1e-9,
) -> Flow:
    """The flow that label noise makes on average, without its fluctuations: a weighted mirror flow into the Lasso.

    d log w_pm = -a (+/- g + lambda) dt, g = X^T (X beta - y) / n; at depth L
    d log w_pm = -2cL w^(L-2) (+/- g + 2 (1 - 1/L) kappa w^(L-2)) dt, which ends at `bridge`'s solution.

    Args:
        X: (n, d). y: (n,). times: increasing, >= 0, in units of lr * steps.
        penalty: lambda (kappa at depth L > 2), a number or (d,); 0 is gradient flow.
        parametrisation: "difference", "square" or "hadamard" (then w_pm = (u +/- v)/2).
        loss_constant: c; 0.5 here, 0.25 the paper's. depth: L. init: alpha > 0, a number or (d,).
        rtol: the error of coef, relative to its largest.

    Returns:
        Flow: coef (T, d), log_weights (T, m, d), mean_coef (T, d) the average over (0, t).

    Raises:
        ValueError: arguments out of range. RuntimeError: the integrator gave up.

    >>> flow = limit_flow([[1.0], [1.0]], [1.0, 1.0], [0.0, 100.0], 0.25)
    >>> [round(c, 6) for c in flow.coef[:, 0].tolist()]
    [0.0, 0.75]

    Source: theory.md sections 3, 5 and 6; its fixed points are the Lasso's KKT conditions.
    """
    model = _model(parametrisation, loss_constant, depth)
    X, y, start = _data(X, y, init, len(model.signs))
    times = np.atleast_1d(np.asarray(times, dtype=float))
    if not (times.size and (np.diff(times) > 0).all() and times[0] >= 0 and np.isfinite(times).all()):
        raise ValueError("times must be increasing and not negative, at least one")
    lam = np.broadcast_to(torch.as_tensor(penalty, dtype=torch.float64).detach().cpu().numpy(), X.shape[1:])
    if not (np.isfinite(lam).all() and (lam >= 0).all()):
        raise ValueError("penalty must be finite and not negative")
    if not 1e-12 <= rtol < 1:
        raise ValueError(f"rtol={rtol} must be between 1e-12 and 1")

    if depth == 2:
        coef, logs, mean = dual_flow(X, y, start[0], times, lam, model.signs, model.pull, rtol)
    else:
        coef, logs, mean = deep_flow(model, X, y, start, times, lam, rtol)
    if not (np.isfinite(logs).all() and np.isfinite(coef).all() and np.isfinite(mean).all()):
        raise RuntimeError(f"the flow is not finite by time {times[-1]:g}: scale X, y and init to moderate sizes")
    return Flow(*(torch.from_numpy(each) for each in (times, coef, logs, mean)))


@renamed
def gradient_flow(
    X: Any,
    y: Any,
    times: Any,
    *,
    parametrisation: str = "difference",
    loss_constant: float = 0.5,
    depth: int = 2,
    init: Any = 0.1,
    rtol: float = 1e-9,
) -> Flow:
    """Gradient flow without noise, d log w_pm = -/+ a g dt: `limit_flow` at penalty 0.

    From init alpha it ends at `entropy_interpolator`'s solution (depth 2, y in the range of X).

    Args, Returns, Raises as `limit_flow`.

    >>> flow = gradient_flow([[1.0], [1.0]], [1.0, 1.0], [100.0])
    >>> round(flow.coef.item(), 6)
    1.0

    Source: Woodworth et al., COLT 2020 (arXiv 2002.09277).
    """
    options: dict[str, Any] = {"parametrisation": parametrisation, "loss_constant": loss_constant, "depth": depth}
    return limit_flow(X, y, times, 0.0, init=init, rtol=rtol, **options)


@renamed
def label_noise_flow(
    X: Any,
    y: Any,
    *,
    lr: float,
    noise: Any,
    steps: int,
    dt: float | None = None,
    scheme: str = "log-euler",
    parametrisation: str = "difference",
    loss_constant: float = 0.5,
    depth: int = 2,
    init: Any = 0.1,
    replicas: int = 8,
    seed: int = 0,
    burn_in: int = 0,
    every: int | None = None,
) -> Flow:
    """The label-noise SDE of the paper, many replicas at once.

    dw_pm = -/+ a w_pm (g dt + (std sqrt(lr) / n) X^T dB); at depth L, 2cL w^(L-1) in place of a w.
    "euler" (Euler-Maruyama) with dt = lr IS gradient descent with label noise, which at depth 2 `train`'s fused
    engine runs many times faster; "log-euler" moves
    log w by -/+ a (g dt + noise) - (1/2) a^2 lr (std^2 c_j / n) dt: positive, and without any bias of lambda.

    Args:
        X: (n, d). y: (n,). lr: gamma. noise: a std, GaussianNoise, RademacherNoise or Antithetic.
        steps: of dt each. dt: the time step, lr unless told otherwise.
        scheme: "log-euler" or "euler". parametrisation, loss_constant, depth, init: as for `limit_flow`.
        replicas: R. seed: of the noise: replica r draws the numbers of `train`'s replica r.
        burn_in: steps before the means begin. every: record every so many steps; None: only the end.

    Returns:
        Flow with T records: coef (T, R, d), log_weights (T, R, m, d) and the means.

    Raises:
        ValueError: arguments out of range. RuntimeError: a weight left all bounds (take a smaller dt).

    >>> X, y = [[1.0], [1.0]], [1.0, 1.0]
    >>> flow = label_noise_flow(X, y, lr=0.01, noise=2.0, steps=20_000, replicas=4)
    >>> abs(float(flow.mean_coef.mean()) - 0.98) < 0.02
    True

    Source: Pillaud-Vivien et al., COLT 2022, eqs (5) to (8); theory.md section 5. Any batch of b with
    fresh noise is the same SDE at std * sqrt(n / b).
    """
    dt = lr if dt is None else dt
    every = steps if every is None else every
    _check_run(lr, dt, steps, scheme, replicas, burn_in, every)
    model, noise = _model(parametrisation, loss_constant, depth), GaussianNoise(0.0) if noise == 0 else as_noise(noise)
    if not isinstance(noise, (Additive, Antithetic)) or not isinstance(noise.std, float):
        raise ValueError(f"noise={noise!r} must be a std, GaussianNoise, RademacherNoise or Antithetic with one std")
    X, y, start = _data(X, y, init, len(model.signs))
    run = _Run(model, X, y, np.tile(start, (replicas, 1, 1)), lr, dt, scheme, noise, seed)
    records = []
    for step in range(every, steps + 1, every):
        run.advance(step, burn_in)
        records.append(run.record(dt, burn_in))
    return Flow(*(torch.from_numpy(np.stack(column)) for column in zip(*records, strict=True)))


def _check_run(lr: float, dt: float, steps: int, scheme: str, replicas: int, burn_in: int, every: int) -> None:
    for name, value in (("lr", lr), ("dt", dt)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be positive and finite")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r} is unknown: choose one of {', '.join(SCHEMES)}")
    if steps < 1 or replicas < 1 or not 0 <= burn_in < steps or not 1 <= every <= steps:
        raise ValueError(
            f"steps={steps}, replicas={replicas}, burn_in={burn_in}, every={every}: give burn_in and every below steps"
        )


class _Run:
    """State (R, m, d), log w ("log-euler") or w ("euler"), and sums since burn_in."""

    def __init__(
        self, model: _Model, X: Array, y: Array, start: Array, lr: float, dt: float, scheme: str, noise: Any, seed: int
    ) -> None:
        self.model, self.X, self.y, self.lr, self.dt, self.noise, self.seed = model, X, y, lr, dt, noise, seed
        self.logs = scheme == "log-euler"
        self.state = start if self.logs else np.exp(start)
        self.power = (X * X).sum(0) / len(y) ** 2  # c_j / n = V_j / std^2
        self.step = 0
        R = len(start)
        self.sums = [np.zeros((R, X.shape[1])), np.zeros((R, len(y))), np.zeros(R)]

    def coef(self) -> Array:
        if self.logs:
            return self.model.coef(self.state)
        return np.asarray((self.model.signs * self.state**self.model.depth).sum(-2))

    def advance(self, stop: int, burn_in: int) -> None:
        while self.step < stop:
            end = min(stop, (self.step // CHUNK + 1) * CHUNK)
            draws = (self.noise.unit(self.seed, r, self.step, end, len(self.y)) for r in range(len(self.state)))
            eps = np.stack(list(draws), axis=1).astype(float)  # (steps, R, n)
            levels = self.noise.std * factors(self.noise.factor, self.step, end, "noise.schedule")
            with np.errstate(over="ignore", invalid="ignore"):  # the check below tells
                for k in range(end - self.step):
                    self._step(eps[k], float(levels[k]), self.step + k >= burn_in)
            self.step = end
            if not np.isfinite(self.state).all():
                raise RuntimeError(f"the flow left all bounds by step {end}: take a smaller dt than {self.dt:g}")

    def _step(self, eps: Array, std: float, counted: bool) -> None:
        model, n = self.model, len(self.y)
        beta, label = self.coef(), std * math.sqrt(self.lr / self.dt) * eps
        residual = beta @ self.X.T - self.y
        if counted:
            for total, value in zip(self.sums, (beta, label, (residual * residual).sum(1) / (2 * n)), strict=True):
                total += value
        g = ((residual - label) @ self.X)[:, None] * (self.dt / n)
        if self.logs:
            speed = model.speed(self.state)
            self.state = self.state - speed * (model.signs * g + 0.5 * speed * self.lr * std**2 * self.power * self.dt)
        elif model.depth == 2:
            self.state = self.state * (1 - model.pull * model.signs * g)
        else:
            self.state = self.state - model.pull * model.signs * g * self.state ** (model.depth - 1)

    def record(self, dt: float, burn_in: int) -> tuple[Any, ...]:
        """A row of Flow's fields."""
        with np.errstate(divide="ignore"):
            logs = 2 * (self.state if self.logs else np.log(np.abs(self.state)))
        coef, count = self.coef(), self.step - burn_in
        means = [total / count if count > 0 else np.full_like(total, np.nan) for total in self.sums]
        return np.float64(self.step * dt), coef, logs.copy(), *means
