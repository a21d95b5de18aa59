"""Entries on momentum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lntrain.data.problem import sparse_regression
from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import over_seeds, run
from lntrain.experiments.gallery.initialisation import effective_init
from lntrain.experiments.verdicts import At, Check, Panel

Array = NDArray[np.float64]


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
