"""What is added to labels. A noise is frozen: its draws depend on (seed, stream, step, draw) alone."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain.noise import philox
from lntrain.noise.schedules import Schedule, factor_at

Std = float | tuple[float, ...]
Law = Callable[..., NDArray[Any]]  # (seed, stream, start, stop, width, draw) -> (stop - start, width)
AHEAD, NARROW = 64, 256  # steps drawn in one compiled call, if a step takes at most NARROW numbers


class Draw(NamedTuple):
    """Which random numbers: (seed, stream) of each replica, the step and the draw within it."""

    keys: tuple[tuple[int, int], ...] = ((0, 0),)
    step: int = 0
    draw: int = 0


def check_std(std: Any) -> Std:
    """A standard deviation, or one per replica, finite and not negative."""
    if type(std) is float and 0 <= std < math.inf:
        return std
    many = isinstance(std, (Sequence, Tensor, np.ndarray)) and np.ndim(std) > 0
    values = tuple(float(s) for s in std) if many else (float(std),)
    if not values or not all(math.isfinite(s) and s >= 0 for s in values):
        raise ValueError(f"std={std} must be finite and not negative (it is a standard deviation, not a variance)")
    return values if many else values[0]


@lru_cache(maxsize=256)
def _ahead(
    law: Law, key: tuple[int, int], block: int, draw: int, shape: torch.Size, scale: float, device: Any, dtype: Any
) -> tuple[Tensor, ...]:
    drawn = torch.from_numpy(law(*key, AHEAD * block, AHEAD * (block + 1), shape.numel(), draw)).to(device, dtype)
    return (drawn if scale == 1 else drawn * scale).view(AHEAD, *shape).unbind()


def draws(law: Law, at: Draw, shape: torch.Size, like: Tensor, *, scale: float = 1.0, ahead: bool = True) -> Tensor:
    """scale * what `law` draws, of `shape`; with several keys they are the leading axis. Read-only.

    Small shapes are drawn `ahead` for a block of steps: one call of the compiled stream, or
    one copy to a device, costs more than a small batch's noise.
    """
    if ahead and len(at.keys) == 1 and shape.numel() <= NARROW:
        block, row = divmod(at.step, AHEAD)
        return _ahead(law, at.keys[0], block, at.draw, shape, scale, like.device, like.dtype)[row]
    width = shape.numel() // len(at.keys)
    rows = np.concatenate([law(*key, at.step, at.step + 1, width, at.draw) for key in at.keys])
    drawn = torch.from_numpy(rows).view(shape).to(like.device, like.dtype)
    return drawn if scale == 1 else drawn * scale


def _add(noise: Any, targets: Tensor, at: Draw, *, std: Any = None) -> Tensor:
    """targets + std * factor(step) * eps; with several keys in `at`, the leading axis holds one entry per key."""
    if not targets.is_floating_point():
        remedy = "perturb torch.view_as_real(y)" if targets.is_complex() else "use LabelFlips for classes"
        raise ValueError(f"{type(noise).__name__} needs float targets, not {targets.dtype}: {remedy}")
    std = noise.std if std is None else check_std(std)
    if std == 0:
        return targets
    if noise.schedule is None and std == noise.std and isinstance(std, float):  # a constant scale: drawn ahead too
        return targets + draws(noise.unit, at, targets.shape, targets, scale=std)
    eps, factor = draws(noise.unit, at, targets.shape, targets), factor_at(noise.factor, at.step, "noise.schedule")
    if isinstance(std, float):
        return targets + eps * (std * factor)
    if len(std) != len(at.keys):
        raise ValueError(f"std holds {len(std)} values: the targets hold {len(at.keys)} replica(s)")
    scale = torch.tensor([s * factor for s in std], dtype=torch.float64).to(targets)
    return targets + eps * scale.view(-1, *[1] * (targets.ndim - 1))


@dataclass(frozen=True)
class Scaled:
    """A std and its schedule, which every noise but LabelFlips has."""

    std: Std
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", check_std(self.std))

    period = 1  # steps that share their rows of X
    shared = False  # whether distributed ranks draw the same numbers

    def factor(self, steps: Any) -> Any:
        """The schedule's factor on std at these steps."""
        return 1.0 if self.schedule is None else self.schedule(steps)

    def perturb(self, targets: Tensor, at: Draw, *, std: Any = None) -> Tensor:
        """The targets with their noise."""
        raise NotImplementedError


