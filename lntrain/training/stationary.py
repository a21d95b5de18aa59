"""A run's figures against the stationary points of a penalty |beta|^q, q < 1, of which there are many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lntrain.data.problem import Problem
from lntrain.lasso.concave import Power, StationaryPoint, stationary_point
from lntrain.theory.prediction import Prediction


def stationary_figures(
    problem: Problem, prediction: Prediction, judged: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(near, compensated, figures): the points (R, d) nearest to `judged` (R, d) under the penalty that acts there.

    compensated: those for labels y + noise, at which penalty_ratio and kkt_residual are taken. NaN where no point is
    certified: far from where the theory holds the penalty may be lost in rounding.
    """
    X, y, n = problem.design.array, problem.y.detach().cpu().double(), problem.n
    points, compensated, balance, least = list[Tensor](), list[Tensor](), list[Tensor](), list[float]()
    for mean, shift in zip(judged, noise, strict=True):
        powers = prediction.powers_at(mean)
        start = torch.where(prediction.hovers(mean), 0.0, mean)
        options = {"start": start, "positive": bool(getattr(prediction.reference, "positive", False))}
        near, own = (_nearest(X, z, powers, options) for z in (y, y + shift))
        points.append(near.coef)
        compensated.append(own.coef)
        least.append(float(own.minimum))
        gradient = torch.from_numpy(X.T @ (X @ mean.numpy() - (y + shift).numpy())) / n
        slope = torch.stack([power.slope(mean) for power in powers]).sum(0)
        balance.append(torch.where(own.support, -torch.sign(mean) * gradient / slope, torch.nan))
    ratio = torch.stack(balance)
    figures = {
        "kkt_residual": (ratio - 1).abs().nan_to_num(0.0).amax(-1),
        "penalty_ratio": ratio.nanmean(-1).nan_to_num(0.0),
        "support_size": (~ratio.isnan()).sum(-1).double(),
        "at_minimum": torch.tensor(least, dtype=torch.float64),
    }
    lost = torch.stack(compensated).isnan().any(-1)
    figures = {name: torch.where(lost, torch.nan, figure) for name, figure in figures.items()}
    return torch.stack(points), torch.stack(compensated), figures


def _nearest(X: Any, y: Tensor, powers: tuple[Power, ...], options: dict[str, Any]) -> StationaryPoint:
    first, *terms = powers
    try:
        return stationary_point(X, y, first.weights, first.exponent, terms=terms, nearest=True, **options)
    except RuntimeError:  # no certificate: a run's figures must not stop the run
        nothing = torch.full_like(first.weights, torch.nan)
        return StationaryPoint(nothing, torch.nan, torch.nan, torch.nan, powers)
