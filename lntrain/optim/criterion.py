"""NoisyTargets: a criterion on perturbed targets, for any loop and any optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lntrain.noise.controls import MinibatchNoise, ParameterNoise, outside_graphs
from lntrain.noise.labels import Draw, Noise, as_noise
from lntrain.optim.counting import again, count_step, follow, moved_uncounted, refuse_vmap
from lntrain.optim.sgd import LabelNoiseSGD, rank_of

Criterion = Callable[..., Tensor]


class NoisyTargets(nn.Module):
    """A criterion on perturbed targets, for any optimiser: criterion(input, noise(target)).

    It is noisy in training alone: not after `.eval()`, nor under `torch.no_grad()` or
    `inference_mode()`. `criterion.clean` is the loss without noise of the last call.

    Args:
        criterion: any callable (input, target, ...) -> loss.
        noise: as for LabelNoiseSGD.
        optimizer: if given, the noise advances with its steps (for gradient accumulation and
            antithetic pairs), counted in its `param_groups`; else each training call is a step.
        seed, rank: as for LabelNoiseSGD; if the optimizer is one, its own are used.

    Raises:
        ValueError: noise on the parameters, or another noise than the LabelNoiseSGD's own.

    >>> criterion = NoisyTargets(torch.nn.MSELoss(), 1.0)
    >>> noisy = criterion(torch.zeros(3), torch.zeros(3))
    >>> float(criterion.clean), bool(noisy > 0)
    (0.0, True)
    """

    calls: Tensor
    _moves = (0, 0)

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
        self.optimizer = getattr(optimizer, "optimizer", optimizer)  # Accelerate and Lightning wrap the torch optimiser
        if isinstance(self.optimizer, LabelNoiseSGD):
            if self.noise != self.optimizer.noise:
                raise ValueError(f"noise={noise}: the optimizer has {self.optimizer.noise}, use optimizer.wrap")
        elif isinstance(self.noise, ParameterNoise):
            raise ValueError("ParameterNoise is not for targets: give it to LabelNoiseSGD(noise=...)")
        if self.optimizer is None:
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self._last: tuple[Any, ...] | None = None
        self._complete()

    def _complete(self) -> None:
        if self.optimizer is not None:
            follow(self.optimizer, self.noise)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._complete()

    def _apply(self, fn: Any, recurse: bool = True) -> NoisyTargets:
        calls = self._buffers.pop("calls", None)  # stays on the host, or reading it would wait for the device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers.update({} if calls is None else {"calls": calls})
        return self

    def extra_repr(self) -> str:
        return f"noise={self.noise}"

    def next_draw(self) -> tuple[Draw, Any]:
        """As LabelNoiseSGD.next_draw; a std of None is the noise's own."""
        if isinstance(self.optimizer, LabelNoiseSGD):
            return self.optimizer.next_draw()
        refuse_vmap()
        keys = ((self.seed, rank_of(self.noise, self.rank)),)
        if self.optimizer is None:
            self.calls += 1
            return Draw(keys, int(self.calls) - 1), None
        again(self.optimizer, self.noise)
        group = self.optimizer.param_groups[0]
        at = Draw(keys, group.setdefault("noise_step", 0), group.setdefault("noise_draw", 0))
        self._moves = moved_uncounted(group, self._moves)
        group["noise_draw"] += 1
        return at, None

    def count(self) -> None:
        """One step of an optimiser whose own `step` is never called, such as a SAM that holds no other optimiser."""
        if self.optimizer is not None:
            count_step(self.optimizer)

    def forward(self, input: Any, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return outside_graphs(self.forward, input, target, *args, **kwargs)
        self._last = (input.detach() if isinstance(input, Tensor) else input, target, args, kwargs)
        if not (torch.is_grad_enabled() and self.training and getattr(self.criterion, "training", True)):
            return self.criterion(input, target, *args, **kwargs)
        at, std = self.next_draw()
        if isinstance(self.noise, MinibatchNoise):
            return self.noise.loss(self.criterion, input, target, at, std, *args, **kwargs)
        return self.criterion(input, self.noise.perturb(target, at, std=std), *args, **kwargs)

    @property
    def clean(self) -> Tensor:
        """The last call's loss without noise, detached: computed when read, from inputs kept until the next call."""
        if self._last is None:
            raise RuntimeError("criterion.clean is the loss of the last call: call the criterion first")
        input, target, args, kwargs = self._last
        with torch.no_grad():
            return self.criterion(input, target, *args, **kwargs)
