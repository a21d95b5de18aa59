"""Entries on the size of the step: large ones learn sparse features, and where stochastic and full steps part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lntrain.data.problem import Problem, sparse_regression
from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import end, over_seeds, planted, run, squared_error
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.noise.schedules import StepDecay
from lntrain.training.divergence import DivergenceError

Array = NDArray[np.float64]


def largest(problem: Problem, lrs: Any, *, seed: int = 0, **options: Any) -> tuple[float, Tensor]:
    """The largest of rising step sizes before the first that diverges, and where its run ends; a replica each."""
    many: dict[str, Any] = {"lr": list(map(float, lrs)), "seed": [seed] * len(lrs), "replicas": len(lrs)}
    coef = end(problem, diverged="keep", **many, **options)
    stays = int(coef.isfinite().all(-1).long().cumprod(0).sum())
    if stays == 0:
        raise RuntimeError(f"every step size from {lrs[0]:g} on diverges")
    return float(lrs[stays - 1]), coef[stays - 1]


@dataclass(frozen=True)
class LargeSteps:
    """The longer SGD keeps its large step, the better it generalises once the step falls."""

    n: int
    d: int
    k: int
    init: float
    steps: int
    lrs: list[float]  # lowest, highest, how many: where to look for the edge of divergence
    constant: float  # a step that is kept, of the largest that does not diverge
    large: float  # one that is left, of the same
    shares: list[float]  # of the run at the large step, and what then divides it
    falls: list[float]
    gd_n: int
    gd_d: int
    gd_lrs: list[float]
    seeds: int

    def _problem(self, n: int, d: int, seed: int) -> Problem:
        rng = np.random.default_rng(seed)
        X, coef = rng.standard_normal((n, d)), np.zeros(d)
        coef[rng.choice(d, self.k, replace=False)] = np.abs(rng.standard_normal(self.k))
        return planted(X, coef / np.linalg.norm(coef))

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """SGD at a constant step, or at a large one for some of the run; GD at two steps."""
        return {"SGD": partial(self._sgd, at), "GD": partial(self._gd, at)}

    def _sgd(self, at: At) -> dict[str, Array]:
        rows, low, high, many = [], *self.lrs
        for seed in at.seeds(self.seeds, "data"):
            problem = self._problem(self.n, self.d, seed)
            options: dict[str, Any] = {"steps": self.steps, "init": self.init, "parametrisation": "hadamard",
                                       "batch_size": 1, "seed": seed}  # fmt: skip
            rows.append(self._arms(problem, np.geomspace(low, high, int(many)), options))
        lr, *errors = over_seeds(rows)
        return {"lr": lr, "error": np.array(errors)}

    def _arms(self, problem: Problem, lrs: Any, options: dict[str, Any]) -> list[float]:
        """The edge and the errors of a constant step and of each decay, at the largest edge where all of them end."""
        edge = largest(problem, lrs, **options)[0]
        decays = [StepDecay((int(share * self.steps),), 1 / fall)
                  for share, fall in zip(self.shares, self.falls, strict=True)]  # fmt: skip
        for lr in lrs[lrs <= edge][::-1]:
            try:
                ends = [run(problem, lr=self.constant * lr, **options)[-1]]
                ends += [run(problem, lr=self.large * lr, lr_schedule=decay, **options)[-1] for decay in decays]
            except DivergenceError:
                continue
            return [float(lr), *(float(squared_error(end.coef, problem)) for end in ends)]  # type: ignore[arg-type]
        raise RuntimeError(f"no step size up to {edge:g} lets every arm end")

    def _gd(self, at: At) -> dict[str, Array]:
        rows, low, high, many = [], *self.gd_lrs
        for seed in at.seeds(self.seeds, "data"):
            problem = self._problem(self.gd_n, self.gd_d, seed)
            options: dict[str, Any] = {"steps": self.steps, "init": self.init, "parametrisation": "hadamard"}
            lr, big = largest(problem, np.geomspace(low, high, int(many)), **options)
            small = end(problem, lr=lr / 2, **options)
            rows.append([lr, *(float(squared_error(coef, problem)) for coef in (small, big))])
        return dict(zip(("lr", "small", "large"), over_seeds(rows), strict=True))

    def checks(self, arms: Any) -> list[Check]:
        """Each longer stay is better; gradient descent's large step is worse."""
        errors, gd = arms["SGD"]["error"], arms["GD"]
        names = ["constant", *(f"{share:.0%}" for share in self.shares)]
        made = [rules.ratio(f"SGD: error, {names[i + 1]} over {names[i]}", errors[i + 1], errors[i], bound)
                for i, bound in enumerate((0.7, 1.0, 1.0))]  # fmt: skip
        return [*made, rules.ratio("GD: error, large step over half of it", gd["large"], gd["small"], 2.0, ">=")]

    def panels(self, arms: Any) -> list[Panel]:
        """Errors over the share of the run."""
        shares, gd = [0.0, *self.shares], arms["GD"]
        curves = {"GD": ([0.5, 1.0], np.stack([gd["small"], gd["large"]]))}
        return [
            Panel("SGD: squared error", {"SGD on single rows": (shares, arms["SGD"]["error"])}, log=True, logx=False,
                  xlabel="share of the run at the large step"),
            Panel("gradient descent: squared error", curves, log=True, logx=False,
                  xlabel="step size, of the largest that converges"),
        ]  # fmt: skip


