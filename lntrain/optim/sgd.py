"""LabelNoiseSGD: torch's SGD that also carries the noise of the labels."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from lntrain._checks import seed_or_seeds
from lntrain.noise.controls import ParameterNoise, outside_graphs, shake
from lntrain.noise.labels import Draw, Noise, NoNoise, as_noise, check_std
from lntrain.optim.counting import again, count_step, hook, note_dropped, refuse_vmap

if TYPE_CHECKING:
    from lntrain.optim.criterion import NoisyTargets

_DISTRIBUTED = torch.distributed.is_available()


def rank_of(noise: Noise, rank: int | None) -> int:
    if rank is None and not noise.shared and _DISTRIBUTED and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    return rank or 0


def stream_keys(seed: int | Sequence[int], rank: int, replicas: int | None) -> tuple[tuple[int, int], ...]:
    """(seed, stream) of each replica: stream rank * R + r for a single seed, stream `rank` for a seed each."""
    count = replicas or 1
    if isinstance(seed, int):
        return tuple((seed, rank * count + r) for r in range(count))
    if len(seed) != count:
        raise ValueError(f"seed holds {len(seed)} values: the model has {count} replica(s)")
    return tuple((s, rank) for s in seed)


def _unguarded(method: Callable[..., Any]) -> Any:
    """`method` without torch's compiler guard while the compiler is not loaded: importing it takes a second."""

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (method if "torch._dynamo" in sys.modules else inspect.unwrap(method))(*args, **kwargs)

    return call


class LabelNoiseSGD(torch.optim.SGD):
    """SGD on freshly perturbed labels: w <- w - lr * grad loss(net(x), y + std * eps).

    Every option of torch.optim.SGD is kept. All noise state (noise_std, seed, noise_step,
    noise_draw) lives in `param_groups` as plain numbers, so state_dict, schedulers and
    checkpoints carry it; the draws are a pure function of (seed, rank, step, draw).

    Args:
        params: parameters or groups, as for any torch optimiser.
        lr: step size gamma; or one per replica, which `train` applies (torch's step uses only the largest).
        noise: what is added to labels; a number is the std of Gaussian noise. Or a control of
            the literature, ParameterNoise or MinibatchNoise.
        momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused:
            torch.optim.SGD's.
        seed: of the noise and of the batches that `train` draws; or one per replica.
        rank: stream of the noise; None takes torch.distributed's rank, so that ranks differ.
            Ranks that share labels need the same number. One rank per replica needs one seed per replica.

    Raises:
        ValueError: a bad option of SGD, a `noise` that is not a noise.

    >>> net = torch.nn.Linear(3, 1)
    >>> optimizer = LabelNoiseSGD(net.parameters(), lr=0.1, noise=0.5, seed=1)
    >>> x, y = torch.ones(4, 3), torch.zeros(4, 1)
    >>> loss = torch.nn.functional.mse_loss(net(x), optimizer.perturb(y))
    >>> loss.backward(); optimizer.step(); optimizer.param_groups[0]["noise_step"]
    1

    Source: Pillaud-Vivien, Reygner, Flammarion, COLT 2022 (arXiv 2206.09841), eq. (3).
    """

    replicas: int | None = None  # of the last perturbed targets
    add_param_group, state_dict = (_unguarded(m) for m in (torch.optim.SGD.add_param_group, torch.optim.SGD.state_dict))

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
        rank: int | Sequence[int] | None = None,
    ) -> None:
        self.noise, self.rank = as_noise(noise), rank
        std = self.noise.std
        if not (0 <= momentum < 1 and math.isfinite(dampening)):
            raise ValueError(f"momentum={momentum} must lie in [0, 1), dampening={dampening} be finite")
        self._noise_defaults: dict[str, Any] = {
            "noise_std": list(std) if isinstance(std, tuple) else std,
            "seed": seed_or_seeds(seed),
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
            params,
            cast("float | Tensor", lr),
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
        self.defaults.update(self._noise_defaults)
        self._complete()

    def _complete(self) -> None:
        """The noise keys a plain SGD's state lacks, and the hooks."""
        if isinstance(self.noise, ParameterNoise):
            hook(self, shake)
        hook(self, count_step)
        for group in self.param_groups:
            for key, value in self._noise_defaults.items():
                group.setdefault(key, value)

    def __repr__(self) -> str:
        """torch's, with the noise before it."""
        return f"{super().__repr__()[:-1]}    noise: {self.noise!r}\n)"

    def __getstate__(self) -> dict[str, Any]:
        own = {key: self.__dict__[key] for key in ("noise", "rank", "_noise_defaults")}
        return {**super().__getstate__(), **own}  # torch's keeps only defaults, state and groups

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._complete()

    def keys(self, replicas: int | None = None) -> tuple[tuple[int, int], ...]:
        """(seed, stream) of each replica: stream rank * R + r for a single seed, stream `rank` for a seed each."""
        seed = self.param_groups[0]["seed"]
        if isinstance(self.rank, Sequence):
            return tuple(zip(seed, self.rank, strict=True))
        return stream_keys(seed, rank_of(self.noise, self.rank), replicas)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's; a step that GradScaler dropped is noticed here."""
        note_dropped(self, self.noise)
        super().zero_grad(set_to_none)

    def next_draw(self, replicas: int | None = None) -> tuple[Draw, Any]:
        """(the Draw of the next noise, its std); each call within a step is a fresh draw."""
        refuse_vmap()
        again(self, self.noise)
        group, self.replicas = self.param_groups[0], replicas
        at = Draw(self.keys(replicas), group["noise_step"], group["noise_draw"])
        for each in self.param_groups:
            each["noise_draw"] += 1
        return at, group["noise_std"]

    def perturb(self, targets: Tensor, *, replicas: bool = False) -> Tensor:
        """This step's noisy targets; each call within a step is a fresh draw.

        Args:
            targets: of any shape, on any device; the noise is drawn for each number in it.
            replicas: the leading axis holds replicas, each with the stream it would have alone.

        Returns:
            targets plus noise (or flipped classes), same shape and dtype.
        """
        if torch.compiler.is_compiling():
            return outside_graphs(self.perturb, targets, replicas=replicas)
        at, std = self.next_draw(len(targets) if replicas else None)
        return self.noise.perturb(targets, at, std=std)

    def wrap(self, criterion: Callable[..., Tensor]) -> NoisyTargets:
        """`criterion` on this optimiser's noisy targets, for any loop: see NoisyTargets.

        >>> net = torch.nn.Linear(3, 1)
        >>> optimizer = LabelNoiseSGD(net.parameters(), lr=0.1, noise=0.5)
        >>> criterion = optimizer.wrap(torch.nn.MSELoss())
        >>> criterion(net(torch.ones(4, 3)), torch.zeros(4, 1)).backward(); optimizer.step()
        """
        from lntrain.optim.criterion import NoisyTargets  # imported late: its module imports this class

        return NoisyTargets(criterion, self.noise, optimizer=self)


def noise_std(optimizer: torch.optim.Optimizer) -> Any:
    """The std an optimiser's noise has now; 0 for a plain one."""
    return check_std(optimizer.param_groups[0].get("noise_std", 0.0))


def noise_of(optimizer: torch.optim.Optimizer) -> Noise:
    """The noise an optimiser carries; none for a plain one."""
    return optimizer.noise if isinstance(optimizer, LabelNoiseSGD) else NoNoise()
