"""The step number of an optimiser's noise: hooks that count its steps, and the repeat of a dropped step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch._C._functorch import TransformType, get_interpreter_stack

from lntrain.noise.controls import ParameterNoise, skipped
from lntrain.noise.labels import Antithetic, Noise


def count_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Post-step hook (torch wraps `step`): count the step only if labels were perturbed since the last one."""
    if skipped(optimizer):
        vars(optimizer)["redraw"] = True
        return
    if not optimizer.param_groups[0].get("noise_draw"):
        _tell_unperturbed(optimizer)
    for group in optimizer.param_groups:
        if group.get("noise_draw"):
            group["noise_step"] += 1
            group["noise_draw"] = 0
    vars(optimizer)["redraw"] = False


def _tell_unperturbed(optimizer: torch.optim.Optimizer) -> None:
    """Warn once if an optimiser with label noise has never perturbed any labels: its steps are plain SGD's."""
    group, noise = optimizer.param_groups[0], getattr(optimizer, "noise", None)
    silent = vars(optimizer).get("told") or group.get("noise_step") or isinstance(noise, ParameterNoise)
    if noise is None or silent or not np.any(group.get("noise_std")):
        return
    if not group["lr"] or all(p.grad is None for p in group["params"]):  # torch makes empty steps
        return
    vars(optimizer)["told"] = True
    warnings.warn(
        f"a step without noise: labels were never perturbed by {noise!r}, so this is plain SGD. "
        "Use optimizer.perturb(targets) or criterion = optimizer.wrap(criterion)",
        stacklevel=5,
    )


def hook(optimizer: torch.optim.Optimizer, after: Callable[..., None]) -> None:
    """Register `after` as a post-step hook unless it is one already: copies and pickles lose their hooks."""
    if after not in optimizer._optimizer_step_post_hooks.values():
        optimizer.register_step_post_hook(after)


def follow(optimizer: torch.optim.Optimizer, noise: Noise) -> None:
    """Count the steps of any optimiser, and of an inner optimiser that it steps in its place, as SAM does."""
    hook(optimizer, count_step)
    for held in vars(optimizer).values():
        if isinstance(held, torch.optim.Optimizer) and held.param_groups[0] is optimizer.param_groups[0]:
            hook(held, count_step)
    if hasattr(optimizer, "noise") or not isinstance(noise, Antithetic) or "zero_grad" in vars(optimizer):
        return
    clear = optimizer.zero_grad

    def zero_grad(*args: Any, **kwargs: Any) -> None:
        note_dropped(optimizer, noise)
        clear(*args, **kwargs)

    optimizer.zero_grad = zero_grad  # type: ignore[method-assign]


def note_dropped(optimizer: torch.optim.Optimizer, noise: Noise) -> None:
    """Before gradients are cleared: was the last step dropped?"""
    if isinstance(noise, Antithetic) and _dropped(optimizer):
        vars(optimizer)["redraw"] = True


def again(optimizer: torch.optim.Optimizer, noise: Noise) -> None:
    """Before a draw: reuse the numbers of a step that GradScaler dropped, or the two of its pair would differ."""
    if isinstance(noise, Antithetic) and (vars(optimizer).get("redraw") or _dropped(optimizer)):
        for group in optimizer.param_groups:
            if "noise_draw" in group:
                group["noise_draw"] = 0
    vars(optimizer)["redraw"] = False


def _dropped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether labels were perturbed for gradients that are not finite: GradScaler then calls no step at all."""
    if not optimizer.param_groups[0].get("noise_draw"):
        return False
    grads = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    return any(not bool(torch.isfinite(g.coalesce().values() if g.is_sparse else g).all()) for g in grads)


def moved_uncounted(group: dict[str, Any], moves: tuple[int, int]) -> tuple[int, int]:
    """(how often parameters changed between draws of one step, their version); warns at the second change."""
    version = sum(p._version for p in group["params"] if not p.is_inference())
    count, last = moves if group["noise_draw"] else (0, version)
    if version != last:
        count += 1
        if count == 2:
            warnings.warn(
                "parameters move but the optimizer's step() is never called: call criterion.count() after each step, "
                "or the noise stays at one step",
                stacklevel=4,
            )
    return count, version


def refuse_vmap() -> None:
    levels = get_interpreter_stack()
    if levels and any(level.key() == TransformType.Vmap for level in levels):
        raise ValueError("noise drawn inside vmap would be the same for all: perturb(targets, replicas=True) before it")
