"""LabelNoiseSGD: torch's SGD that also carries the noise of the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lntrain.noise import Draw, Noise, NoNoise, as_noise, check_std

Criterion = Callable[..., Tensor]


def _distributed_rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    return 0


def count_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """The draw counter moves only if labels were perturbed since the last step (a hook: torch wraps `step` per class)."""
    for group in optimizer.param_groups:
        if group["noise_draw"]:
            group["noise_step"] += 1
            group["noise_draw"] = 0


class LabelNoiseSGD(torch.optim.SGD):
    """SGD on freshly perturbed labels: w <- w - lr * grad loss(net(x), y + std * eps).

    Every option of torch.optim.SGD is kept. All noise state (noise_std, seed, noise_step,
    noise_draw) lives in `param_groups` as plain numbers, so state_dict, schedulers and
    checkpoints carry it; the draws are a pure function of (seed, rank, step, draw).

    Args:
        params: parameters or groups, as for any torch optimiser.
        lr: step size gamma; or one a replica, which `train` applies (torch's step knows only the largest).
        noise: what is added to labels; a number is the std of Gaussian noise.
        momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused:
            torch.optim.SGD's.
        seed: of the noise and of the batches that `train` draws; or one a replica.
        rank: stream of the noise; None takes torch.distributed's rank, so that ranks differ.
            Ranks that share labels need the same number.

    Raises:
        ValueError: a bad option of SGD, a noise that is none.

    >>> net = torch.nn.Linear(3, 1)
    >>> optimizer = LabelNoiseSGD(net.parameters(), lr=0.1, noise=0.5, seed=1)
    >>> x, y = torch.ones(4, 3), torch.zeros(4, 1)
    >>> loss = torch.nn.functional.mse_loss(net(x), optimizer.perturb(y))
    >>> loss.backward(); optimizer.step(); optimizer.param_groups[0]["noise_step"]
    1

    Source: Pillaud-Vivien, Reygner, Flammarion, COLT 2022 (arXiv 2206.09841), eq. (3).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Sequence[float] = 1e-3,
        *,
        noise: Noise | float = 0.0,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        seed: int | Sequence[int] = 0,
        rank: int | None = None,
    ) -> None:
        self.noise, self.rank = as_noise(noise), rank
        std = self.noise.std
        self._noise_defaults: dict[str, Any] = {
            "noise_std": list(std) if isinstance(std, tuple) else std,
            "seed": [int(s) for s in seed] if isinstance(seed, Sequence) else int(seed),
            "noise_step": 0,
            "noise_draw": 0,
        }
        if np.ndim(lr) > 0:
            rates = [float(rate) for rate in lr]  # type: ignore[union-attr]
            if weight_decay:
                raise ValueError("weight_decay with one lr a replica is not defined: give one lr, or no weight_decay")
            if not min(rates) > 0:
                raise ValueError(f"lr={rates}: each must be positive")
            lr = max(rates)
            self._noise_defaults["lr_ratio"] = [rate / lr for rate in rates]
        super().__init__(
            params, cast("float | Tensor", lr), momentum, dampening, weight_decay, nesterov,
            maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused,
        )  # fmt: skip
        self.defaults.update(self._noise_defaults)
        self._complete()

    def _complete(self) -> None:
        """The noise keys a plain SGD's state lacks, and the step counter's hook, which no copy or pickle keeps."""
        if count_step not in self._optimizer_step_post_hooks.values():
            self.register_step_post_hook(count_step)
        for group in self.param_groups:
            for key, value in self._noise_defaults.items():
                group.setdefault(key, value)

    def __getstate__(self) -> dict[str, Any]:
        own = {key: self.__dict__[key] for key in ("noise", "rank", "_noise_defaults")}
        return {**super().__getstate__(), **own}  # torch's keeps only defaults, state and groups

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._complete()

    def keys(self, replicas: int | None = None) -> tuple[tuple[int, int], ...]:
        """(seed, stream) of each replica: stream rank * R + r of one seed, or stream `rank` of a seed each."""
        seed, rank = self.param_groups[0]["seed"], _distributed_rank() if self.rank is None else self.rank
        if isinstance(seed, int):
            count = replicas or 1
            return tuple((seed, rank * count + r) for r in range(count))
        if len(seed) != (replicas or 1):
            raise ValueError(f"seed holds {len(seed)} values: the model has {replicas or 1} replica(s)")
        return tuple((s, rank) for s in seed)

    def perturb(self, targets: Tensor, *, replicas: bool = False) -> Tensor:
        """This step's noisy targets; each call within a step is a fresh draw.

        Args:
            targets: of any shape, on any device; the noise is drawn for each number in it.
            replicas: the leading axis holds replicas, each with the stream it would have alone.

        Returns:
            targets plus noise (or flipped classes), same shape and dtype.
        """
        group = self.param_groups[0]
        at = Draw(self.keys(len(targets) if replicas else None), group["noise_step"], group["noise_draw"])
        noisy = self.noise.perturb(targets, at, std=group["noise_std"])
        for each in self.param_groups:
            each["noise_draw"] += 1
        return noisy

    def wrap(self, criterion: Criterion) -> Criterion:
        """The same criterion on perturbed targets; the clean one where no gradient is taken."""

        def noisy_criterion(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            quiet = not torch.is_grad_enabled() or not getattr(criterion, "training", True)
            return criterion(input, target if quiet else self.perturb(target), *args, **kwargs)

        return noisy_criterion


class NoisyTargets(nn.Module):
    """A criterion on perturbed targets, for any optimiser: criterion(input, noise(target)).

    Args:
        criterion: any callable (input, target) -> loss.
        noise: as for LabelNoiseSGD.
        optimizer: its steps then count the noise's steps (gradient accumulation, antithetic
            pairs); without one each training call is a step.
        seed, rank: as for LabelNoiseSGD.

    >>> criterion = NoisyTargets(torch.nn.MSELoss(), 1.0)
    >>> clean = criterion.eval()
    >>> float(clean(torch.zeros(3), torch.zeros(3)))
    0.0
    """

    def __init__(
        self,
        criterion: Criterion,
        noise: Noise | float,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        seed: int = 0,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        self.criterion, self.noise, self.seed, self.rank = criterion, as_noise(noise), int(seed), rank
        self.counters: Tensor
        self.register_buffer("counters", torch.zeros(2, dtype=torch.int64))  # step, draw within it
        self._by_call = optimizer is None
        if optimizer is not None:
            optimizer.register_step_post_hook(lambda *_: self._advance())

    def _advance(self) -> None:
        if self.counters[1]:
            self.counters[0] += 1
            self.counters[1] = 0

    def forward(self, input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not self.training or not torch.is_grad_enabled():
            return self.criterion(input, target, *args, **kwargs)
        rank = _distributed_rank() if self.rank is None else self.rank
        step, draw = (int(c) for c in self.counters)
        noisy = self.noise.perturb(target, Draw(((self.seed, rank),), step, draw))
        self.counters[1] += 1
        if self._by_call:
            self._advance()
        return self.criterion(input, noisy, *args, **kwargs)


def noise_std(optimizer: torch.optim.Optimizer) -> Any:
    """The std an optimiser's noise has now; 0 for a plain one."""
    return check_std(optimizer.param_groups[0].get("noise_std", 0.0))


def noise_of(optimizer: torch.optim.Optimizer) -> Noise:
    """The noise an optimiser carries; none for a plain one."""
    return optimizer.noise if isinstance(optimizer, LabelNoiseSGD) else NoNoise()
