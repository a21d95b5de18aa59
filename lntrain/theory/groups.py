"""What is known of training groups, beta_g = u_g v_g, near the group lasso that it solves: theory.md, Groups."""

from __future__ import annotations

import torch
from torch import Tensor

from lntrain.data.problem import Problem
from lntrain.lasso.groups import GroupLassoSolution
from lntrain.theory.choose import SHAKE
from lntrain.theory.dynamics import Dynamics


def stable_group_lr(problem: Problem, reference: GroupLassoSolution, dynamics: Dynamics) -> float:
    """The step beyond which training is unstable somewhere, by three bounds as in `stable_along`.

    `stable_at`; at the start a lr ||X_g^T y|| / n < 1; and the noise that a step multiplies into a group's weights
    has a variance 2 a lr lambda_g sqrt(k_g), k_g = tr C_g + omega, of at most SHAKE.
    """
    (_, k), X = _sizes(problem, reference), problem.design.X
    slope = X.T @ problem.y.double().cpu() / len(X)
    steepest = float(torch.zeros_like(k).index_add_(0, reference.groups, slope.square()).sqrt().max())
    shaken = float((reference.penalty * k.sqrt()).max())
    start = min(1 / max(steepest, 1e-300), SHAKE / (2 * shaken)) / dynamics.rate(1.0)
    return min(start, stable_at(problem, reference, dynamics))


def stable_at(problem: Problem, reference: GroupLassoSolution, dynamics: Dynamics) -> float:
    """The step above which training leaves the reference: `stable_lr`, of the Hessian a J^T S J, J = (v_g, u_g I).

    There u_g^2 = ||K_g^(1/2) beta_g|| / sqrt(k_g), which minimises the penalty at fixed beta_g.
    """
    sizes, k = _sizes(problem, reference)
    u = (sizes / k.sqrt()).sqrt()
    X, moved = problem.design.X, []
    for g in torch.nonzero(reference.active)[:, 0].tolist():
        own = reference.groups == g
        moved += [X[:, own] * u[g], X[:, own] @ reference.coef[own, None] / u[g]]
    if not moved:
        return float("inf")
    J = torch.cat(moved, dim=1)
    return dynamics.stable(J / 2**0.5, torch.ones(J.shape[1]))  # of plain columns J J^T is 2 |beta_j|


def iid_note(problem: Problem, reference: GroupLassoSolution) -> list[str]:
    """What iid noise changes in groups of more than one, by fluctuations: at this penalty no smaller lr mends it."""
    sizes, k = _sizes(problem, reference)
    widths = torch.bincount(reference.groups, minlength=len(k))
    tau = 2 * float((reference.penalty / k.sqrt())[0])
    on = reference.active & (widths > 1)
    notes = []
    if bool(on.any()):
        relative = float((tau * (k / widths).sqrt() / sizes)[on].max())
        notes.append(
            f"iid noise: fluctuations change a group's penalty by up to about {relative:.2g} of it, whatever lr is at "
            "this penalty: take Antithetic noise, or a smaller penalty"
        )
    if bool((~reference.active & (widths > 2)).any()):
        notes.append(
            f"iid noise: groups of three and more that the reference leaves out go on moving by about {tau:.2g}, with "
            "a mean near 0: Antithetic noise silences them"
        )
    return notes


def _sizes(problem: Problem, reference: GroupLassoSolution) -> tuple[Tensor, Tensor]:
    """||K_g^(1/2) beta_g|| and k_g = tr C_g + omega, K_g = C_g + omega, both (G,)."""
    X, groups = problem.design.X, reference.groups
    many = len(reference.penalty)
    k = torch.zeros(many, dtype=torch.float64).index_add_(0, groups, problem.design.c)
    squares = torch.stack([(X[:, groups == g] @ reference.coef[groups == g]).square().mean() for g in range(many)])
    if reference.metric is not None:
        first = reference.metric[0]
        omega = (first.trace() - k[0]) / len(first)
        squares += omega * torch.zeros_like(k).index_add_(0, groups, reference.coef.square())
        k = k + omega
    return squares.sqrt(), k
