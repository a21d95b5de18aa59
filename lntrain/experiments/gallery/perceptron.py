"""Entries on the perceptron: which of step size and batch size stochastic gradient descent feels."""

from __future__ import annotations

import math
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
EVERY = 64  # steps between looks whether the loss is zero


@dataclass(frozen=True)
class BatchRegimes:
    """Below a critical batch size SGD feels lr / batch alone, and ends at weights in proportion to it; not above.

    Hinge loss (margin - y x.w / sqrt(d))_+ of a teacher's signs, from w = 0 until it is zero on all rows.
    """

    d: int
    P: int  # rows
    margin: float
    temperatures: list[float]  # lr / batch
    small: list[int]  # batch sizes below the critical one
    large: int  # one far above
    steps: int  # at most
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A batch size an arm."""
        return {f"batch {size}": partial(self._one, at, size) for size in (*self.small, self.large)}

    def _one(self, at: At, size: int) -> dict[str, Array]:
        norms, errors, lefts = [], [], []
        for seed in at.seeds(self.seeds, "data"):
            X = np.random.default_rng(seed).standard_normal((self.P, self.d))
            y = np.sign(X[:, 0])
            rows = [separate(X, y, ratio * size, size, self.margin, self.steps // size, seed)
                    for ratio in self.temperatures]  # fmt: skip
            norms.append([float(np.linalg.norm(w)) for w, _ in rows])
            errors.append([math.acos(w[0] / np.linalg.norm(w)) / math.pi for w, _ in rows])
            lefts.append([float(left) for _, left in rows])
        return {"norm": over_seeds(norms), "error": over_seeds(errors), "left": over_seeds(lefts)}

    def checks(self, arms: Any) -> list[Check]:
        """Collapse below, proportion to lr / batch, and its end above."""
        own = np.stack([arms[f"batch {size}"]["norm"] for size in self.small])  # (sizes, temperatures, seeds)
        left = sum(float(values["left"].sum()) for values in arms.values())
        spread = np.exp(np.ptp(np.log(own), axis=0).mean(0))
        slope = rules.slopes(self.temperatures, np.exp(np.log(own).mean(0)))
        apart = np.exp(np.log(arms[f"batch {self.large}"]["norm"] / np.exp(np.log(own).mean(0))).mean(0))
        return [
            rules.at_most("runs that did not reach zero loss", [left], 0.0),
            rules.at_most("small batches: largest |w| over smallest at one lr / batch", spread, 1.3),
            *rules.within("small batches: slope of log |w| on log lr / batch", slope, 0.95, 1.05),
            rules.at_least("the large batch: |w| over the small ones'", apart, 1.5),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Norms and test errors over lr / batch."""
        made = []
        for key, title, log in (("norm", "|w| at zero loss", True), ("error", "test error", False)):
            curves = {name: (self.temperatures, values[key]) for name, values in arms.items()}
            made.append(Panel(title, curves, log=log, xlabel="lr / batch"))
        return made


@compiled()
def separate(X, y, lr, size, margin, steps, seed):  # type: ignore[no-untyped-def]
    """Weights after SGD until every row is beyond the margin, and whether one is not."""
    np.random.seed(seed)  # noqa: NPY002 (numba knows no other)
    rows, d = X.shape
    w, slope, scale = np.zeros(d), np.zeros(d), 1 / np.sqrt(d)
    left = 1
    for step in range(1, steps + 1):
        slope[:] = 0.0
        for _ in range(size):
            i = np.random.randint(rows)  # noqa: NPY002
            if y[i] * (X[i] @ w) * scale < margin:
                slope += y[i] * X[i]
        w += lr / size * scale * slope
        if step % EVERY == 0 or step == steps:
            left = 0
            for i in range(rows):
                if y[i] * (X[i] @ w) * scale < margin:
                    left = 1
                    break
            if left == 0:
                break
    return w, left
