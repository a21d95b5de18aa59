"""A run's figures against a group lasso: by blocks, no quantity of single coefficients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lntrain.data.problem import Problem
from lntrain.lasso.groups import GroupLassoSolution, group_lasso, whiten


def block_figures(
    problem: Problem,
    solution: GroupLassoSolution,
    averages: Mapping[str, Tensor],
    fits: Mapping[str, Tensor],
    judged: Tensor,
    noise: Tensor,
) -> dict[str, Tensor]:
    """`kkt_residual` and `lambda_ratio` of blocks at `judged` (R, d), labels compensated, and each average's objective.

    kkt_residual: max_g ||K_g^(-1/2) h_g + lambda_g e_g|| / lambda_g, e_g = z_g / ||z_g||, z_g = K_g^(1/2) beta_g, on
    the reference's groups; off them how far ||K_g^(-1/2) h_g|| exceeds lambda_g. lambda_ratio: mean over the
    reference's groups of -e_g.K_g^(-1/2) h_g / lambda_g.
    """
    X, y = problem.design.X, problem.y.detach().cpu().double()
    blocks = whiten(X.numpy(), solution.groups.numpy(), solution.metric)
    h, worst, ratios = (judged @ X.mT - y - noise) @ X / len(y), [], []
    sizes = {name: torch.zeros(len(fit), dtype=torch.float64) for name, fit in fits.items() if name}
    for g, (to, back) in enumerate(zip(blocks.to, blocks.back, strict=True)):
        own, lam = solution.groups == g, float(solution.penalty[g])
        slope, z = h[:, own] @ torch.from_numpy(back), judged[:, own] @ torch.from_numpy(to).mT
        unit = torch.nn.functional.normalize(z, dim=-1, eps=torch.finfo(torch.float64).tiny)
        if solution.active[g]:
            worst.append((slope + lam * unit).norm(dim=-1) / lam)
            ratios.append(-(slope * unit).sum(-1) / lam)
        else:
            worst.append((slope.norm(dim=-1) / lam - 1).clamp_min(0))
        for name, size in sizes.items():
            size += lam * (averages[name][:, own] @ torch.from_numpy(to).mT).norm(dim=-1)
    figures = {"kkt_residual": torch.stack(worst).amax(0)}
    if ratios:
        figures["lambda_ratio"] = torch.stack(ratios).mean(0)
    best = solution.objective or 1.0
    for name, size in sizes.items():
        objective = (y - fits[name]).square().sum(-1) / (2 * len(y)) + size
        figures[f"suboptimality_{name}"] = (objective - solution.objective) / best
    return figures


def relabelled_groups(problem: Problem, solution: GroupLassoSolution, changes: Tensor) -> Tensor:
    """(R, d) the group lasso for labels y + change, for each of changes (R, n)."""
    X, y = problem.design.array, problem.y.detach().cpu().double()
    moved = [change for change in changes if bool(change.any())]
    solved = [
        group_lasso(X, y + change, solution.penalty, solution.groups, metric=solution.metric, start=solution.coef).coef
        for change in moved
    ]
    coef = solution.coef.expand(len(changes), -1).clone()
    coef[changes.any(-1)] = torch.stack(solved) if solved else coef[:0]
    return coef
