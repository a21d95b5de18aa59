"""From (lr, noise, batch, momentum) to the group lasso's penalty, where beta_g = u_g v_g."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lntrain._checks import group_labels, real_number
from lntrain.data.design import Design
from lntrain.noise.philox import check_sampling
from lntrain.penalty.formula import _variance_to_penalty, decay_penalty


class GroupPenalty(NamedTuple):
    """sum_g weights_g ||K_g^(1/2) beta_g||: weights (G,) float64; metric K_g, one a group, or None for K_g = C_g."""

    weights: Tensor
    metric: tuple[Tensor, ...] | None = None


def group_penalty(
    X: Any,
    groups: Any,
    *,
    lr: float,
    std: float,
    batch_size: int | None = None,
    loss_constant: float = 0.5,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    antithetic: bool = False,
    sampling: str | None = None,
) -> GroupPenalty:
    """The standardised group lasso that label noise solves where beta_g = u_g v_g, before the first step.

    p(beta) = alpha sum_g sqrt(tr C_g + omega) ||(C_g + omega)^(1/2) beta_g||, alpha = (1/2) a lr std^2 / b,
    a = 2 loss_constant, C_g = X_g^T X_g / n, omega = weight_decay / (a alpha).

    Args:
        X: (n, d) design, or a problem. groups: index lists, or (d,) labels.
        lr, std, batch_size, loss_constant, momentum, ...: as for `effective_penalty`; one number each.

    Returns:
        GroupPenalty: weights alpha sqrt(tr C_g + omega). Of groups of one it is `effective_penalty` of "hadamard".

    Raises:
        ValueError: an argument out of range, by name.

    >>> [round(w, 9) for w in group_penalty(torch.ones(4, 3), [[0, 1], [2]], lr=0.01, std=2.0).weights.tolist()]
    [0.007071068, 0.005]

    Source: theory.md, Groups.
    """
    design = Design.of(X)
    labels = torch.from_numpy(group_labels(groups, design.shape[1]))
    b, _ = check_sampling(design.shape[0], batch_size, sampling)
    factor = _variance_to_penalty(
        real_number("lr", lr), "hadamard", loss_constant, momentum, dampening, nesterov, antithetic
    )
    alpha = float(factor) * real_number("std", std, positive=True) ** 2 / b
    omega = decay_penalty(weight_decay, "hadamard", loss_constant) / alpha
    traces = torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(0, labels, design.c)
    if not bool(traces.isfinite().all()) or not math.isfinite(omega):
        raise ValueError("X holds numbers that are not finite: drop or fill them first")
    weights = alpha * (traces + omega).sqrt()
    if omega == 0:
        return GroupPenalty(weights)
    blocks = (design.X[:, labels == g] for g in range(len(traces)))
    return GroupPenalty(weights, tuple(B.T @ B / len(B) + omega * torch.eye(B.shape[1]).double() for B in blocks))