@dataclass(frozen=True)
class Additive(Scaled):
    """Noise that is added to numbers: subclasses give `unit`, and the kurtosis of its law."""

    kurtosis = 3.0  # E eps^4 / (E eps^2)^2

    def unit(self, seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.floating]:
        """Draws of mean 0 and variance 1 for steps start..stop-1, (stop - start, width) float32."""
        raise NotImplementedError

    perturb = _add  # assigned, not wrapped: a wrapper would cost a call at every step


@dataclass(frozen=True)
class GaussianNoise(Additive):
    """y + std * eps, eps ~ N(0, 1).

    Args:
        std: standard deviation (not the paper's delta, which is a variance), in the units of y;
            or one per replica.
        schedule: step -> factor on std, or None for constant noise.

    Raises:
        ValueError: std negative or not finite.

    >>> noise = GaussianNoise(std=2.0)
    >>> y = noise.perturb(torch.zeros(3), Draw(step=7))
    >>> bool((y == noise.perturb(torch.zeros(3), Draw(step=7))).all())
    True
    """

    def unit(self, seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.floating]:
        return philox.normals(seed, stream, start, stop, width, draw)


@dataclass(frozen=True)
class RademacherNoise(Additive):
    """y + std * eps, eps = +1 or -1 with probability 1/2. Args and Raises as GaussianNoise.

    >>> sorted(set(RademacherNoise(1.0).unit(0, 0, 0, 9, 4).ravel().tolist()))
    [-1.0, 1.0]
    """

    kurtosis = 1.0

    def unit(self, seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.float32]:
        bits = philox.words(seed, stream, start, stop, width, draw) >> 31
        return np.float32(1) - np.float32(2) * bits.astype(np.float32)


