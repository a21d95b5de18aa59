"""Factors over steps, for the noise or for the learning rate: each is a function step -> factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Schedule(Protocol):
    """A factor at a step, or at each step of an integer array."""

    def __call__(self, step: Any) -> Any: ...


@dataclass(frozen=True)
class PowerDecay:
    """factor = (1 + step / start) ** -power: annealing to 0, as basis pursuit needs (theory: p = 1).

    >>> round(float(PowerDecay(power=1.0, start=100)(300)), 9)
    0.25
    """

    power: float = 1.0
    start: float = 1000.0

    def __post_init__(self) -> None:
        if not (self.power > 0 and self.start > 0):
            raise ValueError(f"PowerDecay: power={self.power} and start={self.start} must be positive")

    def __call__(self, step: Any) -> Any:
        return (1.0 + np.asarray(step) / self.start) ** -self.power


@dataclass(frozen=True)
class StepDecay:
    """factor = gamma ** (number of milestones passed).

    >>> round(float(StepDecay(milestones=(10, 20), gamma=0.1)(10)), 9)
    0.1
    """

    milestones: Sequence[int] = (100_000, 200_000)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if list(self.milestones) != sorted(self.milestones) or not self.gamma > 0:
            raise ValueError(f"StepDecay: milestones={self.milestones} must rise and gamma={self.gamma} be positive")

    def __call__(self, step: Any) -> Any:
        return self.gamma ** np.searchsorted(self.milestones, np.asarray(step), side="right")


@dataclass(frozen=True)
class Cosine:
    """factor = final + (1 - final) (1 + cos(pi step / steps)) / 2, then `final`.

    >>> round(float(Cosine(steps=100)(50)), 9)
    0.5
    """

    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and 0 <= self.final <= 1):
            raise ValueError(f"Cosine: steps={self.steps} must be >= 1 and final={self.final} in [0, 1]")

    def __call__(self, step: Any) -> Any:
        done = np.minimum(np.asarray(step) / self.steps, 1.0)
        return self.final + (1 - self.final) * (1 + np.cos(np.pi * done)) / 2


@dataclass(frozen=True)
class OffAt:
    """factor = 1 before `step`, 0 from it on.

    >>> float(OffAt(10)(9)), float(OffAt(10)(10))
    (1.0, 0.0)
    """

    step: int

    def __call__(self, step: Any) -> Any:
        return np.where(np.asarray(step) < self.step, 1.0, 0.0)
