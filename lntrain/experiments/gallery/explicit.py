"""Entries that set label noise beside penalties that are written down: weight decay, at any depth."""

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
from lntrain.experiments.gallery.diagonal import over_seeds, planted, relative, run, unit_columns
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.lasso.references import bridge
from lntrain.lasso.solve import weighted_lasso
from lntrain.penalty.corrections import depth_penalty
from lntrain.penalty.formula import alpha_max
from lntrain.training.evaluation import support_scores

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TwoPenalties:
    """Label noise and weight decay of equal lambda solve one Lasso, in any mixture."""

    n: int
    d: int
    k: int
    alpha_ratio: float
    shares: list[float]  # of the penalty that label noise makes
    lr: float
    steps: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A mixture an arm."""
        return {f"noise's share {share:g}": partial(self._one, at, share) for share in self.shares}

    def _one(self, at: At, share: float) -> dict[str, Array]:
        rows = []
        for seed in at.seeds(self.seeds, "data"):
            problem = sparse_regression(self.n, self.d, self.k, signs="random", seed=seed)
            problem = unit_columns(problem)
            alpha = self.alpha_ratio * alpha_max(problem.X, problem.y)
            std = math.sqrt(share * alpha * self.n / self.lr)  # lambda_j = lr std^2 c_j / n + weight_decay / 2
            last = run(problem, lr=self.lr, steps=self.steps, init=0.1, std=std, seed=seed,
                       weight_decay=2 * (1 - share) * alpha)[-1]  # fmt: skip
            lasso = weighted_lasso(problem.X, problem.y, torch.full((self.d,), alpha, dtype=torch.float64))
            assert last.tail_coef is not None
            assert last.tail_noise is not None
            residual = problem.X @ last.tail_coef - problem.y - last.tail_noise
            seen = -(lasso.coef.sign() * (problem.X.T @ residual) / self.n)[lasso.support].mean() / alpha
            found = last.tail_coef.abs() > 1e-3 * last.tail_coef.abs().max()
            f1 = support_scores(found[None], lasso.support[None])["support_f1"]
            rows.append([float(f1), float(seen), float(relative(last.tail_coef, lasso.coef))])
        return dict(zip(("f1", "lambda", "distance"), over_seeds(rows), strict=True))

    def checks(self, arms: Any) -> list[Check]:
        """One support, one lambda."""
        made = []
        for name, values in arms.items():
            made.append(rules.at_least(f"{name}: F1 of the Lasso's support", values["f1"], 0.98))
            made.append(
                Check(f"{name}: lambda seen over wished", 1.0, values["lambda"], allowance=0.02, precision=0.03)
            )
        return made

    def panels(self, arms: Any) -> list[Panel]:
        """Lambda and distance over the mixture."""

        def over(key: str) -> tuple[Any, Array]:
            return self.shares, np.stack([values[key] for values in arms.values()])

        x: dict[str, Any] = {"xlabel": "share of the penalty that label noise makes", "logx": False}
        return [
            Panel("lambda seen / wished", {"training": over("lambda")}, theory={"theory": (self.shares, [1.0] * len(
                self.shares))}, **x),
            Panel("distance to the one Lasso", {"training": over("distance")}, log=True, **x),
        ]  # fmt: skip


@dataclass(frozen=True)
class Exponent:
    """Weight decay's descent is linear where the Lasso is strict, and falls as t^-2 on the edge."""

    n: int
    d: int
    k: int
    penalty: float
    edge: float  # the largest |g_j| / lambda off the support, where it is strict
    lr: float
    steps: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """Strict, and with one coordinate on the edge."""
        return {"strict": partial(self._one, at, False), "on the edge": partial(self._one, at, True)}

    def _problem(self, seed: int, on_edge: bool) -> Problem:
        """y such that a chosen beta solves the Lasso with chosen subgradients off the support."""
        rng = np.random.default_rng(seed)
        X, beta = rng.standard_normal((self.n, self.d)), np.zeros(self.d)
        beta[: self.k] = rng.choice([-1.0, 1.0], self.k) * rng.uniform(0.5, 1.5, self.k)
        dual = rng.uniform(-self.edge, self.edge, self.d)
        dual[: self.k] = np.sign(beta[: self.k])
        if on_edge:
            dual[-1] = 1.0
        y = X @ beta + self.n * self.penalty * X @ np.linalg.solve(X.T @ X, dual)
        return planted(X, beta, noise=y - X @ beta)

    def _one(self, at: At, on_edge: bool) -> dict[str, Array]:
        rows, steps = [], np.unique(np.geomspace(100, self.steps, 200).astype(int) if on_edge else np.linspace(
            100, self.steps // 20, 200).astype(int))  # fmt: skip
        for seed in at.seeds(self.seeds, "data"):
            problem = self._problem(seed, on_edge)
            shots = run(problem, lr=self.lr, steps=int(steps[-1]), init=0.5, weight_decay=2 * self.penalty,
                        snapshots=steps.tolist())  # fmt: skip
            best = self._objective(problem, problem.coef, problem.coef.abs())  # type: ignore[union-attr]
            rows.append([self._objective(problem, s.coef, s.log_weights.exp().sum(0)) - best for s in shots])  # type: ignore[union-attr]
        return {"step": np.tile(steps[:, None], (1, self.seeds)), "gap": over_seeds(rows)}

    def _objective(self, problem: Problem, coef: Any, size: Any) -> float:
        """Half the mean square, and half the weight decay of w_+^2 + w_-^2."""
        return float((problem.X @ coef - problem.y).square().sum() / (2 * problem.n) + self.penalty * size.sum())

    def checks(self, arms: Any) -> list[Check]:
        """A straight line in the step, and one of slope -2 in its logarithm."""
        gap, steps = arms["strict"]["gap"], arms["strict"]["step"][:, 0]
        edge = arms["on the edge"]
        late = edge["step"][:, 0] > self.steps / 30
        return [
            rules.at_least("strict: r^2 of log gap on the step", rules.straightness(steps, gap, 1e-11, 1e-5), 0.98),
            *rules.within("on the edge: slope of log gap on log step",
                          rules.slopes(edge["step"][late, 0], edge["gap"][late]), -2.1, -1.9),
        ]  # fmt: skip

    def panels(self, arms: Any) -> list[Panel]:
        """The gap over the step."""
        edge, strict = arms["on the edge"], arms["strict"]
        x = edge["step"][:, 0]
        late = x > self.steps / 100
        guide = np.exp(np.log(edge["gap"][late][0]).mean()) * (x[late] / x[late][0]) ** -2.0
        return [
            Panel("strict: objective minus its minimum", {"strict": (strict["step"][:, 0], np.maximum(strict["gap"],
                  1e-15))}, log=True, logx=False),
            Panel("a coordinate on the edge", {"on the edge": (x, edge["gap"])}, log=True,
                  theory={"slope -2": (x[late], guide)}),
        ]  # fmt: skip


@dataclass(frozen=True)
class Depth:
    """Deeper is sparser under weight decay, l_(2/L), and denser under label noise, l_(2 - 2/L)."""

    n: int
    d: int
    k: int
    depths: list[int]
    penalty: float
    std: float
    lr: float
    steps: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """Weight decay and label noise at each depth."""
        decay = {f"decay, L={depth}": partial(self._decay, at, depth) for depth in self.depths}
        return decay | {f"noise, L={depth}": partial(self._noise, at, depth) for depth in self.depths}

    def _problems(self, at: At) -> list[Problem]:
        seeds = at.seeds(self.seeds, "data")
        return [sparse_regression(self.n, self.d, self.k, signs="random", noise=0.2, seed=seed) for seed in seeds]

    def _decay(self, at: At, depth: int) -> dict[str, Array]:
        rows = []
        for problem in self._problems(at):
            coef = run(problem, lr=self.lr, steps=self.steps, init=0.7, depth=depth, weight_decay=2 * self.penalty)[
                -1
            ].coef
            assert coef is not None
            on = coef.abs() > 1e-3 * coef.abs().max()
            slope = problem.X.T @ (problem.X @ coef - problem.y) / self.n
            wished = 2 / depth * self.penalty * coef.abs() ** (2 / depth - 1)
            error = ((slope + wished * coef.sign())[on].norm() / wished[on].norm()) if bool(on.any()) else 1.0
            rows.append([float(error), float(on.sum())])
        return dict(zip(("error", "size"), over_seeds(rows), strict=True))

    def _noise(self, at: At, depth: int) -> dict[str, Array]:
        rows = []
        for i, problem in enumerate(self._problems(at)):
            last = run(problem, lr=self.lr, steps=self.steps, init=0.7, depth=depth, std=self.std, seed=i)[-1]
            assert last.tail_coef is not None
            assert last.tail_noise is not None
            y, weights = problem.y + last.tail_noise, depth_penalty(problem.X, lr=self.lr, std=self.std, depth=depth)
            wished = weighted_lasso(problem.X, y, weights) if depth == 2 else bridge(problem.X, y, weights, depth)
            on = last.tail_coef.abs() > 1e-3 * last.tail_coef.abs().max()
            rows.append([float(relative(last.tail_coef, wished.coef)), float(on.sum())])
        return dict(zip(("error", "size"), over_seeds(rows), strict=True))

    def checks(self, arms: Any) -> list[Check]:
        """Stationarity, distance, and supports that go opposite ways."""
        made = [rules.at_most(f"{name}: {'stationarity' if 'decay' in name else 'distance'}", values["error"],
                              1e-4 if "decay" in name else 0.05) for name, values in arms.items()]  # fmt: skip
        first, last = self.depths[0], self.depths[-1]
        for kind, relation, bound in (("decay", "<=", 0.95), ("noise", ">=", 1.05)):
            deep, flat = (np.maximum(arms[f"{kind}, L={depth}"]["size"], 1) for depth in (last, first))
            made.append(rules.ratio(f"{kind}: support at L={last} over L={first}", deep, flat, bound, relation))
        return made

    def panels(self, arms: Any) -> list[Panel]:
        """Supports over depth."""

        def over(kind: str) -> tuple[Any, Array]:
            return self.depths, np.stack([arms[f"{kind}, L={depth}"]["size"] for depth in self.depths])

        return [Panel("columns in use", {"weight decay": over("decay"), "label noise": over("noise")}, xlabel="depth L",
                      logx=False)]  # fmt: skip
