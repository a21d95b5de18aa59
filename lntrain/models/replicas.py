"""Many networks of one architecture side by side, and the rows they train on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

Criterion = Callable[[Tensor, Tensor], Tensor]


class Replicas(nn.Module):
    """R networks of one architecture, their parameters stacked: (R, b, ...) -> (R, b, ...).

    Args:
        networks: R modules with equal parameter names and shapes, and no buffers that training moves.

    Raises:
        ValueError: no network, or networks that differ or hold buffers (batch norm).

    >>> nets = Replicas([nn.Linear(3, 2) for _ in range(5)])
    >>> nets(torch.zeros(5, 4, 3)).shape, nets.replica(1).weight.shape
    (torch.Size([5, 4, 2]), torch.Size([2, 3]))
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        named = [dict(network.named_parameters()) for network in networks]
        shapes = [{name: p.shape for name, p in parameters.items()} for parameters in named]
        if not named or any(shape != shapes[0] for shape in shapes):
            raise ValueError("networks: give at least one, all with the same parameters")
        if any(True for _ in networks[0].buffers()):
            raise ValueError("networks: buffers (batch norm) do not stack: use norm=group or norm=none")
        self.names = tuple(named[0])
        self.stacked = nn.ParameterList(torch.stack([p[name].detach() for p in named]) for name in self.names)
        self._template = [copy.deepcopy(networks[0])]  # in a list, so that its parameters are not registered here

    def __len__(self) -> int:
        return len(self.stacked[0])

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = vmap(self._one)(dict(zip(self.names, self.stacked, strict=True)), inputs)
        return outputs

    def _one(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        output: Tensor = functional_call(
            self._template[0], parameters, (x,), tie_weights=False
        )  # searching for tied weights takes time
        return output

    def losses(self, criterion: Criterion, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each replica, (R,); inputs and targets (R, b, ...)."""

        def one(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return criterion(self._one(parameters, x), y)

        losses: Tensor = vmap(one)(dict(zip(self.names, self.stacked, strict=True)), inputs, targets)
        return losses

    def replica(self, r: int) -> nn.Module:
        """A copy of network r alone."""
        network = copy.deepcopy(self._template[0])
        parameters = dict(network.named_parameters())
        with torch.no_grad():
            for name, stacked in zip(self.names, self.stacked, strict=True):
                parameters[name].copy_(stacked[r])
        return network


@dataclass(frozen=True)
class Rows:
    """What a run trains on: inputs (n, ...) and targets (n, ...) for all replicas, or (R, n, ...) for each.

    `clean`, for targets that contain the mean of the noise: what they become as the noise is annealed to 0.
    """

    inputs: Tensor
    targets: Tensor
    clean: Tensor | None = None
    own: bool = False  # whether the leading axis holds replicas

    @property
    def n(self) -> int:
        """Rows."""
        return self.inputs.shape[1 if self.own else 0]

    def batch(self, rows: Tensor | None, replicas: int, factor: float = 1.0) -> tuple[Tensor, Tensor]:
        """(inputs, targets), each (R, b, ...), of rows (R, b) or of all; targets: clean + factor (targets - clean)."""
        targets = self.targets
        if self.clean is not None and factor != 1:
            targets = torch.lerp(self.clean, targets, factor)
        if rows is None:
            if self.own:
                return self.inputs, targets
            return self.inputs.expand(replicas, *self.inputs.shape), targets.expand(replicas, *targets.shape)
        if self.own:
            first = torch.arange(replicas)[:, None]
            return self.inputs[first, rows], targets[first, rows]
        return self.inputs[rows], targets[rows]


def squared_loss(output: Tensor, target: Tensor, *, scale: float = 0.5) -> Tensor:
    """scale * mean over rows of ||output - target||^2; rows first.

    >>> float(squared_loss(torch.ones(4, 2), torch.zeros(4, 2)))
    1.0
    """
    return scale * (output - target).square().reshape(len(output), -1).sum(-1).mean()
