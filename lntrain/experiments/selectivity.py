"""Does label noise make a quadratic first layer pick the useful inputs? A regression with few of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lntrain.data.teachers import few_useful_inputs
from lntrain.experiments import arms
from lntrain.experiments.arms import Arm, Study
from lntrain.experiments.arms_board import pm, spread, table
from lntrain.experiments.study import noise_in, seeds_of, steps_of
from lntrain.models.networks import seeded
from lntrain.models.quadratic import quadratic
from lntrain.models.replicas import Replicas, Rows, squared_loss
from lntrain.noise.labels import NoNoise
from lntrain.runs.history import Curves

METRICS = {
    "selectivity": "selectivity of the first layer",
    "test_error": "test error / variance of y",
    "train_error": "training error / variance of y",
}


def selectivity(weight: Tensor, useful: int) -> float:
    """Mean norm of the columns of the useful inputs over that of the others; weight (out, d), the useful first.

    >>> selectivity(torch.tensor([[3.0, 1.0, 1.0]]), 1)
    3.0
    """
    norms = weight.detach().norm(dim=0)
    return float(norms[:useful].mean() / norms[useful:].mean())


def network(cfg: DictConfig, seed: int, *, layer: str) -> nn.Module:
    """Two layers with ReLU between; the first is plain, or quadratic from the same weights."""
    options = cfg.selectivity
    net = seeded(
        lambda: nn.Sequential(nn.Linear(options.d, options.width), nn.ReLU(), nn.Linear(options.width, 1)), seed
    )
    if layer == "quadratic":
        assert isinstance(net, nn.Sequential)
        quadratic(net[0], parametrisation=options.parametrisation, init=options.init, keep=True)
    return net


def build(cfg: DictConfig) -> Study:
    """cfg -> data of each seed -> quadratic with and without label noise, and a plain layer with it."""
    options = cfg.selectivity
    if options.width < 1:
        raise ValueError(f"selectivity.width={options.width} must be at least 1")
    data = [
        few_useful_inputs(options.n + options.test, options.d, options.useful, teacher=options.teacher, seed=seed)
        for seed in seeds_of(cfg)
    ]
    X, y = (torch.stack(part) for part in zip(*data, strict=True))
    rows = Rows(X[:, : options.n], y[:, : options.n], own=True)
    X_test, y_test = X[:, options.n :], y[:, options.n :]
    noise = noise_in(cfg)

    def measure(_: Arm, networks: Replicas) -> dict[str, list[float]]:
        with torch.no_grad():
            test = (networks(X_test) - y_test).square().mean((1, 2)) / y_test.var((1, 2))
            train = (networks(rows.inputs) - rows.targets).square().mean((1, 2)) / rows.targets.var((1, 2))
        first = [networks.replica(r).get_submodule("0").weight for r in range(len(networks))]
        return {
            "selectivity": [selectivity(weight, options.useful) for weight in first],  # type: ignore[arg-type]
            "test_error": test.tolist(),
            "train_error": train.tolist(),
        }

    trained = [
        Arm("quadratic + label noise", partial(network, cfg, layer="quadratic"), rows, noise, cfg.batch_size),
        Arm("quadratic, SGD", partial(network, cfg, layer="quadratic"), rows, NoNoise(), cfg.batch_size),
        Arm("nn.Linear + label noise", partial(network, cfg, layer="plain"), rows, noise, cfg.batch_size),
    ]
    said = (
        f"problem   {options.useful} useful inputs of {options.d}, {options.n} rows, "
        f"{f'{options.teacher} ReLU units' if options.teacher else 'linear'}\n"
        f"runs      {len(trained)} arms of {len(data)} seeds, {cfg.steps} steps, lr={cfg.optimizer.lr}, "
        f"std={cfg.noise.std}, batches of {cfg.batch_size}"
    )
    criterion = partial(squared_loss, scale=cfg.loss_constant)
    return Study(said, trained, criterion, measure, partial(_table, steps_of(cfg)), partial(_draw, cfg))


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train the arms on every seed; the table and the figure of selectivity and errors; returns the summary."""
    return arms.run(cfg, folder, build(cfg), resume=resume)


def _table(steps: int, curves: Curves) -> tuple[str, dict[str, Any]]:
    lines: list[list[str]] = []
    results: dict[str, Any] = {}
    for arm in curves.named:
        values = {metric: curves.at(arm, metric, steps) for metric in METRICS}
        lines.append([arm, *(pm(values[metric]) for metric in METRICS)])
        for metric, numbers in values.items():
            results |= dict(zip((f"final_{metric} {arm}", f"final_{metric}_sd {arm}"), spread(numbers), strict=True))
    first, second = (curves.at(arm, "selectivity", steps) for arm in list(curves.named)[:2])
    results["final_selectivity_ratio"] = spread(first / second)[0]
    text = table(["", *METRICS.values()], lines)
    return f"{text}\n\nselectivity with label noise over that of SGD, seed by seed: {pm(first / second)}", results


def _draw(cfg: DictConfig, curves: Curves) -> dict[str, Any]:
    from lntrain.experiments import figures

    panels = []
    for metric, label in METRICS.items():
        shown = {arm: (row["step"], row[metric]) for arm, row in curves.named.items()}
        panels.append(figures.Panel(label, shown, log=metric == "train_error"))
    options, seeds = cfg.selectivity, len(seeds_of(cfg))
    title = f"{options.useful} useful inputs of {options.d}, {seeds} seeds: mean and standard deviation"
    return {"selectivity": figures.arms(panels, title=title)}
