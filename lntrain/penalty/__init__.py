"""The Lasso that label noise solves: its penalty, known before the first step, and what finite steps change."""

from lntrain.penalty.corrections import (
    corrected_penalty,
    depth_penalty,
    plan_steps,
    sampling_penalty,
    sampling_variance,
    shuffle_shift,
)
from lntrain.penalty.formula import (
    alpha_max,
    decay_penalty,
    effective_lr,
    effective_penalty,
    finite_step_bias,
    gradient_kurtosis,
    mean_squares,
    noise_for_penalty,
    stable_lr,
    step_factor,
)
from lntrain.penalty.groups import GroupPenalty, group_penalty

__all__ = [
    "GroupPenalty",
    "alpha_max",
    "corrected_penalty",
    "decay_penalty",
    "depth_penalty",
    "effective_lr",
    "effective_penalty",
    "finite_step_bias",
    "gradient_kurtosis",
    "group_penalty",
    "mean_squares",
    "noise_for_penalty",
    "plan_steps",
    "sampling_penalty",
    "sampling_variance",
    "shuffle_shift",
    "stable_lr",
    "step_factor",
]
