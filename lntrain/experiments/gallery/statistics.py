"""Entries on statistics: what gradient descent from a small start is worth where it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lntrain.data.problem import Problem
from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import end, over_seeds, planted, run, squared_error
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.lasso.references import basis_pursuit, entropy_interpolator, oracle_least_squares
from lntrain.lasso.solve import weighted_lasso_path
from lntrain.noise.schedules import StepDecay

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


@dataclass(frozen=True)
class Samples:
    """From a large start label noise needs rows like log d to find the truth, gradient descent like d."""

    k: int
    ds: list[int]
    flow_ds: list[int]  # of gradient flow, which needs more rows
    init: float
    penalty: float  # lambda of the label noise, before its lr falls
    share: float  # of the largest stable lr
    steps: int
    drops: list[int]  # where the lr falls tenfold
    tolerance: float  # relative error of a recovery
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """Label noise, the limit of gradient flow, and the least l1 norm."""
        return {
            "label noise": partial(self._needed, at, self._noise, self.ds),
            "gradient flow": partial(self._needed, at, self._flow, self.flow_ds),
            "basis pursuit": partial(self._needed, at, self._pursuit, self.ds),
        }

    def _needed(self, at: At, way: Callable[[Problem, int], torch.Tensor], ds: list[int]) -> dict[str, Array]:
        """Rows it takes, by bisection, for each d and seed."""
        seeds = at.seeds(self.seeds, "data")
        return {"rows": over_seeds([[self._rows(way, d, seed) for d in ds] for seed in seeds])}

    def _rows(self, way: Callable[[Problem, int], torch.Tensor], d: int, seed: int) -> float:
        rng = np.random.default_rng(seed)
        signs, widest = rng.choice([-1.0, 1.0], self.k), max(*self.ds, *self.flow_ds)
        X, coef = rng.standard_normal((widest, widest))[:d, :d], np.r_[signs, np.zeros(d - self.k)]  # nested in d

        def found(n: int) -> bool:
            problem = planted(X[:n], coef)
            missed = float(squared_error(way(problem, seed), problem)) ** 0.5 / np.linalg.norm(coef)
            return bool(missed <= self.tolerance)

        low, high = self.k, 2 * self.k  # too few; perhaps enough
        while high < d and not found(high):
            low, high = high, min(2 * high, d)
        while high - low > 1:
            n = (low + high) // 2
            low, high = (low, n) if found(n) else (n, high)
        return float(high)

    def _noise(self, problem: Problem, seed: int) -> torch.Tensor:
        top = float(torch.linalg.matrix_norm(problem.X, 2)) ** 2 / problem.n
        lr = self.share * 2 / (8 * self.init**2 * top)
        std = (self.penalty * problem.n / lr) ** 0.5
        return end(problem, lr=lr, std=std, steps=self.steps, init=self.init, seed=seed,
                   lr_schedule=StepDecay(tuple(self.drops), 0.1))  # fmt: skip

    def _flow(self, problem: Problem, seed: int) -> torch.Tensor:
        return entropy_interpolator(problem.X, problem.y, self.init).coef

    def _pursuit(self, problem: Problem, seed: int) -> torch.Tensor:
        return basis_pursuit(problem.X, problem.y).coef

    def checks(self, arms: Any) -> list[Check]:
        """The slopes of log rows on log d."""
        noise = rules.slopes(self.ds, arms["label noise"]["rows"])
        flow = rules.slopes(self.flow_ds, arms["gradient flow"]["rows"])
        return [
            rules.at_most("label noise: slope of log rows on log d", noise, 0.4),
            rules.at_least("gradient flow: the same", flow, 0.8),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Rows over d."""
        widths = {"gradient flow": self.flow_ds}
        curves = {name: (widths.get(name, self.ds), values["rows"]) for name, values in arms.items()}
        return [Panel("rows it takes to find the truth", curves, log=True, xlabel="columns d")]
