"""Every entry by its name."""

from __future__ import annotations

from typing import Any

from lntrain.experiments.gallery import (
    explicit,
    flows,
    initialisation,
    matrices,
    momentum,
    networks,
    paper,
    statistics,
    steps,
)

ENTRIES: dict[str, type[Any]] = {
    "figure1": paper.Figure1,
    "thresholds": paper.Thresholds,
    "haochen": paper.HaoChen,
    "woodworth": initialisation.Woodworth,
    "pesme_sgd": initialisation.EffectiveInit,
    "large_steps": steps.LargeSteps,
    "stepsize": steps.StepSize,
    "momentum_path": momentum.MomentumPath,
    "saddles": flows.Saddles,
    "lasso_flow": flows.LassoFlow,
    "early_stopping": statistics.EarlyStopping,
    "depth": explicit.Depth,
    "kl_exponent": explicit.Exponent,
    "two_penalties": explicit.TwoPenalties,
    "lp": initialisation.LinearProgram,
    "reparametrise": flows.Reparametrise,
    "collapse": matrices.Collapse,
    "rank_one": networks.RankOne,
    "rank_loss": networks.RankLoss,
    "matrix_sensing": matrices.Sensing,
    "generalisation": steps.Generalisation,
    "temperature": paper.Temperature,
}
