"""Factors over steps, for the noise or for the learning rate: each is a function step -> factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Schedule(Protocol):
    """A factor at a step, or at each step of an integer array."""

    def __call__(self, step: Any) -> Any: ...


def factors(schedule: Any, start: int, stop: int, name: str, *, block: int = 1) -> NDArray[np.float64]:
    """The factors at steps start..stop-1, checked; step by step where the schedule takes no arrays.

    Args:
        schedule: step -> factor. start, stop: the steps. name: used in error messages.
        block: arrays are evaluated in whole blocks of this many steps: vectorised functions round by position.

    Raises:
        ValueError: a factor negative or not finite.

    >>> factors(lambda k: 0.5 if k > 1 else 1.0, 0, 4, "lr_schedule").tolist()
    [1.0, 1.0, 0.5, 0.5]
    """
    steps = np.arange(start // block * block, -(-stop // block) * block)
    try:
        values = np.asarray(schedule(steps), np.float64)[start - steps[0] :][: stop - start]
    except Exception:  # it may take no arrays; a schedule that is wrong for numbers too fails again below
        values = np.empty(0)
    if values.shape != (stop - start,):
        values = np.array([float(schedule(step)) for step in range(start, stop)])
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        _refuse(name, float(values[bad[0]]), start + int(bad[0]))
    return values


def factor_at(schedule: Any, step: int, name: str) -> float:
    """The factor at one step, checked as in `factors`."""
    value = float(schedule(step))
    if not 0 <= value < math.inf:
        _refuse(name, value, step)
    return value


def _refuse(name: str, value: float, step: int) -> None:
    raise ValueError(f"{name} gives {value} at step {step}: a factor must be finite and not negative")


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
