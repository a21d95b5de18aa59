"""Entries on matrices: spectra that label noise thresholds, matrices from few measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import over_seeds, planted, run
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.noise.schedules import StepDecay

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Collapse:
    """Noise soft-thresholds the spectrum of a linear student, and more noise generalises better."""

    N: int
    size: int
    rank: int
    stds: list[float]
    lr: float  # 3/N of the matrix problem
    steps: int
    drop: int
    seeds: int
    replicas: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A noise level an arm."""
        return {f"std {std:g}": partial(self._one, at, std) for std in self.stds}

    def _one(self, at: At, std: float) -> dict[str, Array]:
        errors, miss, spectra = [], [], []  # a list a seed
        threshold = self.lr * std**2 / 2  # lambda_j / c_j of the squares with X = I
        for seed in at.seeds(self.seeds, "data"):
            basis, y, truth = self._data(seed)
            problem, own = planted(np.eye(self.size), y), self.lr * self.size / 2
            shots = run(problem, lr=own, steps=self.steps, init=1.0, std=std, seed=list(range(self.replicas)),
                        replicas=self.replicas, parametrisation="square", snapshots=[self.drop],
                        lr_schedule=StepDecay((self.drop,), 0.1))  # fmt: skip
            mean, last = shots[0].tail_coef.mean(0).numpy(), shots[1].coef.numpy()  # type: ignore[union-attr]
            miss.append([float(np.abs(mean - np.maximum(y - threshold, 0.0)).mean())])
            errors.append([float(np.mean([((basis[0] * s @ basis[1] - truth) ** 2).sum() for s in last]))])
            spectra.append((mean[: self.rank] - y[: self.rank]).tolist())
        return {"error": over_seeds(errors)[0], "miss": over_seeds(miss)[0], "shift": over_seeds(spectra)}

    def _data(self, seed: int) -> tuple[tuple[Array, Array], Array, Array]:
        """Singular vectors and values of the teacher as the data show it; the teacher. They decouple the student."""
        rng = np.random.default_rng(seed)
        left, right = (np.linalg.qr(rng.standard_normal((self.size, self.size)))[0] for _ in range(2))
        truth = left[:, : self.rank] * np.linspace(1, 0.5, self.rank) @ right[:, : self.rank].T
        U, values, V = np.linalg.svd(truth + 0.5 / np.sqrt(self.size) * rng.standard_normal(truth.shape))
        return (U, V), values, truth

    def checks(self, arms: Any) -> list[Check]:
        """Test errors fall, and the spectrum is the thresholded one."""
        errors = [values["error"] for values in arms.values()]
        made = rules.ordered("last test error over the noise", errors, 1.0)
        made.append(rules.ratio("last test error, most noise over none", errors[-1], errors[0], 0.75))
        return [*made, *(rules.at_most(f"{name}: mean spectrum to the soft threshold", v["miss"], 0.12)
                         for name, v in arms.items())]  # fmt: skip

    def panels(self, arms: Any) -> list[Panel]:
        """Errors and shifts over the noise."""
        errors = np.stack([values["error"] for values in arms.values()])
        shifts = np.stack([values["shift"].mean(0) for values in arms.values()])
        theory = {"- lambda / c": (self.stds, [-self.lr * std**2 / 2 for std in self.stds])}
        x: dict[str, Any] = {"xlabel": "noise sigma", "logx": False}
        return [
            Panel("last test error", {"student": (self.stds, errors)}, **x),
            Panel("shift of the large singular values", {"student": (self.stds, shifts)}, theory=theory, **x),
        ]


@dataclass(frozen=True)
class Sensing:
    """Label noise finds a matrix of low rank from few measurements; gradient descent from its start does not."""

    measurements: list[int]

    def checks(self, arms: Any) -> list[Check]:
        """The error over gradient descent's, from the same start."""
        return [rules.ratio(f"{m} measurements: error, label noise over GD", arms[f"label noise, m={m}"]["error"],
                            arms[f"GD, the same start, m={m}"]["error"], 0.5) for m in self.measurements]  # fmt: skip