@dataclass(frozen=True)
class StepSize:
    """At the edge of divergence gradient descent generalises worse, and SGD better, than at small steps."""

    n: int
    d: int
    k: int
    init: float
    lrs: list[float]  # lowest, highest, how many
    small: float
    steps: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """GD and SGD on single rows."""
        return {"GD": partial(self._one, at, None), "SGD": partial(self._one, at, 1)}

    def _one(self, at: At, batch_size: int | None) -> dict[str, Array]:
        rows, low, high, many = [], *self.lrs
        for seed in at.seeds(self.seeds, "data"):
            problem = sparse_regression(self.n, self.d, self.k, seed=seed)
            options: dict[str, Any] = {"steps": self.steps, "init": self.init, "batch_size": batch_size, "seed": seed}
            small = run(problem, lr=self.small, **options)[-1]
            lr, big = largest(problem, np.geomspace(low, high, int(many)), **options)
            assert small.coef is not None
            middle = run(problem, lr=lr / 2, **options)[-1]
            fell, on = (4 * np.log(self.init) - middle.log_weights.sum(-2)).numpy(), (problem.coef != 0).numpy()  # type: ignore[union-attr]
            errors = [float(squared_error(coef, problem)) for coef in (small.coef, big)]
            rows.append([lr, *errors, float(fell[on].mean() / fell[~on].mean())])
        return dict(zip(("lr", "small", "large", "gain"), over_seeds(rows), strict=True))

    def checks(self, arms: Any) -> list[Check]:
        """GD up, SGD down; GD shrinks most where the truth is."""
        gd, sgd = arms["GD"], arms["SGD"]
        return [
            rules.ratio("GD: error, largest step over small", gd["large"], gd["small"], 3.0, ">="),
            rules.ratio("SGD: error, largest step over small", sgd["large"], sgd["small"], 0.5),
            rules.at_least("GD: fall of log(w_+ w_-), on the support over off it", gd["gain"], 2.0),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Errors at both steps."""
        curves = {name: ([0.0, 1.0], np.stack([v["small"], v["large"]])) for name, v in arms.items()}
        return [
            Panel(
                "squared error", curves, log=True, logx=False, xlabel="0: a small step, 1: the largest that converges"
            )
        ]


@dataclass(frozen=True)
class Generalisation:
    """The gap between test and train error of label-noise SGD falls with n as its bound n^(-2/3) allows, or faster."""

    d: int
    ns: list[int]
    noise: float
    lr: float
    std: float
    steps: int
    problems: int  # a seed's gap is a mean over so many
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """An arm for each n."""
        return {f"n={n}": partial(self._one, at, n) for n in self.ns}

    def _one(self, at: At, n: int) -> dict[str, Array]:
        gaps = []
        for seed in at.seeds(self.seeds * self.problems, f"data {n}"):
            problem = sparse_regression(n, self.d, self.d // 4, signs="random", noise=self.noise, seed=seed)
            shots = run(problem, lr=self.lr, steps=self.steps, init=0.1, std=self.std, batch_size=1, seed=seed,
                        snapshots=range(self.steps // 2, self.steps, self.steps // 50))  # fmt: skip
            test = np.mean([float(squared_error(s.coef, problem)) for s in shots]) / 2 + self.noise**2 / 2  # type: ignore[arg-type]
            gaps.append(test - np.mean([float(s.loss) for s in shots]))
        return {"gap": np.reshape(gaps, (self.seeds, self.problems)).mean(1)}

    def checks(self, arms: Any) -> list[Check]:
        """The slope's whole interval below -2/3."""
        gaps = np.stack([values["gap"] for values in arms.values()])
        return [rules.at_most("slope of log gap on log n", rules.slopes(self.ns, np.maximum(gaps, 1e-9)), -2 / 3)]

    def panels(self, arms: Any) -> list[Panel]:
        """The gap over n."""
        gaps = np.stack([values["gap"] for values in arms.values()])
        bound = gaps[0].mean() * (np.array(self.ns) / self.ns[0]) ** (-2 / 3)
        return [Panel("test minus train error", {"label-noise SGD": (self.ns, gaps)}, log=True, xlabel="rows n",
                      theory={"slope -2/3": (self.ns, bound)})]  # fmt: skip
