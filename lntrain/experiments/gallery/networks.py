"""Entries on small networks of more than one layer, in compiled loops of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import over_seeds
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.noise.compiled import compiled

Array = NDArray[np.float64]
LOWEST = -15.0  # a change of log |det| below it is rounding's
FLOOR = 0.01  # a ratio of singular values below it counts as one direction, and does not dominate a mean of logarithms


@dataclass(frozen=True)
class RankLoss:
    """Label noise balances the layers of a linear network and shrinks its rank; gradient descent keeps both."""

    inputs: int
    hidden: int
    outputs: int
    n: int
    noise: float  # in the data, which a teacher of rank one makes
    init: float
    lr: float
    std: float
    steps: int
    points: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """Without and with label noise."""
        return {"GD": partial(self._one, at, 0.0), "label noise": partial(self._one, at, self.std)}

    def _one(self, at: At, std: float) -> dict[str, Array]:
        determinants, seconds = [], []
        for seed in at.seeds(self.seeds, "data"):
            rng = np.random.default_rng(seed)
            X = rng.standard_normal((self.n, self.inputs))
            Y = X @ np.outer(rng.standard_normal(self.inputs), rng.standard_normal(self.outputs)) / np.sqrt(self.inputs)
            Y += self.noise * rng.standard_normal(Y.shape)
            first = self.init * rng.standard_normal((self.hidden, self.inputs))
            second = self.init * rng.standard_normal((self.outputs, self.hidden))
            logs, values = two_layers(X, Y, first, second, self.lr, std, self.steps, self.points, seed)
            determinants.append(logs.tolist())
            seconds.append(values.tolist())
        return {"log_det": over_seeds(determinants), "second": over_seeds(seconds)}

    def checks(self, arms: Any) -> list[Check]:
        """The invariant of gradient flow, and the second singular value."""
        moved = {name: values["log_det"][-1] - values["log_det"][0] for name, values in arms.items()}
        ends = [arms[name]["second"][-1] for name in ("label noise", "GD")]
        return [
            *rules.within("GD: change of log |det (W1 W1' - W2' W2)|", moved["GD"], -0.1, 0.1),
            rules.at_most("label noise: the same", np.maximum(moved["label noise"], LOWEST), -4.0),
            rules.ratio("second singular value, label noise over GD", ends[0], ends[1], 0.5),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Both over the step."""
        steps = np.linspace(0, self.steps, self.points + 1)
        return [Panel(title, {name: (steps, values[key]) for name, values in arms.items()}, log=log, logx=False)
                for title, key, log in (("log |det (W1 W1' - W2' W2)|", "log_det", False),
                                        ("second singular value of W2 W1", "second", True))]  # fmt: skip


@compiled()
def two_layers(X, Y, first, second, lr, std, steps, points, seed):  # type: ignore[no-untyped-def]
    """log |det (W1 W1' - W2' W2)| and the second singular value of W2 W1, averaged since the last point, at points."""
    np.random.seed(seed)  # noqa: NPY002 (numba knows no other)
    n, logs, values, mean, every = len(X), np.empty(points + 1), np.empty(points + 1), second @ first, steps // points
    for step in range(steps + 1):
        if step % every == 0:
            at = step // every
            logs[at] = np.log(np.abs(np.linalg.det(first @ first.T - second.T @ second)))
            values[at] = np.linalg.svd(mean)[1][1]
            mean[:] = 0.0
        mean += second @ first / every
        noise = std * np.random.standard_normal(Y.shape)  # noqa: NPY002
        hidden = X @ first.T
        residual = (hidden @ second.T - Y - noise) / n
        into_second, into_first = residual.T @ hidden, second.T @ (residual.T @ X)
        second = second - lr * into_second
        first = first - lr * into_first
    return logs, values


@dataclass(frozen=True)
class RankOne:
    """Label noise flattens a small network of odd units along its zero-loss valley, towards a single direction."""

    d: int
    n: int
    width: int
    lr: float
    std: float
    quiet: int  # steps of gradient descent to zero loss
    steps: int
    points: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """Gradient descent, and label noise after it has interpolated."""
        return {"GD": partial(self._one, at, 0.0), "label noise": partial(self._one, at, self.std)}

    def _one(self, at: At, std: float) -> dict[str, Array]:
        traces, ratios = [], []
        for seed in at.seeds(self.seeds, "data"):
            rng = np.random.default_rng(seed)
            X, W = rng.random((self.n, self.d)), rng.standard_normal((self.width, self.d)) / np.sqrt(self.width)
            trace, ratio = odd_units(X, rng.standard_normal(self.n), W, self.lr, std, self.quiet, self.steps,
                                     self.points, seed)  # fmt: skip
            traces.append(trace.tolist())
            ratios.append(ratio.tolist())
        return {"trace": over_seeds(traces), "ratio": over_seeds(ratios)}

    def checks(self, arms: Any) -> list[Check]:
        """The trace falls, and the second direction with it."""
        noise, gd = arms["label noise"], arms["GD"]
        ends = slice(-max(1, self.points // 10), None)
        last = np.maximum(noise["ratio"][ends].mean(0), FLOOR)
        return [
            rules.ratio(
                "trace of the Hessian, label noise over GD", noise["trace"][ends].mean(0), gd["trace"][-1], 0.75
            ),
            rules.ratio("second over first singular value, end over zero loss", last, noise["ratio"][0], 0.5),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Both over the step."""
        steps = np.linspace(0, self.steps, self.points + 1)
        panels = []
        for title, key in (("trace of the Hessian", "trace"), ("second / first singular value", "ratio")):
            curves = {name: (steps, values[key]) for name, values in arms.items()}
            panels.append(Panel(title, curves, log=True, logx=False, xlabel="step after zero loss"))
        return panels


@compiled()
def odd_units(X, y, W, lr, std, quiet, steps, points, seed):  # type: ignore[no-untyped-def]
    """Trace of the Hessian and second over first singular value of W, for f = sum_k phi(w_k x), phi = z + z^3."""
    np.random.seed(seed)  # noqa: NPY002 (numba knows no other)
    n, traces, ratios = len(X), np.empty(points + 1), np.empty(points + 1)
    for step in range(-quiet, steps + 1):
        z = X @ W.T
        slope = 1 + 3 * z * z
        if step >= 0 and step % (steps // points) == 0:
            at = step // (steps // points)
            traces[at] = ((X * X).sum(1) * (slope * slope).sum(1)).sum() / n
            singular = np.linalg.svd(W)[1]
            ratios[at] = singular[1] / singular[0]
        residual = (z + z**3).sum(1) - y
        if step >= 0:
            residual -= std * np.random.standard_normal(n)  # noqa: NPY002
        W = W - lr / n * (slope * residual.reshape(n, 1)).T @ X
    return traces, ratios
