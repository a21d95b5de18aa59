"""Entries on the scale of the start: what gradient descent without label noise selects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from lntrain.data.problem import Problem, sparse_regression
from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import end, over_seeds, planted, relative, run, squared_error
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.lasso.references import entropy_interpolator

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Woodworth:
    """Gradient descent interpolates, and its start decides how: a small one sparse, a large one dense."""

    n: int
    d: int
    k: int
    label_variance: float
    threshold: float
    alphas: list[float]
    trained: list[float]
    ns: list[int]
    seeds: int

    def _problem(self, n: int, seed: int) -> Problem:
        rng = np.random.default_rng(seed)
        X, coef = rng.standard_normal((n, self.d)), np.zeros(self.d)
        coef[rng.choice(self.d, self.k, replace=False)] = 1 / np.sqrt(self.k)
        return planted(X, coef, noise=np.sqrt(self.label_variance) * rng.standard_normal(n))

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """GD from each start; the interpolators it ends at, over starts and rows."""
        own = {f"GD, alpha {alpha:g}": partial(self._trained, at, alpha) for alpha in self.trained}
        return own | {f"n={n}": partial(self._errors, at, n) for n in self.ns}

    def _trained(self, at: At, alpha: float) -> dict[str, Array]:
        rows = []
        for seed in at.seeds(self.seeds, "data"):
            problem = self._problem(self.n, seed)
            limit = entropy_interpolator(problem.X, problem.y, alpha)
            top = float(torch.linalg.matrix_norm(problem.X, 2)) ** 2 / self.n
            lr = 0.5 / (top * 2 * (2 * alpha**2 + float(limit.coef.abs().max())))
            steps = 3 * _steps(problem, limit.coef, alpha, lr)
            coef = end(problem, lr=lr, steps=steps, init=alpha, lr_schedule=partial(ramp, steps=steps))
            rows.append([float(relative(coef, limit.coef)), float(squared_error(coef, problem))])
        return dict(zip(("distance", "error"), over_seeds(rows), strict=True))

    def _errors(self, at: At, n: int) -> dict[str, Array]:
        rows = []
        for seed in at.seeds(self.seeds, "data"):
            problem = self._problem(n, seed)
            found = [entropy_interpolator(problem.X, problem.y, alpha).coef for alpha in self.alphas]
            rows.append([float(squared_error(coef, problem)) for coef in found])
        return {"error": over_seeds(rows)}

    def largest(self, errors: Array) -> Array:
        """(R,) the largest alpha of the grid with an error within the threshold; the grid's lowest / 10 if none."""
        grid = np.asarray(self.alphas)
        return np.asarray(np.where(errors <= self.threshold, grid[:, None], grid[0] / 10).max(0))

    def checks(self, arms: Any) -> list[Check]:
        """GD ends there; sparse starts are better; more rows allow larger ones."""
        far = [rules.at_most(f"{name}: to its limit", arms[name]["distance"], 1e-3) for name in arms if "GD" in name]
        low, high = arms[f"GD, alpha {self.trained[0]:g}"]["error"], arms[f"GD, alpha {self.trained[-1]:g}"]["error"]
        fits = [self.largest(arms[f"n={n}"]["error"]) for n in self.ns]
        return [
            *far,
            rules.ratio("error, smallest start over largest", low, high, 0.3),
            rules.ratio("largest alpha that generalises, most rows over fewest", fits[-1], fits[0], 1.0, ">="),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Errors over starts and rows."""
        curves = {f"limit, n={n}": (self.alphas, arms[f"n={n}"]["error"]) for n in self.ns}
        dots = {f"GD, n={self.n}": (self.trained, np.stack([arms[f"GD, alpha {a:g}"]["error"] for a in self.trained]))}
        return [Panel("squared error", curves | dots, log=True, xlabel="start alpha", theory={
            "threshold": (self.alphas, [self.threshold] * len(self.alphas))})]  # fmt: skip


def _steps(problem: Problem, coef: Tensor, alpha: float, lr: float, accuracy: float = 20.0) -> int:
    """Steps until the residual has fallen by e^-accuracy along the slowest direction, after the start's log growth."""
    size = (coef.square() + 4 * alpha**4).sqrt()  # w_+^2 + w_-^2
    slow = float(torch.linalg.eigvalsh((problem.X * size) @ problem.X.T / problem.n)[0])
    grow = np.log(max(float(coef.abs().max()) / alpha**2, 1.0)) / float(
        (problem.X.T @ problem.y).abs().max() / problem.n
    )
    return int((2 * accuracy / (2 * slow) + 4 * grow) / lr)


@dataclass(frozen=True)
class EffectiveInit:
    """SGD's own noise shrinks the start: it ends at the interpolator of a smaller, measured one."""

    n: int
    d: int
    k: int
    alpha: float
    lrs: list[float]
    times: float  # lr * steps
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """SGD on single rows at each lr."""
        return {f"lr {lr:g}": partial(self._one, at, lr) for lr in self.lrs}

    def _one(self, at: At, lr: float) -> dict[str, Array]:
        rows = []
        for seed in at.seeds(self.seeds, "data"):
            problem = sparse_regression(self.n, self.d, self.k, signs="random", seed=seed)
            last = run(problem, lr=lr, steps=int(self.times / lr), init=self.alpha, seed=seed, batch_size=1)[-1]
            assert last.coef is not None
            assert last.log_weights is not None
            own = effective_init(last.log_weights)
            plain = entropy_interpolator(problem.X, problem.y, self.alpha).coef
            moved = entropy_interpolator(problem.X, problem.y, own).coef
            far, near = float(relative(last.coef, plain)), float(relative(last.coef, moved))
            gain = float(squared_error(last.coef, problem) / squared_error(plain, problem))
            rows.append([far, near, float(own.median()), gain])
        return dict(zip(("from_alpha", "from_own", "effective", "gain"), over_seeds(rows), strict=True))

    def checks(self, arms: Any) -> list[Check]:
        """Nearer to its own limit; its start falls with lr; it generalises better."""
        named = list(arms.items())
        near = [rules.ratio(f"{name}: distance to its own limit over alpha's", v["from_own"], v["from_alpha"], 0.25)
                for name, v in named[:2]]  # fmt: skip
        fall = rules.ordered("effective start over lr", [v["effective"] for _, v in named], 1.0)
        return [
            *near,
            *fall,
            rules.at_most(f"{named[-1][0]}: error over gradient descent's", named[-1][1]["gain"], 1.0),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Distances and starts over lr."""

        def over(key: str) -> tuple[Any, Array]:
            return self.lrs, np.stack([v[key] for v in arms.values()])

        return [
            Panel("distance of SGD's end to a limit", {"of alpha": over("from_alpha"), "of its own start": over(
                "from_own")}, log=True, xlabel="lr"),
            Panel("effective start", {"median over columns": over("effective")}, xlabel="lr",
                  theory={"alpha": (self.lrs, [self.alpha] * len(self.lrs))}),
        ]  # fmt: skip


def effective_init(log_weights: Tensor) -> Tensor:
    """(d,) sqrt(w_+ w_-) of log w^2 (2, d): the start that gradient flow would need to end with these weights.

    Source: Pesme, Pillaud-Vivien, Flammarion, NeurIPS 2021; gradient flow keeps w_+ w_-.
    """
    return (log_weights.sum(-2) / 4).exp()


@dataclass(frozen=True)
class LinearProgram:
    """Gradient descent on squares solves a linear program, regularised by the entropy of its start."""

    n: int
    d: int
    temperatures: list[float]
    steps: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A temperature an arm."""
        return {f"temperature {t:g}": partial(self._one, at, t) for t in self.temperatures}

    def _one(self, at: At, temperature: float) -> dict[str, Array]:
        rows, falls = [], []
        for seed in at.seeds(self.seeds, "data"):
            rng = np.random.default_rng(seed)
            A, cost = rng.random((self.n, self.d)), rng.random(self.d)
            b = A @ rng.random(self.d)
            problem = Problem(torch.from_numpy(A), torch.from_numpy(b))
            init = torch.from_numpy(np.exp(-cost / (2 * temperature)))
            limit = entropy_interpolator(A, b, init, parametrisation="square").coef
            best = linprog(cost, A_eq=A, b_eq=b, method="highs").fun
            weighted = torch.from_numpy(A) * limit.sqrt()
            slowest = float(torch.linalg.eigvalsh(weighted @ weighted.T / self.n)[0])
            steps, lr = (
                self.steps,
                26 / (4 * slowest * self.steps * (1 / 6 + 1 / 2)),
            )  # it ends at e^-26 of the residual
            shots = run(problem, lr=lr, steps=steps, init=init, parametrisation="square",
                        lr_schedule=partial(ramp, steps=steps),
                        snapshots=range(steps // 2, steps, steps // 100))  # fmt: skip
            coef = torch.stack([shot.coef for shot in shots if shot.coef is not None])
            residual = (coef @ problem.X.T - problem.y).norm(dim=-1)
            share = residual[:, None] / problem.y.norm()
            line = rules.straightness([shot.step for shot in shots], share, 1e-11, 1.0)[0]
            rows.append([float(relative(coef[-1], limit)), float(line), float(cost @ coef[-1].numpy()) / best - 1])
            falls.append(residual[:: max(1, len(residual) // 25)][:25].tolist())
        return dict(zip(("distance", "straight", "gap"), over_seeds(rows), strict=True)) | {"fall": over_seeds(falls)}

    def checks(self, arms: Any) -> list[Check]:
        """The limit, its linear rate, and the program's gap that falls with the temperature."""
        made = []
        for name, values in arms.items():
            made.append(rules.at_most(f"{name}: to its limit", values["distance"], 1e-6))
            made.append(rules.at_least(f"{name}: r^2 of log residual on the step", values["straight"], 0.99))
        return [*made, *rules.ordered("gap to the program, falling", [v["gap"] for v in arms.values()], 0.8)]

    def panels(self, arms: Any) -> list[Panel]:
        """Gaps and residuals."""
        gaps = np.stack([values["gap"] for values in arms.values()])
        falls = {name: (np.linspace(0.5, 1, len(v["fall"])), v["fall"]) for name, v in arms.items()}
        return [
            Panel("cost over the program's, minus 1", {"gradient descent": (self.temperatures, gaps)}, log=True,
                  xlabel="temperature of the start"),
            Panel("residual", falls, log=True, xlabel="share of the run", logx=False),
        ]  # fmt: skip


def ramp(step: Any, steps: int) -> Any:
    """A factor on lr that rises over half of a run: where the gradient is large, finite steps move the limit."""
    return np.minimum(1.0, 2 * (np.asarray(step) + 1) / steps) ** 2
