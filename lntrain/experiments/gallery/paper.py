"""Entries of the paper itself: its figure, its thresholds, the temperature of its invariant law."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lntrain.data.problem import Problem, sparse_regression
from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import over_seeds, planted, run, squared_error, unit_columns
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.lasso.solve import weighted_lasso
from lntrain.noise.compiled import compiled
from lntrain.noise.schedules import StepDecay
from lntrain.penalty.formula import mean_squares
from lntrain.theory.dynamics import Dynamics
from lntrain.theory.gamma import gamma_law
from lntrain.theory.regime import Regime, regime

Array = NDArray[np.float64]
PAPER: dict[str, Any] = {"parametrisation": "square", "loss_constant": 0.25}  # beta = w^2, a = 1


@dataclass(frozen=True)
class Thresholds:
    """Below delta_minus the support is the truth's, above delta_plus empty, between them the Lasso's."""

    n: int
    d: int
    k: int
    lr: float
    steps: int
    seeds: int
    below: list[float]  # of delta_minus
    between: list[float]  # shares of the way from delta_minus to delta_plus
    above: list[float]  # of delta_plus

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """One run a problem, a noise level a replica."""
        return {"levels": partial(self._levels, at)}

    def _levels(self, at: At) -> dict[str, Array]:
        rows = [self._one(*self._problem(at, i), seed) for i, seed in enumerate(at.seeds(self.seeds))]
        return {key: over_seeds([row[key] for row in rows]) for key in rows[0]}

    def _problem(self, at: At, i: int) -> tuple[Problem, Regime]:
        for seed in at.seeds(1000, f"data {i}"):
            problem = sparse_regression(self.n, self.d, self.k, seed=seed)
            found = regime(problem.X, problem.y, 1.0, problem.coef)
            if found.margin_one_sided > 0.05:
                return problem, found
        raise RuntimeError("1000 problems, none with a domination margin of 0.05")

    def _one(self, problem: Problem, found: Regime, seed: int) -> dict[str, list[float]]:
        assert problem.coef is not None
        low, high = found.delta_minus, found.delta_plus
        band = [low + share * (high - low) for share in self.between]
        levels = [share * low for share in self.below] + band + [share * high for share in self.above]
        stds = tuple(math.sqrt(level * self.n / self.lr) for level in levels)
        records = range(self.steps // 4, self.steps, self.steps // 200)
        shots = run(
            problem, lr=self.lr, steps=self.steps, init=0.1, std=stds, seed=[seed] * len(levels), snapshots=records,
            replicas=len(levels), **PAPER,
        )  # fmt: skip
        coef = torch.stack([shot.coef for shot in shots if shot.coef is not None])
        on, mean = problem.coef != 0, shots[-1].tail_coef
        assert mean is not None
        far = [self._distance(problem, level, shots[-1].mean_noise[i], shots[-1].mean_coef[i])  # type: ignore[index]
               for i, level in enumerate(levels)]  # fmt: skip
        spread = ((coef - coef.mean(0))[:, :, on].square().mean((0, 2)) / coef[:, :, on].mean((0, 2))).sqrt()
        right = ((mean > 0.01) == on).double().mean(-1)
        return {
            "level": levels,
            "right": right.tolist(),
            "size": (mean > 0.01).sum(-1).tolist(),
            "distance": far,
            "spread": spread.tolist(),
        }

    def _distance(self, problem: Problem, level: float, noise: Any, mean: Any) -> float:
        """To the Lasso of the labels that the run saw on average, over the truth's norm."""
        penalty = level / 2 * mean_squares(problem.X)
        lasso = weighted_lasso(problem.X, problem.y, penalty, positive=True)
        bias = Dynamics(init=0.1, **PAPER).bias(problem, lasso, self.lr)
        seen = weighted_lasso(problem.X, problem.y + noise, penalty * (1 + bias), positive=True)
        return float((mean - seen.coef).norm() / problem.coef.norm())  # type: ignore[union-attr]

    def checks(self, arms: Any) -> list[Check]:
        """Supports at both sides, the Lasso between, and the spread's exponent."""
        seen, many, last = arms["levels"], len(self.below), len(self.above)
        slope = rules.slopes(seen["level"][:many, 0], seen["spread"][:many])
        return [
            rules.at_least("below delta_minus: coordinates on the right side", seen["right"][:many].min(0), 1.0),
            rules.at_most("above delta_plus: size of the support", seen["size"][-last:].max(0), 0.0),
            rules.at_most("between: distance to the Lasso", seen["distance"][many:-last].max(0), 0.03),
            *rules.within("slope of spread / sqrt(mean beta) on delta_bar", slope, 0.45, 0.55),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Supports and distances over the levels."""
        seen = arms["levels"]
        x = np.exp(np.log(seen["level"]).mean(1))
        size = {"size of the support": (x, seen["size"])}
        marks: dict[str, Any] = {"xlabel": "noise level delta_bar", "mark": float(x[len(self.below)])}
        return [
            Panel("coordinates that stay on", size, theory={"truth": (x, np.full(len(x), self.k))}, **marks,
                  mark_label="first level above delta_minus"),
            Panel("distance to the Lasso / |truth|", {"training": (x, seen["distance"])}, log=True, **marks,
                  mark_label="first level above delta_minus"),
        ]  # fmt: skip


@dataclass(frozen=True)
class Temperature:
    """Two runs stay apart as the invariant law says: E |b1 - b2|^2 = 4 lambda_0 sum |beta*|."""

    n: int
    d: int
    k: int
    lr: float
    alphas: list[float]
    steps: int
    burn_in: int
    pairs: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A penalty an arm."""
        return {f"alpha {alpha:g}": partial(self._apart, at, alpha) for alpha in self.alphas}

    def _apart(self, at: At, alpha: float) -> dict[str, Array]:
        rows = []
        for seed in at.seeds(self.seeds, "data"):
            problem = sparse_regression(self.n, self.d, self.k, signs="random", seed=seed)
            problem = unit_columns(problem)
            std = math.sqrt(alpha * self.n / self.lr)  # lambda_j = a lr std^2 c_j / (2 n), a = 2
            records = range(self.burn_in, self.steps, (self.steps - self.burn_in) // 400)
            many = 2 * self.pairs
            shots = run(problem, lr=self.lr, steps=self.steps, init=0.1, std=std, replicas=many, snapshots=records,
                        seed=[seed + r for r in range(many)])  # fmt: skip
            lasso = weighted_lasso(problem.X, problem.y, torch.full((self.d,), alpha, dtype=torch.float64))
            law = gamma_law(problem.X, lasso)
            coef = torch.stack([shot.coef for shot in shots if shot.coef is not None])
            rows.append(
                [float((coef[:, ::2] - coef[:, 1::2]).square().sum(-1).mean()), 2 * float(law.sd.square().sum())]
            )
        return dict(zip(("apart", "predicted"), over_seeds(rows), strict=True))

    def checks(self, arms: Any) -> list[Check]:
        """Seen over predicted."""
        made = [(name, values["apart"] / values["predicted"]) for name, values in arms.items()]
        return [Check(f"E |b1 - b2|^2 over predicted, {name}", 1.0, seen, precision=0.05) for name, seen in made]

    def panels(self, arms: Any) -> list[Panel]:
        """Seen and predicted over the penalty."""
        seen, said = (np.stack([arm[key] for arm in arms.values()]) for key in ("apart", "predicted"))
        theory = {"4 lambda_0 sum |beta*|": (self.alphas, said.mean(1))}
        curves = {"two runs, apart": (self.alphas, seen)}
        return [Panel("E |b1 - b2|^2", curves, log=True, xlabel="penalty alpha", theory=theory)]


@dataclass(frozen=True)
class Figure1:
    """Label noise leaves the plateau of gradient descent and reaches the sparse truth: the paper's Figure 1."""

    strong: float  # the std that gives the published figure
    stated: float  # the one that its text states
    batches: list[int]

    def checks(self, arms: Any) -> list[Check]:
        """log10 of the squared error at the end, and coordinates on and off the support."""
        noisy = [f"{name} + label noise, std {self.strong:g}" for name in ("GD", "SGD")]
        made = rules.within("GD: log10 error", arms["GD"]["log10_error"], -0.4, 0.0)
        for name in noisy:
            middle = np.median(arms[name]["log10_error"])  # as the paper's one curve: a seed's last iterate moves by .5
            made += rules.within(f"{name}: median log10 error", middle, -3.6, -1.8)
            made += rules.within(f"{name}: a coordinate on the support", arms[name]["on"], 0.9, 1.1)
            made.append(rules.at_most(f"{name}: one off it", np.maximum(np.abs(arms[name]["off"]), 1e-4), 0.02))
        stated = arms[f"GD + label noise, std {self.stated:g}"]["log10_error"]
        made.append(rules.at_most(f"stated std {self.stated:g}: log10 error", stated, -1.8))
        made.append(rules.at_least("SGD, batch 1: log10 error at GD's plateau", arms["SGD"]["log10_error"], -0.4))
        for size in self.batches:
            seen = arms[f"SGD, batch {size}"]["log10_error"]
            made.append(rules.at_least(f"SGD, batch {size}: log10 error at GD's plateau", seen, -0.4))
        return made


def figure1_ends(curves: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, Array]]:
    """Arm -> what Figure1 judges, (R,), of curves (R, S) of the squared error and of two coordinates."""
    return {
        name: {"log10_error": np.log10(row["error"][:, -1]), "on": row["on"][:, -1], "off": row["off"][:, -1]}
        for name, row in curves.items()
    }


@dataclass(frozen=True)
class HaoChen:
    """Label noise recovers the sparse truth from a large start; gradient descent and isotropic noise do not."""

    n: int
    d: int
    r: int
    init: float
    lr: float
    std: float
    steps: int
    drops: list[int]
    sigmas: list[float]  # of the isotropic noise on the gradient
    data_seed: int  # the authors': their data is drawn as their code draws it
    seeds: int

    def _problems(self, at: At) -> list[Problem]:
        return [self._problem(seed) for seed in (self.data_seed, *at.seeds(self.seeds - 1, "data"))]

    def _problem(self, seed: int) -> Problem:
        rng = np.random.RandomState(seed)
        rng.rand(self.d)  # the authors' code draws a truth first, which it then replaces by ones
        X, coef = rng.randn(self.n, self.d), np.zeros(self.d)
        coef[: self.r] = 1.0
        return planted(X, coef)

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """GD, label noise on single labels, isotropic noise."""
        own = {"GD": partial(self._one, at, 0.0), "label noise": partial(self._one, at, self.std)}
        return own | {f"isotropic {sigma:g}": partial(self._isotropic, at, sigma) for sigma in self.sigmas}

    def _one(self, at: At, std: float) -> dict[str, Array]:
        rows = []
        for seed, problem in zip(at.seeds(self.seeds), self._problems(at), strict=True):
            drawn: dict[str, Any] = {"batch_size": 1, "sampling": "noisy_rows"} if std else {}
            shots = run(problem, lr=self.lr, steps=self.steps, init=self.init, std=std, seed=seed, **PAPER,
                        lr_schedule=StepDecay(tuple(self.drops), 0.1) if std else None,
                        snapshots=np.geomspace(100, self.steps, 20).astype(int).tolist(), **drawn)  # fmt: skip
            rows.append([float(squared_error(shot.coef, problem)) for shot in shots])  # type: ignore[arg-type]
        return {"error": over_seeds(rows)}

    def _isotropic(self, at: At, sigma: float) -> dict[str, Array]:
        rows = []
        for seed, problem in zip(at.seeds(self.seeds), self._problems(at), strict=True):
            rows.append(isotropic(problem.X.numpy(), problem.y.numpy(), problem.coef.numpy(), self.init, self.lr, sigma,  # type: ignore[union-attr]
                                  np.geomspace(100, self.steps, 20).astype(np.int64), seed))  # fmt: skip
        return {"error": over_seeds(rows)}

    def checks(self, arms: Any) -> list[Check]:
        """GD's error at the authors' data, label noise's everywhere, isotropic noise's over GD's."""
        gd = arms["GD"]["error"][-1]
        made = rules.within("GD: squared error, the authors' data", gd[:1], 72, 78)
        made.append(rules.at_most("label noise: squared error", arms["label noise"]["error"][-1], 2e-3))
        for sigma, bound in zip(self.sigmas, (0.9, 1.3), strict=True):
            seen = arms[f"isotropic {sigma:g}"]["error"][-1]
            made.append(rules.ratio(f"isotropic {sigma:g}: error over GD's", seen, gd, bound, ">="))
        return made

    def panels(self, arms: Any) -> list[Panel]:
        """Errors over the step."""
        steps = np.geomspace(100, self.steps, 20).astype(int)
        return [Panel("squared error", {n: (steps, v["error"]) for n, v in arms.items()}, log=True)]


@compiled()
def isotropic(X, y, truth, init, lr, sigma, stops, seed):  # type: ignore[no-untyped-def]
    """(S,) squared errors of w <- w - lr (gradient + sigma xi) for beta = w^2, loss 1/4 mean square."""
    np.random.seed(seed)  # noqa: NPY002 (numba knows no other)
    n, d = X.shape
    w, errors, residual, at = np.full(d, init), np.empty(len(stops)), np.empty(n), 0
    for step in range(1, stops[-1] + 1):
        for i in range(n):
            total = -y[i]
            for j in range(d):
                total += X[i, j] * w[j] * w[j]
            residual[i] = total / n
        slope = np.zeros(d)
        for i in range(n):
            for j in range(d):
                slope[j] += X[i, j] * residual[i]
        for j in range(d):
            w[j] -= lr * (slope[j] * w[j] + sigma * np.random.standard_normal())  # noqa: NPY002
        if step == stops[at]:
            errors[at] = ((w * w - truth) ** 2).sum()
            at += 1
    return errors
