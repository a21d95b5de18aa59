"""The two control noises of the literature: the same power as label noise, but not added to the labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain.noise import philox
from lntrain.noise.labels import Draw, Scaled, check_std, draws
from lntrain.noise.schedules import factor_at

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class ParameterNoise(Scaled):
    """Isotropic noise on the parameters: w <- step(w) + std * sqrt(lr) * xi, xi ~ N(0, I).

    Langevin dynamics (SGLD) at temperature std^2 / 2. The noise sigma that HaoChen et al. add to
    the gradient is std = sigma * sqrt(lr). Labels stay as they are. All distributed ranks draw the
    same numbers, since otherwise their copies of a parameter would diverge; a step of lr 0 moves nothing.

    Args:
        std: standard deviation that a parameter gains over a time lr * steps of 1; or one per replica.
        schedule: step -> factor on std, or None for constant noise.

    Raises:
        ValueError: std negative or not finite.

    >>> w = torch.nn.Parameter(torch.zeros(3)); w.grad = torch.zeros(3)
    >>> from lntrain import LabelNoiseSGD
    >>> LabelNoiseSGD([w], lr=0.25, noise=ParameterNoise(1.0)).step()
    >>> bool((w == 0.5 * torch.from_numpy(philox.normals(0, 0, 0, 1, 3))[0]).all())
    True

    Source: Welling, Teh, ICML 2011; HaoChen, Wei, Lee, Ma, COLT 2021 (arXiv 2006.08680).
    """

    shared = True

    def perturb(self, targets: Tensor, at: Draw, *, std: Any = None) -> Tensor:
        """The targets as they are."""
        return targets


@dataclass(frozen=True)
class MinibatchNoise(Scaled):
    """Noise of two minibatches: loss <- L(batch) + std * (L(B1) - L(B2)).

    B1 and B2 are `batch_size` rows each, drawn from the batch without replacement, independently of
    each other. The gradient gains mean 0 and covariance 2 std^2 (n - b) / (b (n - 1)) * Sigma,
    Sigma = the covariance of the n rows' gradients. It needs rows, so it acts in
    `optimizer.wrap(criterion)`; the criterion returns a mean over rows.

    Args:
        std: factor on the difference.
        schedule: step -> factor on std, or None for constant noise.
        batch_size: b, rows of each minibatch.

    Raises:
        ValueError: std negative or not finite, batch_size not positive or above the batch's rows.

    >>> from lntrain import NoisyTargets
    >>> criterion = NoisyTargets(torch.nn.MSELoss(), MinibatchNoise(1.0, batch_size=2))
    >>> bool(criterion(torch.ones(5), torch.zeros(5)) == 1.0)  # rows alike: no noise
    True

    Source: HaoChen, Wei, Lee, Ma, COLT 2021 (arXiv 2006.08680), "mini-batch noise" of their code.
    """

    batch_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.std, tuple):
            raise ValueError(f"MinibatchNoise: std={self.std}: give one std, its rows belong to no replica")
        if isinstance(self.batch_size, bool) or self.batch_size < 1:
            raise ValueError(f"MinibatchNoise: batch_size={self.batch_size} must be at least 1")

    def perturb(self, targets: Tensor, at: Draw, *, std: Any = None) -> Tensor:
        """Refused: there is nothing to add to labels."""
        raise ValueError("MinibatchNoise adds nothing to labels: use criterion = optimizer.wrap(criterion)")

    def rows(self, at: Draw, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of B1 and of B2, (batch_size,) each, out of `count`."""
        if self.batch_size > count:
            raise ValueError(f"MinibatchNoise: batch_size={self.batch_size} exceeds the {count} rows of this batch")
        drawn = philox.words(*at.keys[0], at.step, at.step + 1, 2 * count, at.draw).reshape(2, count)
        first, second = drawn.argsort(-1, kind="stable")[:, : self.batch_size]
        return first, second

    def loss(
        self, criterion: Callable[..., Tensor], input: Tensor, target: Tensor, at: Draw, std: Any, *args: Any, **kw: Any
    ) -> Tensor:
        """The noisy loss of one batch, whose rows are the leading axis of `input` and `target`."""
        whole = criterion(input, target, *args, **kw)
        if whole.ndim:
            raise ValueError(f"MinibatchNoise needs the mean over rows, not a loss of shape {tuple(whole.shape)}")
        picks = (torch.from_numpy(rows).to(input.device) for rows in self.rows(at, len(target)))
        first, second = (criterion(input[rows], target[rows], *args, **kw) for rows in picks)
        level = float(check_std(self.std if std is None else std))  # type: ignore[arg-type]
        scale = level * factor_at(self.factor, at.step, "noise.schedule")
        return whole + scale * (first - second)


def outside_graphs(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` outside torch.compile's graph: drawing random numbers is not a tensor operation."""
    return torch.compiler.disable(function)(*args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]


def skipped(optimizer: Any) -> bool:
    """Whether a GradScaler found an infinite gradient in this fused step (for other optimisers it calls no step)."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


@torch.no_grad()
def shake(optimizer: Any, *_: Any) -> None:
    """Post-step hook: add ParameterNoise to each parameter that has a gradient; its position is the draw number."""
    if torch.compiler.is_compiling():
        outside_graphs(shake, optimizer)
        return
    if skipped(optimizer):
        return
    noise, groups = optimizer.noise, optimizer.param_groups
    keys, step, place, moved = optimizer.keys(optimizer.replicas), groups[0]["noise_step"], 0, False
    for group in groups:
        time = float(group["lr"]) * np.asarray(group.get("lr_ratio", 1.0))
        scale = np.asarray(group["noise_std"]) * factor_at(noise.factor, step, "noise.schedule") * np.sqrt(time)
        for parameter in group["params"]:
            if parameter.grad is not None and time.any():
                _move(parameter, Draw(keys, step, place), scale)
                moved = True
            place += 1
    if moved:
        for group in groups:
            group["noise_draw"] += 1


def _move(parameter: Tensor, at: Draw, scale: NDArray[np.float64]) -> None:
    real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
    xi = draws(philox.normals, at, real.shape, real, ahead=False)
    xi = xi * (torch.from_numpy(scale).to(xi).view(-1, *[1] * (xi.ndim - 1)) if scale.ndim else float(scale))
    if hasattr(real, "placements"):  # a DTensor: each rank keeps its shard of the same noise, whatever the layout
        from torch.distributed.tensor import distribute_tensor

        xi = distribute_tensor(xi, real.device_mesh, real.placements, src_data_rank=None)  # type: ignore[attr-defined]
    real.add_(xi)
