"""Entries on statistics: what gradient descent from a small start is worth where it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import over_seeds, planted, run, squared_error
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.lasso.references import oracle_least_squares
from lntrain.lasso.solve import weighted_lasso_path

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EarlyStopping:
    """Stopped at its best, gradient descent beats the Lasso where signals are strong, and nears the oracle."""

    n: int
    d: int
    k: int
    noise: float
    alpha: float
    signals: list[float]
    lrs: list[float]  # one a signal
    steps: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A signal an arm."""
        pairs = zip(self.signals, self.lrs, strict=True)
        return {f"signal {signal:g}": partial(self._one, at, signal, lr) for signal, lr in pairs}

    def _one(self, at: At, signal: float, lr: float) -> dict[str, Array]:
        rows = []
        for seed in at.seeds(self.seeds, "data"):
            rng = np.random.default_rng(seed)
            X, coef = rng.choice([-1.0, 1.0], (self.n, self.d)), np.zeros(self.d)
            coef[rng.choice(self.d, self.k, replace=False)] = signal * rng.choice([-1.0, 1.0], self.k)
            problem = planted(X, coef, noise=self.noise * rng.standard_normal(self.n))
            steps = np.unique(np.geomspace(self.steps / 50, self.steps, 120).astype(int)).tolist()
            shots = run(problem, lr=lr, steps=self.steps, init=self.alpha, snapshots=steps)
            descent = min(float(squared_error(shot.coef, problem)) for shot in shots)  # type: ignore[arg-type]
            top = float((problem.X.T @ problem.y).abs().max() / self.n)
            path = weighted_lasso_path(problem.X, problem.y, np.geomspace(0.99 * top, 0.02 * top, 60))
            lasso = min(float(squared_error(one.coef, problem)) for one in path)
            oracle = float(squared_error(oracle_least_squares(problem.X, problem.y, problem.coef).coef, problem))
            rows.append([descent, lasso, oracle])
        return dict(zip(("descent", "lasso", "oracle"), over_seeds(rows), strict=True))

    def checks(self, arms: Any) -> list[Check]:
        """At the strongest signal better than the Lasso, at the weakest like it."""
        weak, strong = (arms[f"signal {signal:g}"] for signal in (min(self.signals), max(self.signals)))
        alike = weak["descent"] / weak["lasso"]
        return [
            rules.ratio(
                "strong signal: error, GD over Lasso, each at its best", strong["descent"], strong["lasso"], 0.9
            ),
            rules.ratio("strong signal: error, GD over the oracle", strong["descent"], strong["oracle"], 1.5),
            *rules.within("weak signal: error, GD over Lasso", alike, 0.9, 1.2),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Errors over the signal."""
        names = {"GD, best on its path": "descent", "Lasso, best on its path": "lasso", "oracle": "oracle"}
        curves = {name: (self.signals, np.stack([v[key] for v in arms.values()])) for name, key in names.items()}
        return [Panel("squared error", curves, log=True, xlabel="size of a true coefficient", logx=False)]
