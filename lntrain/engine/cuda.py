"""The fused engine on a GPU: one step of all replicas in torch operations, captured in a CUDA graph and replayed.

Noise, rows, step sizes and noise levels of a block of steps are drawn on the CPU, from the same random stream as in the
other engines, and copied at once; a counter on the device tells each replay which entries to use. A step computes its
gradient without autograd, in place, and also runs without a graph on any device: so it is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lntrain.engine import cpu
from lntrain.engine.state import BLOCK, Run
from lntrain.models.diagonal import DiagonalLinear

WARM_UP = 3  # steps before a capture, as torch asks, on another stream
COEF: dict[str, Callable[..., Tensor]] = {  # beta of (depth L, weights)
    "difference": lambda L, u, v: u**L - v**L,
    "square": lambda _, w: w.square(),
    "hadamard": lambda _, u, v: u * v,
}
SLOPES: dict[str, Callable[..., tuple[Tensor, ...]]] = {  # d beta / dw for each of the weights
    "difference": lambda L, u, v: (L * u ** (L - 1), -L * v ** (L - 1)),
    "square": lambda _, w: (2 * w,),
    "hadamard": lambda _, u, v: (v, u),
}


def captures(tensor: Tensor) -> bool:
    """Whether steps on it can be captured in a graph."""
    return tensor.is_cuda


def advance(run: Run, stop: int) -> None:
    """Train `run` up to step `stop`, in place."""
    if run.step >= stop:
        return
    group = run.optimizer.param_groups[0]
    fixed = {key: group.get(key) for key in ("momentum", "dampening", "weight_decay", "nesterov", "lr_ratio")}
    if run.device_steps is None or run.device_steps.fixed != fixed:  # a graph holds them as constants
        run.device_steps = DeviceSteps(run, fixed)
    while run.step < stop:
        count = min(stop, (run.step // BLOCK + 1) * BLOCK) - run.step
        run.device_steps.fill(count)
        run.device_steps.go(count)
        run.step += count
        if "noise_step" in group:
            group["noise_step"] += count
        run.close_block()
    if run.lr_schedule is not None:
        run.set_lr(float(run.lr_schedule(stop - 1)))


class DeviceSteps:
    """The tensors of a step: weights (R, d), their momentum buffers, sums; the draws of a block of steps."""

    def __init__(self, run: Run, fixed: dict[str, Any]) -> None:
        model, momentum = run.model, fixed["momentum"]
        assert isinstance(model, DiagonalLinear)
        self.run, self.group, self.model, self.fixed = run, run.optimizer.param_groups[0], model, fixed
        self.graph: torch.cuda.CUDAGraph | None = None
        self.fresh = bool(momentum) and not run.optimizer.state.get(model.weights[0])
        self.weights = [w.detach().view(run.replicas or 1, -1) for w in model.weights]
        self.buffers: list[Tensor] = []
        for w in model.weights if momentum else ():
            buffer = run.optimizer.state[w].setdefault("momentum_buffer", torch.zeros_like(w))
            self.buffers.append(buffer.view(run.replicas or 1, -1))
        self.coef_sum, self.noise_sum = (run.sums[f"{s}_block"].view(run.replicas or 1, -1) for s in ("coef", "noise"))
        many, width = BLOCK * (run.replicas or 1), len(run.y) if run.sampling == "full" else run.batch_size
        self.unit = run.X.new_zeros(many, width).view(BLOCK, -1, width)
        self.rows = torch.zeros_like(self.unit, dtype=torch.int64)
        self.std, self.lr, self.take = (
            run.X.new_zeros(many).view(BLOCK, -1, 1),
            run.X.new_zeros(BLOCK),
            run.X.new_zeros(BLOCK),
        )
        self.ratio = run.X.new_tensor(self.group.get("lr_ratio", [1.0]))[:, None]
        self.at = torch.zeros(1, dtype=torch.int64, device=run.X.device)

    def fill(self, count: int) -> None:
        """The draws of the next `count` steps, at most a block."""
        run, noise = self.run, self.run.noise
        schedule: Any = None if noise.schedule is None else noise.factor  # type: ignore[union-attr]
        stds = np.broadcast_to(run.std, self.std.shape[1])
        levels = cpu.step_factors(schedule, run.noise_step, count, "noise.schedule")[:count, None] * stds
        self.std[:count].copy_(torch.from_numpy(levels)[..., None])
        if stds.any():
            steps, keys = (run.noise_step, run.noise_step + count), run.keys()
            drawn = [noise.unit(*key, *steps, self.unit.shape[2]) for key in keys]  # type: ignore[union-attr]
            self.unit[:count].copy_(torch.from_numpy(np.stack(drawn, 1)))
        rows = run.rows(count)
        if rows is not None:
            self.rows[:count].copy_(torch.from_numpy(rows).transpose(0, 1))
        lr = self.group["lr"] if run.lr_schedule is None else run.base_lr[0]
        rates = float(lr) * cpu.step_factors(run.lr_schedule, run.step, count, "lr_schedule")[:count]
        self.lr[:count].copy_(torch.from_numpy(rates))
        self.take.fill_(1 - self.group["dampening"])
        if self.fresh:  # torch's first buffer is the gradient itself
            self.take[0], self.fresh = 1.0, False
        self.at.zero_()

    def go(self, count: int) -> None:
        """Make `count` of the steps that `fill` drew."""
        if self.graph is None and captures(self.at):
            self._capture()
        for _ in range(count):
            self.step() if self.graph is None else self.graph.replay()

    def _capture(self) -> None:
        """Record a step; the effect of the warm-up steps is undone."""
        moved = [*self.weights, *self.buffers, self.coef_sum, self.noise_sum, self.at]
        kept, aside = [each.clone() for each in moved], torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self.at.zero_()
                self.step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.graph = graph
        for each, before in zip(moved, kept, strict=True):
            each.copy_(before)

    @torch.no_grad()
    def step(self) -> None:
        """One step of all replicas; nothing here may wait for the device or depend on its numbers."""
        beta = self._coef()
        self.coef_sum.add_(beta)
        grad = self._gradient(beta, self._now(self.unit) * self._now(self.std)).mul_(self.ratio)
        slopes = self._slopes(grad)
        lr, take, momentum = self.lr[self.at], self.take[self.at], self.group["momentum"]
        for k, (w, slope) in enumerate(zip(self.weights, slopes, strict=True)):
            move = slope + self.group["weight_decay"] * w if self.group["weight_decay"] else slope
            if momentum:
                buffer = self.buffers[k].mul_(momentum).add_(take * move)
                move = move + momentum * buffer if self.group["nesterov"] else buffer
            w.sub_(lr * move)
        self.at.add_(1)

    def _now(self, block: Tensor) -> Tensor:
        return block.index_select(0, self.at)[0]

    def _coef(self) -> Tensor:
        return COEF[self.model.parametrisation](self.model.depth, *self.weights)

    def _gradient(self, beta: Tensor, noise: Tensor) -> Tensor:
        """The gradient in beta, (R, d); the noise of each of the n labels is added to its sum."""
        X, y, c, sampling = self.run.X, self.run.y, 2 * self.run.loss_constant, self.run.sampling
        if sampling == "full":
            self.noise_sum.add_(noise)
            return (beta @ X.mT - (y + noise)) @ X * (c / len(y))
        rows, spread = self._now(self.rows), len(y) / self.run.batch_size
        fallen = torch.zeros(len(noise), len(y), dtype=X.dtype, device=X.device).scatter_add_(1, rows, noise) * spread
        self.noise_sum.add_(fallen)
        if sampling == "noisy_rows":
            return (beta @ X.mT - (y + fallen)) @ X * (c / len(y))
        x = X[rows]
        residual = (x @ beta[..., None]).squeeze(-1) - (y[rows] + noise)
        return (residual[:, None] @ x).squeeze(1) * (c / self.run.batch_size)

    def _slopes(self, grad: Tensor) -> tuple[Tensor, ...]:
        """The gradient in each weight."""
        return tuple(grad * slope for slope in SLOPES[self.model.parametrisation](self.model.depth, *self.weights))
