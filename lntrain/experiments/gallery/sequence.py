"""Entries on sequence models: coordinates that are seen with noise, each with a flow of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import over_seeds
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.noise.compiled import compiled

Array = NDArray[np.float64]
PLAIN = "plain"


@dataclass(frozen=True)
class Adaptivity:
    """Where large signals sit at small eigenvalues, flow on a product adapts, and its risk falls faster with n.

    z_j = theta_j + N(0, 1/n). Plain: d theta_j = lambda_j (z_j - theta_j) dt. Product: theta_j = a_j b_j^D beta_j, all
    trained from a_j = sqrt(lambda_j), b_j = n^(-1/(2 (D + 2))), beta_j = 0. Each is stopped at its best.
    """

    p: float  # the j-th largest signal is j^(-(p + 1) / 2)
    q: float  # and sits at j^q
    decay: float  # lambda_j = j^(-decay)
    depths: list[int]  # D
    ns: list[int]
    coordinates: int
    time: float  # of the flow, over n
    points: int
    repeats: int  # a seed's risk is a mean over so many
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """Plain, and a depth an arm."""
        products = {f"product, D={depth}": partial(self._one, at, depth) for depth in self.depths}
        return {PLAIN: partial(self._one, at, None), **products}

    def _one(self, at: At, depth: int | None) -> dict[str, Array]:
        truth, eigen = np.zeros(self.coordinates), np.arange(1.0, self.coordinates + 1) ** -self.decay
        places = np.arange(1, int(self.coordinates ** (1 / self.q)) + 1)
        truth[(places**self.q).astype(int) - 1] = places ** (-(self.p + 1) / 2)
        rows = []
        for seed in at.seeds(self.seeds, "data"):
            rng = np.random.default_rng(seed)
            draws = rng.standard_normal((self.repeats, self.coordinates))
            rows.append([self._risk(truth, eigen, truth + draws / np.sqrt(n), n, depth) for n in self.ns])
        return {"risk": over_seeds(rows)}

    def _risk(self, truth: Array, eigen: Array, seen: Array, n: int, depth: int | None) -> float:
        """The mean risk at the best time."""
        times = np.geomspace(1.0, self.time * n, self.points)
        if depth is None:
            paths = (seen * -np.expm1(-np.multiply.outer(t, eigen)) for t in times)
        else:
            paths = iter(product_flow(eigen, seen, n ** (-1 / (2 * (depth + 2))), depth, times))
        return min(float(((path - truth) ** 2).sum(1).mean()) for path in paths)

    def checks(self, arms: Any) -> list[Check]:
        """The slope of log risk on log n, over plain flow's."""
        plain = rules.slopes(self.ns, arms[PLAIN]["risk"])
        return [rules.at_most(f"{name}: slope of log risk on log n, less plain flow's",
                              rules.slopes(self.ns, values["risk"]) - plain, -0.1)
                for name, values in arms.items() if name != PLAIN]  # fmt: skip

    def panels(self, arms: Any) -> list[Panel]:
        """The risk over n."""
        curves = {name: (self.ns, values["risk"]) for name, values in arms.items()}
        rate = -self.p / (self.p + 1)
        best = min(values["risk"][0].mean() for values in arms.values())
        line = best * (np.array(self.ns) / self.ns[0]) ** rate
        return [Panel("risk, each stopped at its best", curves, log=True, xlabel="n",
                      theory={f"slope {rate:.2g}": (self.ns, line)})]  # fmt: skip


@nb.njit
def _gain(eigen, start, depth, beta):  # type: ignore[no-untyped-def]
    """a b^D, since a^2 - beta^2 and b^2 - D beta^2 stay as they are."""
    return np.sqrt(eigen + beta * beta) * np.sqrt(start * start + depth * beta * beta) ** depth


@compiled()
def product_flow(eigen, seen, start, depth, times):  # type: ignore[no-untyped-def]
    """theta (T, R, J) at times, by midpoint steps of beta alone."""
    repeats, coordinates = seen.shape
    found = np.empty((len(times), repeats, coordinates))
    for r in range(repeats):
        for j in range(coordinates):
            beta, t, z = 0.0, 0.0, seen[r, j]
            for i in range(len(times)):
                while t < times[i]:
                    gain = _gain(eigen[j], start, depth, beta)
                    rate = gain * (z - gain * beta)
                    slope = gain * gain * (depth + 2) + 1e-12
                    # a tenth of the relaxation's time at most, and beta moves by a twentieth of its scale
                    step = min(times[i] - t, 0.1 / slope, 0.05 * (abs(beta) + gain) / (abs(rate) + 1e-300))
                    middle = beta + step * rate / 2
                    gain = _gain(eigen[j], start, depth, middle)
                    beta += step * gain * (z - gain * middle)
                    t += step
                found[i, r, j] = _gain(eigen[j], start, depth, beta) * beta
    return found
