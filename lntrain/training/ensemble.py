"""The loop over replicas: each with the batches and the noise it would have alone, annealed at the end."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lntrain._checks import whole_number
from lntrain.models.replicas import Criterion, Replicas, Rows
from lntrain.noise.labels import LabelFlips
from lntrain.noise.philox import check_sampling, sampled_rows
from lntrain.noise.schedules import factor_at
from lntrain.optim.sgd import LabelNoiseSGD, noise_of
from lntrain.training.divergence import DivergenceError
from lntrain.training.loop import HEARTBEAT
from lntrain.training.points import log_spaced

ROWS_AHEAD = 256  # steps whose rows are drawn in one call
OCTAVES = 11  # before the last step that a schedule covers


@dataclass(frozen=True)
class Anneal:
    """In the last `steps` steps the lr, or the noise, falls linearly to 0.

    Args:
        steps: how many; 0 is constant to the end. what: "lr" or "noise".

    >>> anneal = Anneal(100, "lr")
    >>> [anneal.factors(step, 1000) for step in (0, 900, 950)]
    [(1.0, 1.0), (1.0, 1.0), (0.5, 1.0)]
    """

    steps: int = 0
    what: str = "lr"

    def __post_init__(self) -> None:
        if self.what not in ("lr", "noise") or self.steps < 0:
            raise ValueError(f'anneal: what={self.what!r} must be "lr" or "noise" and steps={self.steps} not negative')

    def factors(self, step: int, steps: int) -> tuple[float, float]:
        """(factor on lr, factor on the noise) at a step of `steps`."""
        factor = min(1.0, (steps - step) / self.steps) if self.steps else 1.0
        return (factor, 1.0) if self.what == "lr" else (1.0, factor)


@dataclass(frozen=True)
class Progress:
    """Where the networks stand after `step` steps; losses (R,) are on the last batch, before that step."""

    step: int
    networks: Replicas
    losses: Tensor
    scheduled: bool
    _state: dict[str, Any] = field(repr=False)

    def state_dict(self) -> dict[str, Any]:
        """All that `descend(..., state=)` needs to resume, bit for bit on the same machine."""
        return copy.deepcopy(self._state)


def descend(
    networks: Replicas,
    optimizer: LabelNoiseSGD,
    rows: Rows,
    criterion: Criterion,
    steps: int,
    *,
    batch_size: int | None = None,
    sampling: str | None = None,
    anneal: Anneal = Anneal(),
    lr_schedule: Callable[[int], Any] | None = None,
    scheduled: Iterable[int] = (),
    state: dict[str, Any] | None = None,
) -> Iterator[Progress]:
    """Train all replicas by the optimiser, each on its own batches and noisy targets.

    Args:
        networks: R replicas. optimizer: over networks.parameters(), with R seeds.
        rows: what to train on. criterion: (output, target) -> scalar, the mean over a batch.
        steps: the last step. batch_size, sampling: as for `lntrain.train`, except "noisy_rows".
        anneal: what falls to 0 at the end. lr_schedule: step -> a further factor on lr.
        scheduled: steps to report. state: an earlier Progress' state_dict().

    Yields:
        Progress at each scheduled step and at `steps`, and heartbeats between.

    Raises:
        ValueError: arguments that do not fit. DivergenceError: a loss that is not finite.

    >>> nets = Replicas([torch.nn.Linear(1, 1) for _ in range(2)])
    >>> optimizer = LabelNoiseSGD(nets.parameters(), lr=0.1, seed=[0, 1])
    >>> rows = Rows(torch.ones(4, 1), torch.full((4, 1), 3.0))
    >>> *_, last = descend(nets, optimizer, rows, torch.nn.functional.mse_loss, 100, batch_size=2)
    >>> [round(value, 2) for value in nets(torch.ones(2, 1, 1)).flatten().tolist()]
    [3.0, 3.0]
    """
    size, kind = check_sampling(rows.n, batch_size, sampling)
    if kind == "noisy_rows":
        raise ValueError('sampling="noisy_rows" is for lntrain.train: choose replacement, without or shuffle')
    steps = whole_number("steps", steps, 1)
    if len(optimizer.keys(len(networks))) != len(networks) or (rows.own and len(rows.inputs) != len(networks)):
        raise ValueError(f"the networks are {len(networks)}: give as many seeds, and as many rows of their own")
    if anneal.steps > steps:
        raise ValueError(f"anneal: steps={anneal.steps} exceeds the run's {steps}")
    loop = _Loop(networks, optimizer, rows, criterion, steps, size, kind, anneal, lr_schedule)
    if state is not None:
        loop.restore(state)
    return loop.run({int(s) for s in scheduled if 1 <= s < steps} | {steps})


@dataclass
class _Loop:
    networks: Replicas
    optimizer: LabelNoiseSGD
    data: Rows
    criterion: Criterion
    steps: int
    batch_size: int
    sampling: str
    anneal: Anneal
    lr_schedule: Callable[[int], Any] | None
    step: int = 0

    def __post_init__(self) -> None:
        self.losses = torch.zeros(len(self.networks))
        self.lr, self.noise = self.optimizer.param_groups[0]["lr"], noise_of(self.optimizer)
        self.std = self.optimizer.param_groups[0]["noise_std"]
        self._block: tuple[int, Tensor] | None = None

    def run(self, scheduled: set[int]) -> Iterator[Progress]:
        try:
            yield from self._run(scheduled)
        finally:  # restore the optimiser's settings, which annealing changed
            self._set(1.0, 1.0)

    def _run(self, scheduled: set[int]) -> Iterator[Progress]:
        beat = time.monotonic()
        if self.step >= self.steps:
            yield self._progress(True)
        while self.step < self.steps:
            self._advance()
            due, now = self.step in scheduled, time.monotonic()
            if due or now - beat > HEARTBEAT:
                self._check()
                yield self._progress(due)
                beat = time.monotonic()

    def _advance(self) -> None:
        rate, level = self.anneal.factors(self.step, self.steps)
        if self.lr_schedule is not None:
            rate *= factor_at(self.lr_schedule, self.step, "lr_schedule")
        self._set(rate, level)
        inputs, targets = self.data.batch(self._rows(), len(self.networks), level)
        self.optimizer.zero_grad()
        losses = self.networks.losses(self.criterion, inputs, self.optimizer.perturb(targets, replicas=True))
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses = losses.detach()
        self.step += 1

    def _set(self, rate: float, level: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * rate
            group["noise_std"] = [s * level for s in self.std] if isinstance(self.std, list) else self.std * level
        if isinstance(self.noise, LabelFlips):
            self.optimizer.noise = self.noise if level == 1 else replace(self.noise, p=self.noise.p * level)

    def _rows(self) -> Tensor | None:
        """The rows of this step's batches, (R, b); None is all of them. Blocks are aligned to absolute steps."""
        if self.sampling == "full":
            return None
        block, at = divmod(self.step, ROWS_AHEAD)
        if self._block is None or self._block[0] != block:
            start = block * ROWS_AHEAD
            options: dict[str, Any] = {"n": self.data.n, "batch_size": self.batch_size, "sampling": self.sampling}
            drawn = [
                sampled_rows(*key, start, start + ROWS_AHEAD, every=self.noise.period, **options)
                for key in self.optimizer.keys(len(self.networks))
            ]
            self._block = block, torch.from_numpy(np.stack(drawn, 1))
        return self._block[1][at]

    def _check(self) -> None:
        if not bool(torch.isfinite(self.losses).all()):
            lr = self.lr
            raise DivergenceError(
                f"diverged by step {self.step} with lr={lr:g}: a loss is not finite; take a smaller lr"
            )

    def _progress(self, scheduled: bool) -> Progress:
        state = {
            "step": self.step,
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
        }
        return Progress(self.step, self.networks, self.losses, scheduled, state)

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.losses = int(state["step"]), state["losses"]
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


def schedule(steps: int, per_octave: int, *extra: int) -> list[int]:
    """Log-spaced steps, `per_octave` an octave over the last OCTAVES, with `extra`.

    >>> schedule(16, 1, 12)
    [1, 2, 4, 8, 12, 16]
    """
    chosen = {*log_spaced(steps, per_octave, octaves=OCTAVES), *extra}
    return sorted(s for s in chosen if 1 <= s <= steps)
