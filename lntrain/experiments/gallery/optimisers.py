"""Entries on other optimisers without label noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lntrain.experiments.gallery import rules
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.lasso.references import basis_pursuit
from lntrain.noise.compiled import compiled

Array = NDArray[np.float64]
ZERO = 1e-3  # relative residual of an interpolator
FLOOR = 0.01  # a distance below it counts as the least l1 norm, and does not dominate a mean of logarithms


@dataclass(frozen=True)
class SmoothedSign:
    """The more a sign descent is smoothed, the nearer it ends to the interpolator of least l1 norm."""

    n: int
    d: int
    init: float
    smoothings: list[float]  # eps of g / sqrt(g^2 + eps)
    lr: float
    steps: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A smoothing an arm."""
        return {f"eps {eps:g}": partial(self._one, at, eps) for eps in self.smoothings}

    def _one(self, at: At, eps: float) -> dict[str, Array]:
        distances, residuals = [], []
        for seed in at.seeds(self.seeds, "data"):
            rng = np.random.default_rng(seed)
            X, y = rng.standard_normal((self.n, self.d)), rng.standard_normal(self.n)
            coef = smoothed_sign(X, y, self.init, eps, self.lr, self.steps)
            least = basis_pursuit(X, y).coef.numpy()
            distances.append(np.linalg.norm(coef - least) / np.linalg.norm(least))
            residuals.append(np.linalg.norm(X @ coef - y) / np.linalg.norm(y))
        return {"distance": np.array(distances), "residual": np.array(residuals)}

    def checks(self, arms: Any) -> list[Check]:
        """Most seeds interpolate; among them each distance is below the one before it."""
        ends = np.max([values["residual"] for values in arms.values()], axis=0) <= ZERO
        near = [np.maximum(values["distance"], FLOOR)[ends if ends.any() else slice(None)] for values in arms.values()]
        return [
            rules.at_least("share of seeds that interpolate at every eps", [float(ends.mean())], 0.75),
            *rules.ordered("distance to the least l1 norm, eps", near, 1.0),
            rules.ratio("the same, last over first", near[-1], near[0], 0.75),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Distances over eps."""
        curves = {"smoothed sign descent": (self.smoothings, np.stack([v["distance"] for v in arms.values()]))}
        return [Panel("distance to the least l1 norm", curves, log=True, xlabel="smoothing eps")]


@compiled()
def smoothed_sign(X, y, init, eps, lr, steps):  # type: ignore[no-untyped-def]
    """beta = u^2 - v^2 after steps of u -= lr g / sqrt(g^2 + eps)."""
    u, v = np.full(X.shape[1], init), np.full(X.shape[1], init)
    for _ in range(steps):
        slope = X.T @ (X @ (u * u - v * v) - y) / len(y)
        into_u, into_v = 2 * u * slope, -2 * v * slope
        u -= lr * into_u / np.sqrt(into_u * into_u + eps)
        v -= lr * into_v / np.sqrt(into_v * into_v + eps)
    return u * u - v * v
