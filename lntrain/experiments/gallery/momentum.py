"""Entries on momentum."""

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
from lntrain.experiments.gallery.diagonal import over_seeds, run
from lntrain.experiments.gallery.initialisation import effective_init
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.lasso.references import basis_pursuit, entropy_interpolator
from lntrain.penalty.formula import mean_squares
from lntrain.training.divergence import DivergenceError

Array = NDArray[np.float64]
TINY = 1e-12  # a weight of the start that would be zero would stay there
NEAR = 3.0  # times the least: what the parabola through it takes in


@dataclass(frozen=True)
class MomentumPath:
    """Gradient descent with momentum follows one path for equal lr / (1 - mu)^2, and larger ones shrink the start."""

    n: int
    d: int
    k: int
    alpha: float
    small: float  # lr / (1 - mu)^2 of the paths that are compared
    large: float
    momenta: list[float]
    scales: list[float]  # further lr / (1 - mu)^2, at the first momentum
    time: float  # lr steps / (1 - mu)
    points: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """Paths apart, and effective starts."""
        return {"paths": partial(self._paths, at), "starts": partial(self._starts, at)}

    def _path(self, seed: int, mu: float, scale: float) -> Any:
        problem = sparse_regression(self.n, self.d, self.k, seed=seed)
        lr = scale * (1 - mu) ** 2
        steps = [max(1, round(t * (1 - mu) / lr)) for t in np.geomspace(self.time / 1000, self.time, self.points)]
        return run(problem, lr=lr, momentum=mu, init=self.alpha, steps=steps[-1], snapshots=steps)

    def _paths(self, at: At) -> dict[str, Array]:
        rows = []
        for seed in at.seeds(self.seeds, "data"):
            own = [self._coef(self._path(seed, mu, self.small)) for mu in self.momenta]
            far = self._coef(self._path(seed, self.momenta[0], self.large))
            apart = max(float((path - own[0]).norm(dim=-1).max()) for path in own[1:])
            rows.append([apart, float((far - own[0]).norm(dim=-1).max())])
        return dict(zip(("alike", "unlike"), over_seeds(rows), strict=True))

    def _coef(self, shots: Any) -> torch.Tensor:
        return torch.stack([shot.coef for shot in shots])

    def _starts(self, at: At) -> dict[str, Array]:
        rows = []
        for seed in at.seeds(self.seeds, "data"):
            ends = [self._path(seed, self.momenta[0], scale)[-1].log_weights for scale in self.scales]
            rows.append([float(effective_init(end).mean()) for end in ends])
        return {"start": over_seeds(rows)}

    def checks(self, arms: Any) -> list[Check]:
        """Alike paths are near; the start shrinks."""
        paths = arms["paths"]
        return [
            rules.ratio(
                "paths of equal lr / (1-mu)^2, apart over that to another", paths["alike"], paths["unlike"], 0.2
            ),
            rules.at_most(
                f"effective start at {self.scales[-1]:g} over alpha", arms["starts"]["start"][-1] / self.alpha, 0.9
            ),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Distances and starts."""
        paths = np.stack([arms["paths"]["alike"], arms["paths"]["unlike"]])
        return [
            Panel("largest distance of two paths", {"paths": ([0.0, 1.0], paths)}, log=True, logx=False,
                  xlabel="0: equal lr / (1 - mu)^2, 1: another"),
            Panel("effective start", {"mean over columns": (self.scales, arms["starts"]["start"])},
                  xlabel="lr / (1 - mu)^2", theory={"alpha": (self.scales, [self.alpha] * len(self.scales))}),
        ]  # fmt: skip


@dataclass(frozen=True)
class MomentumSpeed:
    """The momentum at which label noise moves fastest along zero loss has 1 - mu proportional to lr^(2/3)."""

    n: int
    d: int
    k: int
    init: float  # of the interpolator it starts at
    std: float
    lrs: list[float]
    frictions: list[float]  # 1 - mu: lowest, highest, how many
    steps: int
    left: float  # of the way to the flattest interpolator, when it has arrived to stay
    points: int
    replicas: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A step size an arm."""
        return {f"lr {lr:g}": partial(self._one, at, lr) for lr in self.lrs}

    @property
    def grid(self) -> Array:
        """The values of 1 - mu."""
        low, high, many = self.frictions
        return np.geomspace(low, high, int(many))

    def _one(self, at: At, lr: float) -> dict[str, Array]:
        times = []
        for seed in at.seeds(self.seeds, "data"):
            way = self._way(seed)
            times.append([self._time(way, seed, lr, friction) for friction in self.grid])
        return {"fastest": np.array([self._fastest(np.array(row)) for row in times]), "time": over_seeds(times)}

    def _way(self, seed: int) -> tuple[Problem, torch.Tensor, float]:
        """A problem, where it starts, and the sum c_j w_j^2 at which it has arrived."""
        problem = sparse_regression(self.n, self.d, self.k, seed=seed)
        c = mean_squares(problem.X)
        start = entropy_interpolator(problem.X, problem.y, self.init, parametrisation="square").coef
        first, least = float(c @ start), float(c @ basis_pursuit(problem.X, problem.y, c, positive=True).coef)
        return problem, start.sqrt().clamp_min(TINY), least + self.left * (first - least)

    def _time(self, way: tuple[Problem, torch.Tensor, float], seed: int, lr: float, friction: float) -> float:
        """Steps after which sum c_j w_j^2, a mean over replicas, stays near its least at zero loss; inf if later."""
        problem, start, near = way
        c = mean_squares(problem.X)
        steps = np.unique(np.geomspace(self.steps / 1000, self.steps, self.points).astype(int)).tolist()
        options: dict[str, Any] = {
            "init": start,
            "parametrisation": "square",
            "snapshots": steps,
        }
        try:
            shots = run(problem, lr=lr, momentum=1 - friction, std=self.std, steps=self.steps, replicas=self.replicas,
                        seed=[seed % 2**31 + r for r in range(self.replicas)], **options)  # fmt: skip
        except DivergenceError:
            return math.inf
        far = [float((shot.coef @ c).mean()) > near for shot in shots]  # type: ignore[operator]
        last = max((i for i, is_far in enumerate(far) if is_far), default=-1)
        return math.inf if last == len(far) - 1 else float(shots[last + 1].step)

    def _fastest(self, times: Array) -> float:
        """1 - mu of the least time: the lowest point of a parabola through the near ones, in logarithms."""
        x, near = np.log(self.grid), times <= NEAR * times.min()
        if near.sum() > 2:
            square, line, _ = np.polyfit(x[near], np.log(times[near]), 2)
            if square > 0:
                return float(np.exp(np.clip(-line / (2 * square), x[0], x[-1])))
        return float(self.grid[np.argmin(times)])

    def checks(self, arms: Any) -> list[Check]:
        """The exponent."""
        found = np.stack([values["fastest"] for values in arms.values()])
        return rules.within(
            "slope of the fastest 1 - mu on lr", rules.slopes(self.lrs, found), 2 / 3 - 0.12, 2 / 3 + 0.12
        )

    def panels(self, arms: Any) -> list[Panel]:
        """Times over 1 - mu, and the fastest over lr."""
        found = np.stack([values["fastest"] for values in arms.values()])
        middle = np.exp(np.log(found).mean())
        line = middle * (np.array(self.lrs) / np.exp(np.log(self.lrs).mean())) ** (2 / 3)
        times = {name: (self.grid, np.where(np.isfinite(v["time"]), v["time"], np.nan)) for name, v in arms.items()}
        return [
            Panel("steps to the flattest solution", times, log=True, xlabel="1 - mu"),
            Panel("fastest 1 - mu", {"label noise": (self.lrs, found)}, log=True, xlabel="lr",
                  theory={"slope 2/3": (self.lrs, line)}),
        ]  # fmt: skip
