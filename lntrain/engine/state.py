"""What a run carries from step to step; the engines advance it in place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lntrain._checks import seed_or_seeds
from lntrain.noise.column_space import ColumnSpaceNoise
from lntrain.noise.labels import Additive, Antithetic, Noise, Std, as_noise, unpaired
from lntrain.noise.philox import sampled_rows
from lntrain.noise.schedules import Schedule
from lntrain.optim.sgd import LabelNoiseSGD, noise_of, noise_std, stream_keys

BLOCK = 256  # steps a partial sum holds; blocks start at multiples of it, so that a resume adds in the same order


@dataclass
class Run:
    """The state of one training run. Sums run over the pre-step values of steps 0..step-1.

    The sum of the labels' noise is kept in the directions of X's columns (r,) where it is drawn in them, else (n,).
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    X: Tensor
    y: Tensor
    batch_size: int
    sampling: str
    loss_constant: float
    lr_schedule: Schedule | None = None
    label_noise: Noise | None = None  # given to `train`: the optimiser carries none, and run.step counts its draws
    seed: int | Sequence[int] = 0  # of label_noise and of drawn rows, where the optimiser carries none
    step: int = 0
    base_lr: list[float] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)  # "step", sums and log-weights at earlier steps
    device_steps: Any = None  # cuda.DeviceSteps of a run on a GPU
    gone: Tensor | None = None  # (R,) replicas that diverged and were kept, as NaN
    packed: tuple[Any, Any] | None = None  # ((version of X, how), X packed for engine/lanes or engine/gram)

    def __post_init__(self) -> None:
        self.base_lr = [float(group["lr"]) for group in self.optimizer.param_groups]
        coef = self.coef
        rows = () if self.replicas is None else (self.replicas,)
        width = len(self.y) if self.basis is None else self.basis.shape[1]
        zeros = {"noise": torch.zeros(*rows, width, dtype=torch.float64, device=self.y.device)}
        if coef is not None:
            zeros["coef"] = torch.zeros_like(coef, dtype=torch.float64)
        self.sums = {f"{name}_{part}": z.clone() for name, z in zeros.items() for part in ("total", "block")}

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must share: hashes of data (10,000 numbers of a large X) and groups, optimiser, noise."""
        X = (self.X if self.X.layout == torch.strided else self.X.values()).detach().reshape(-1)
        digest = hashlib.sha256(str((tuple(self.X.shape), len(X))).encode())
        for part in (X[:: max(1, len(X) // 10_000)], self.y.detach()):
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().tobytes())  # of any dtype
        known = {"dtype": str(self.X.dtype), "problem": digest.hexdigest()[:16]}
        known["optimizer"] = type(self.optimizer).__name__
        if isinstance(groups := getattr(self.model, "groups", None), Tensor):
            known["groups"] = hashlib.sha256(groups.cpu().numpy().tobytes()).hexdigest()[:16]
        if not isinstance(self.optimizer, LabelNoiseSGD):  # whose state holds its noise
            kinds = dict.fromkeys(type(noise).__name__ for noise in (self.noise, unpaired(self.noise)))
            known |= {"noise": f"{' of '.join(kinds)}(std={self.std})", "seed": str(self.seed)}
        return known

    def carry(self, noise: Noise | float | None, seed: int | Sequence[int] | None) -> None:
        """Noise of the labels, and the seed of it and of drawn rows, for an optimiser that carries none.

        Raises:
            ValueError: the optimiser carries its own; noise that is not added to numbers; not one for each replica.
        """
        if isinstance(self.optimizer, LabelNoiseSGD):
            raise ValueError(f"noise={noise}, seed={seed}: a LabelNoiseSGD carries its own, give them to it alone")
        if seed is not None:
            self.seed = seed_or_seeds(seed)
        self.keys()  # a seed for each replica, or an error
        if noise is None:
            return
        self.label_noise = as_noise(noise)
        if not isinstance(self.label_noise, (Additive, Antithetic)):
            raise ValueError(f"noise={noise}: labels need numbers added, give a std, GaussianNoise or RademacherNoise")
        if isinstance(self.std, tuple) and len(self.std) != self.replicas:
            raise ValueError(f"std holds {len(self.std)} values: the model has {self.replicas or 'no'} replicas")

    @property
    def replicas(self) -> int | None:
        """R, or None for a single model."""
        return getattr(self.model, "replicas", None)

    @property
    def coef(self) -> Tensor | None:
        """The model's coefficients, if it has any."""
        if isinstance(self.model, nn.Linear) and self.model.out_features == 1 and self.model.bias is None:
            return self.model.weight.detach()[0]
        coef = getattr(self.model, "coef", None)
        return coef.detach() if isinstance(coef, Tensor) else None

    @property
    def noise(self) -> Noise:
        """The noise given to `train`, or that the optimiser carries."""
        return noise_of(self.optimizer) if self.label_noise is None else self.label_noise

    @property
    def std(self) -> Std:
        """The noise's present standard deviation, without its schedule."""
        return self.noise.std if self.label_noise is not None else noise_std(self.optimizer)

    @property
    def column_space(self) -> ColumnSpaceNoise | None:
        """The noise, where it is drawn in the directions of X's columns."""
        noise = unpaired(self.noise)
        return noise if isinstance(noise, ColumnSpaceNoise) else None

    def check_column_space(self) -> None:
        """Refuse such a noise where a gradient sees labels otherwise than through the X that it was made for."""
        noise = self.column_space
        if noise is None:
            return
        if self.sampling != "full":
            raise ValueError(
                f"ColumnSpaceNoise needs whole batches, not sampling={self.sampling!r}, batch_size={self.batch_size}: "
                "leave both out, or take GaussianNoise"
            )
        if self.coef is None:
            raise ValueError(
                f"ColumnSpaceNoise needs a model linear in X, such as DiagonalLinear, not a "
                f"{type(self.model).__name__}: take GaussianNoise"
            )
        noise.coordinates(self.X)

    @property
    def stream(self) -> str:
        """What the noise is drawn for, "labels" or "gram": the same seed gives other numbers."""
        return "labels" if self.column_space is None else "gram"

    @cached_property
    def basis(self) -> Tensor | None:
        """(n, r) of the directions of X's columns where the noise is drawn in them."""
        noise = self.column_space
        return None if noise is None else torch.from_numpy(noise.basis).to(self.y.device, copy=True)

    @property
    def noise_step(self) -> int:
        """The optimiser's own count of steps, by which rows and noise are drawn; with noise given to `train`, its."""
        return (
            self.step
            if self.label_noise is not None
            else int(self.optimizer.param_groups[0].get("noise_step", self.step))
        )

    @property
    def period(self) -> int:
        """How many steps share their rows: 2 with antithetic pairs, whose noise has mean 0."""
        return int(getattr(self.noise, "period", 1))

    def set_lr(self, factor: float) -> None:
        """lr = base lr * factor."""
        for group, base in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = base * factor

    def keys(self) -> tuple[tuple[int, int], ...]:
        """(seed, stream) of each replica."""
        if isinstance(self.optimizer, LabelNoiseSGD):
            return self.optimizer.keys(self.replicas)
        return stream_keys(self.seed, 0, self.replicas)

    def rows(self, count: int) -> NDArray[np.int64] | None:
        """The rows of the next `count` steps, (R or 1, count, b); None for whole batches."""
        if self.sampling == "full":
            return None
        start, every = self.noise_step, self.noise.period
        options: dict[str, Any] = {"n": len(self.y), "batch_size": self.batch_size, "sampling": self.sampling}
        return np.stack([sampled_rows(*key, start, start + count, every=every, **options) for key in self.keys()])

    def close_block(self) -> None:
        """At a multiple of BLOCK: the partial sums join the totals."""
        if self.step % BLOCK == 0:
            for name in {key.split("_")[0] for key in self.sums}:
                self.sums[f"{name}_total"] += self.sums[f"{name}_block"]
                self.sums[f"{name}_block"].zero_()

    def summed(self, name: str) -> bool:
        """Whether "coef" or "noise" is summed: a model without coefficients has no sum of "coef"."""
        return f"{name}_total" in self.sums

    def add_noise(self, noise: Tensor) -> None:
        """A step's noise of the n labels joins its sum."""
        self.sums["noise_block"].add_(noise if self.basis is None else noise.double() @ self.basis)

    def total(self, name: str) -> Tensor:
        """The sum over steps 0..step-1 of "coef" (d,) or "noise" (n,)."""
        total = self.sums[f"{name}_total"] + self.sums[f"{name}_block"]
        if name != "noise" or self.basis is None:
            return total
        # one by one, each in memory of its own: BLAS's last bits hang on both
        rows = [self.basis @ row.clone() for row in total.view(-1, total.shape[-1])]
        return torch.stack(rows).view(*total.shape[:-1], -1)

    def mean(self, name: str) -> Tensor:
        """The mean over steps 0..step-1 of "coef" or "noise"."""
        return self.total(name) / max(self.step, 1)
