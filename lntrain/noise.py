"""What is added to labels. A noise is frozen: its draws depend on (seed, stream, step, draw) alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain import stream as streams
from lntrain.schedule import Schedule

Std = float | tuple[float, ...]


class Draw(NamedTuple):
    """Which random numbers: (seed, stream) of each replica, the step and the draw within it."""

    keys: tuple[tuple[int, int], ...] = ((0, 0),)
    step: int = 0
    draw: int = 0


def check_std(std: Any) -> Std:
    """A standard deviation, or one a replica, finite and not negative."""
    many = isinstance(std, (Sequence, Tensor, np.ndarray)) and np.ndim(std) > 0
    values = tuple(float(s) for s in std) if many else (float(std),)
    if not values or not all(math.isfinite(s) and s >= 0 for s in values):
        raise ValueError(f"std={std} must be finite and not negative (it is a standard deviation, not a variance)")
    return values if many else values[0]


@dataclass(frozen=True)
class _Additive:
    std: Std
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", check_std(self.std))

    period = 1  # steps that share their rows of X

    def unit(self, seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.float32]:
        """Draws of mean 0 and variance 1 for steps start..stop-1, (stop - start, width) float32."""
        raise NotImplementedError

    def factor(self, steps: Any) -> Any:
        """What the schedule makes of std at these steps."""
        return 1.0 if self.schedule is None else self.schedule(steps)

    def perturb(self, targets: Tensor, at: Draw, *, std: Any = None) -> Tensor:
        """targets + std * factor(step) * eps; the leading axis holds a key of `at` each where there are several."""
        return _add(self, targets, at, self.std if std is None else std)


@dataclass(frozen=True)
class GaussianNoise(_Additive):
    """y + std * eps, eps ~ N(0, 1).

    Args:
        std: standard deviation (not the paper's delta, which is a variance), in the units of y;
            or one a replica.
        schedule: step -> factor on std, or None for constant noise.

    Raises:
        ValueError: std negative or not finite.

    >>> noise = GaussianNoise(std=2.0)
    >>> y = noise.perturb(torch.zeros(3), Draw(step=7))
    >>> bool((y == noise.perturb(torch.zeros(3), Draw(step=7))).all())
    True
    """

    def unit(self, seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.float32]:
        return streams.normals(seed, stream, start, stop, width, draw)


@dataclass(frozen=True)
class RademacherNoise(_Additive):
    """y + std * eps, eps = +1 or -1 with probability 1/2. Args and Raises as GaussianNoise.

    >>> sorted(set(RademacherNoise(1.0).unit(0, 0, 0, 9, 4).ravel().tolist()))
    [-1.0, 1.0]
    """

    def unit(self, seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.float32]:
        bits = streams.words(seed, stream, start, stop, width, draw) >> 31
        return np.float32(1) - np.float32(2) * bits.astype(np.float32)


@dataclass(frozen=True)
class Antithetic:
    """eps at even steps, -eps at the odd step that follows: the same penalty, and fluctuations cancel.

    Pairs go by optimiser step and both steps see the same rows; read the last iterate on even steps.

    >>> eps = Antithetic(GaussianNoise(1.0)).unit(0, 0, 6, 8, 3)
    >>> bool((eps[0] == -eps[1]).all())
    True
    """

    noise: GaussianNoise | RademacherNoise
    period = 2

    @property
    def std(self) -> Std:
        return self.noise.std

    @property
    def schedule(self) -> Schedule | None:
        return self.noise.schedule

    def unit(self, seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.float32]:
        pairs = self.noise.unit(seed, stream, start // 2, (stop + 1) // 2, width, draw)
        steps = np.arange(start, stop)
        sign = np.where(steps % 2 == 0, np.float32(1), np.float32(-1))
        return pairs[steps // 2 - start // 2] * sign[:, None]

    def factor(self, steps: Any) -> Any:
        return self.noise.factor(np.asarray(steps) // 2 * 2)  # one scale a pair, or the two would not cancel

    def perturb(self, targets: Tensor, at: Draw, *, std: Any = None) -> Tensor:
        """targets + std * factor(step) * (+eps or -eps)."""
        return _add(self, targets, at, self.std if std is None else std)


@dataclass(frozen=True)
class NoNoise(_Additive):
    """The labels as they are.

    >>> NoNoise().perturb(torch.ones(2), Draw()).tolist()
    [1.0, 1.0]
    """

    std: Std = 0.0


@dataclass(frozen=True)
class LabelFlips:
    """Each class label becomes another one with probability p (Damian, Ma, Lee 2021).

    Args:
        p: probability of a flip, in [0, 1].
        num_classes: number of classes, at least 2.
        include_true: draw the new label among all classes, the true one too (HaoChen et al. 2021).

    Raises:
        ValueError: p outside [0, 1], fewer than 2 classes, targets that are not integers.

    >>> LabelFlips(p=1.0, num_classes=2).perturb(torch.tensor([0, 1, 1]), Draw()).tolist()
    [1, 0, 0]
    """

    p: float
    num_classes: int
    include_true: bool = False
    std = 0.0
    period = 1

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1 or self.num_classes < 2:
            raise ValueError(f"LabelFlips: p={self.p} must lie in [0, 1] and num_classes={self.num_classes} be >= 2")

    def perturb(self, targets: Tensor, at: Draw, *, std: Any = None) -> Tensor:
        """The targets, each flipped with probability p."""
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise ValueError(
                f"LabelFlips needs integer class targets, not {targets.dtype}: use GaussianNoise for floats"
            )
        width = targets.numel() // len(at.keys)
        drawn = np.concatenate([streams.words(*key, at.step, at.step + 1, 2 * width, at.draw) for key in at.keys])
        coin = torch.from_numpy(drawn[:, :width] / 2.0**32).reshape(targets.shape).to(targets.device)
        choices = self.num_classes - (0 if self.include_true else 1)
        pick = (drawn[:, width:].astype(np.uint64) * np.uint64(choices)) >> np.uint64(32)
        other = torch.from_numpy(pick.astype(np.int64)).reshape(targets.shape).to(targets)
        new = other if self.include_true else (targets + 1 + other) % self.num_classes
        return torch.where(coin < self.p, new, targets)


def _add(noise: _Additive | Antithetic, targets: Tensor, at: Draw, std: Any) -> Tensor:
    if not targets.is_floating_point():
        raise ValueError(f"{type(noise).__name__} needs float targets, not {targets.dtype}: use LabelFlips for classes")
    std = check_std(std)
    if std == 0 or isinstance(noise, NoNoise):
        return targets
    width = targets.numel() // len(at.keys)
    eps = np.concatenate([noise.unit(*key, at.step, at.step + 1, width, at.draw) for key in at.keys])
    noisy = torch.from_numpy(eps).to(targets.device, targets.dtype).reshape(targets.shape)
    scale = np.asarray(std) * float(noise.factor(at.step))
    if scale.ndim == 0:
        return targets + noisy * float(scale)
    if len(scale) != len(at.keys):
        raise ValueError(f"std holds {len(scale)} values: the targets hold {len(at.keys)} replica(s)")
    return targets + noisy * torch.as_tensor(scale).to(targets).reshape(-1, *[1] * (targets.ndim - 1))


Noise = GaussianNoise | RademacherNoise | Antithetic | NoNoise | LabelFlips


def as_noise(noise: Any) -> Noise:
    """A number is the std of Gaussian noise; 0 is no noise.

    >>> as_noise(0.5)
    GaussianNoise(std=0.5, schedule=None)
    """
    if isinstance(noise, (int, float)) and not isinstance(noise, bool):
        return GaussianNoise(float(noise)) if noise else NoNoise()
    if not isinstance(noise, Noise):
        raise ValueError(f"noise={noise!r} must be a number (a std) or a noise such as GaussianNoise(std=1.0)")
    return noise
