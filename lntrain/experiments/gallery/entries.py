"""Every entry by its name."""

from __future__ import annotations

from typing import Any

from lntrain.experiments.gallery import (
    explicit,
    flows,
    images,
    initialisation,
    least_squares,
    matrices,
    momentum,
    networks,
    optimisers,
    paper,
    paths,
    perceptron,
    sequence,
    statistics,
    steps,
)

ENTRIES: dict[str, type[Any]] = {
    "figure1": paper.Figure1,
    "path": paths.LassoPath,
    "thresholds": paper.Thresholds,
    "haochen": paper.HaoChen,
    "woodworth": initialisation.Woodworth,
    "pesme_sgd": initialisation.EffectiveInit,
    "large_steps": steps.LargeSteps,
    "stepsize": steps.StepSize,
    "momentum_path": momentum.MomentumPath,
    "momentum_speed": momentum.MomentumSpeed,
    "saddles": flows.Saddles,
    "lasso_flow": flows.LassoFlow,
    "samples": statistics.Samples,
    "early_stopping": statistics.EarlyStopping,
    "depth": explicit.Depth,
    "kl_exponent": explicit.Exponent,
    "two_penalties": explicit.TwoPenalties,
    "weight_decay": images.WeightDecay,
    "lp": initialisation.LinearProgram,
    "reparametrise": flows.Reparametrise,
    "smoothed_sign": optimisers.SmoothedSign,
    "collapse": matrices.Collapse,
    "sde": least_squares.StochasticEquation,
    "rank_one": networks.RankOne,
    "rank_loss": networks.RankLoss,
    "matrix_sensing": matrices.Sensing,
    "generalisation": steps.Generalisation,
    "flatness": images.Flatness,
    "digits": images.Digits,
    "temperature": paper.Temperature,
    "real_path": paths.LassoPath,
    "adaptivity": sequence.Adaptivity,
    "batch_regimes": perceptron.BatchRegimes,
}