@dataclass(frozen=True)
class Antithetic:
    """eps at even steps, -eps at the odd step that follows: the same penalty, and fluctuations cancel.

    Optimiser steps 2k and 2k + 1 form a pair and see the same rows; read the last iterate on even steps.

    >>> eps = Antithetic(GaussianNoise(1.0)).unit(0, 0, 6, 8, 3)
    >>> bool((eps[0] == -eps[1]).all())
    True
    """

    noise: Additive
    period = 2
    shared = False

    def __post_init__(self) -> None:
        if not isinstance(self.noise, Additive):
            raise ValueError(f"Antithetic({self.noise!r}): pairs eps, -eps need a noise that is added to numbers")

    @property
    def kurtosis(self) -> float:
        return self.noise.kurtosis

    @property
    def std(self) -> Std:
        return self.noise.std

    @property
    def schedule(self) -> Schedule | None:
        return self.noise.schedule

    def unit(self, seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.floating]:
        pairs = self.noise.unit(seed, stream, start // 2, (stop + 1) // 2, width, draw)
        steps = np.arange(start, stop)
        sign = np.where(steps % 2 == 0, np.float32(1), np.float32(-1))
        return pairs[steps // 2 - start // 2] * sign[:, None]

    def factor(self, steps: Any) -> Any:
        return self.noise.factor(np.asarray(steps) // 2 * 2)  # one scale per pair, or the two would not cancel

    perturb = _add


@dataclass(frozen=True)
class NoNoise(Additive):
    """The labels as they are.

    >>> NoNoise().perturb(torch.ones(2), Draw()).tolist()
    [1.0, 1.0]
    """

    std: Std = 0.0

    def perturb(self, targets: Tensor, at: Draw, *, std: Any = None) -> Tensor:
        """The targets as they are, whatever the std."""
        return targets


@dataclass(frozen=True)
class LabelFlips:
    """Each class label c becomes another one with probability p: c <- (c + shift) mod num_classes.

    The shift is uniform on 1..num_classes-1. A row of probabilities is rotated by the shift of its
    largest entry's class, so that the same draw flips a class label and its one-hot row alike.

    Args:
        p: probability of a flip, in [0, 1].
        num_classes: number of classes, at least 2.
        include_true: draw the new label among all classes, the true one too (HaoChen et al. 2021).
        ignore_index: a label outside the classes that is left as it is, as in torch's losses.

    Raises:
        ValueError: p outside [0, 1], fewer than 2 classes, targets that are no classes.

    >>> flips = LabelFlips(p=1.0, num_classes=2)
    >>> flips.perturb(torch.tensor([0, 1, -100]), Draw()).tolist()
    [1, 0, -100]
    >>> flips.perturb(torch.tensor([[0.75, 0.25]]), Draw()).tolist()
    [[0.25, 0.75]]

    Source: Damian, Ma, Lee, NeurIPS 2021 (arXiv 2106.06530).
    """

    p: float
    num_classes: int
    include_true: bool = False
    ignore_index: int = -100
    std = 0.0
    period = 1
    shared = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1 or self.num_classes < 2:
            raise ValueError(f"LabelFlips: p={self.p} must lie in [0, 1] and num_classes={self.num_classes} be >= 2")
        if 0 <= self.ignore_index < self.num_classes:
            raise ValueError(f"LabelFlips: ignore_index={self.ignore_index} is a class: flips would land on it")

    def perturb(self, targets: Tensor, at: Draw, *, std: Any = None) -> Tensor:
        """The targets, each flipped with probability p: integers (...), or probabilities (..., num_classes)."""
        if targets.is_floating_point():
            return self._turn_rows(targets, at)
        if targets.is_complex() or targets.dtype == torch.bool:
            raise ValueError(f"LabelFlips needs integer class targets, not {targets.dtype}: convert with .long()")
        labels, last = targets.long(), self.num_classes - 1
        inside = (labels >= 0) & (labels <= last)
        if targets.device.type == "cpu" and not bool(inside.all()):  # on a GPU it would synchronise
            for label in set(labels[~inside].tolist()) - {self.ignore_index}:
                raise ValueError(f"LabelFlips: label {label} is outside 0..{last}: check num_classes or ignore_index")
        axis = int(len(at.keys) > 1)  # behind the replicas
        shape = torch.Size((*labels.shape[:axis], 2, *labels.shape[axis:]))
        choices = self.num_classes - (0 if self.include_true else 1)
        coins, picks = draws(_flip_law(choices), at, shape, labels).unbind(axis)
        new = picks if self.include_true else (labels + 1 + picks) % self.num_classes
        return torch.where(inside & (coins < math.ceil(self.p * 2**32)), new.to(targets.dtype), targets)

    def _turn_rows(self, rows: Tensor, at: Draw) -> Tensor:
        fits = rows.ndim > 0 and rows.shape[-1] == self.num_classes
        if fits and rows.device.type == "cpu":
            fits = bool(((rows >= 0).all(-1) & ((rows.sum(-1) - 1).abs() < 0.01)).all())
        if not fits:
            raise ValueError(
                f"LabelFlips needs integer class targets, or rows of {self.num_classes} probabilities, "
                f"not {rows.dtype} of shape {tuple(rows.shape)}: use GaussianNoise for numbers"
            )
        labels = rows.argmax(-1)
        shift = self.perturb(labels, at) - labels
        classes = torch.arange(self.num_classes, device=rows.device)
        return rows.gather(-1, (classes - shift.unsqueeze(-1)) % self.num_classes)


@lru_cache
def _flip_law(choices: int) -> Law:
    """For each label a 32-bit coin and a pick among `choices`: all coins first, then all picks."""

    def law(seed: int, stream: int, start: int, stop: int, width: int, draw: int) -> NDArray[np.int64]:
        drawn = philox.words(seed, stream, start, stop, width, draw).astype(np.int64)
        drawn[:, width // 2 :] = drawn[:, width // 2 :] * choices >> 32
        return drawn

    return law


Noise = Scaled | Antithetic | LabelFlips


def unpaired(noise: Any) -> Any:
    """The noise inside antithetic pairs; another one itself."""
    return noise.noise if isinstance(noise, Antithetic) else noise


def as_noise(noise: Any) -> Noise:
    """A number is the std of Gaussian noise; 0 is no noise.

    >>> as_noise(0.5)
    GaussianNoise(std=0.5, schedule=None)
    """
    if isinstance(noise, (Tensor, np.ndarray)) and noise.ndim == 0:
        noise = noise.item()
    if isinstance(noise, numbers.Real) and not isinstance(noise, bool):
        return GaussianNoise(float(noise)) if noise else NoNoise()
    if not isinstance(noise, Noise):
        raise ValueError(f"noise={noise!r} must be a number (a std) or a noise such as GaussianNoise(std=1.0)")
    return noise
