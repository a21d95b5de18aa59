"""Which optimisers are known by name, and what an optimiser holds that `train` can step."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from lntrain.optim.sgd import LabelNoiseSGD

SGD = (torch.optim.SGD, LabelNoiseSGD)  # whose penalty and compiled steps are known; subclasses may do anything
ADAPTIVE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)


def held_of(optimizer: Any, model: nn.Module) -> list[bool]:
    """Which of the model's parameters the optimiser holds, in their order.

    Raises:
        ValueError: it is no torch optimiser, or one whose step asks for a closure.

    >>> import torch
    >>> net = nn.Linear(3, 1)
    >>> held_of(torch.optim.SGD([net.bias]), net)
    [False, True]
    """
    name, step = type(optimizer).__name__, getattr(optimizer, "step", None)
    if step is None or not hasattr(optimizer, "param_groups"):
        raise ValueError(f"optimizer is a {name}: give a torch optimiser")
    closure = signature(step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise ValueError(f"{name} asks for a closure, which training has not: give another optimiser")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [id(p) in held for p in model.parameters()]
