"""What torch's optimisers keep for each weight: read before steps of compiled code, and written back after them."""

from __future__ import annotations

import torch
from torch import Tensor

from lntrain.engine.state import Run
from lntrain.optim.held import ADAPTIVE, SGD

MOMENTS = ("exp_avg", "exp_avg_sq")
NAMES = {
    **dict.fromkeys(SGD, ("momentum_buffer",)),
    **dict.fromkeys((torch.optim.Adam, torch.optim.AdamW), MOMENTS),
    torch.optim.RMSprop: ("none", "square_avg"),  # its gradient itself takes the place of the first moment
}


def most(step: Tensor) -> int:
    """Where a count of steps kept in this tensor ends: adding 1 changes it no more."""
    return max(int(step), 2**24 if step.dtype == torch.float32 else 2**53)


def steps_made(run: Run) -> Tensor:
    """torch's own count of an adaptive optimiser's steps; where it has made none, in the dtype torch would take."""
    kept = run.optimizer.state.get(_weights(run)[0], {}).get("step")
    default = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    narrow = run.optimizer.param_groups[0].get("fused")
    return torch.zeros((), dtype=torch.float32 if narrow else default) if kept is None else kept


def read(run: Run) -> tuple[list[Tensor], int]:
    """(the buffers, weight by weight of each name, zeros where there are none; steps made, 0 if none were there)."""
    names, held = NAMES[type(run.optimizer)], run.optimizer.state
    kept = [held.get(w, {}).get(name) for name in names for w in _weights(run)]
    made = int(steps_made(run)) if type(run.optimizer) in ADAPTIVE else int(kept[0] is not None)
    weights = _weights(run) * len(names)
    return [torch.zeros_like(w) if b is None else b for w, b in zip(weights, kept, strict=True)], made


def write(run: Run, buffers: list[Tensor], count: int) -> None:
    """The buffers after `count` steps, in the order of `read`, into the optimiser's state; created as torch does."""
    names, weights, adaptive = NAMES[type(run.optimizer)], _weights(run), type(run.optimizer) in ADAPTIVE
    if not adaptive and run.optimizer.param_groups[0]["momentum"] == 0:
        return
    made = steps_made(run).clone() if adaptive else None
    for k, w in enumerate(weights):
        state = run.optimizer.state[w]
        if made is not None:
            step = state.setdefault("step", made.clone())
            step.fill_(min(int(made) + count, most(made)))
        for name, buffer in zip(names, buffers[k :: len(weights)], strict=True):
            if name != "none":
                state.setdefault(name, torch.empty_like(w)).copy_(buffer)


def _weights(run: Run) -> tuple[Tensor, ...]:
    weights = run.model.weights
    assert isinstance(weights, tuple)
    return weights
