"""Does label noise make a quadratic first layer pick the useful inputs? A regression with few of them."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn

from lntrain.experiments import figures
from lntrain.experiments.arms import (
    Arm,
    Study,
    at,
    finish,
    noise_in,
    pm,
    run_arms,
    seeds_of,
    spread,
    squared_loss,
    table,
)
from lntrain.models.networks import seeded
from lntrain.models.quadratic import quadratic
from lntrain.models.replicas import Replicas, Rows
from lntrain.noise.labels import Noise, NoNoise

METRICS = {
    "selectivity": "selectivity of the first layer",
    "test_error": "test error / variance of y",
    "train_error": "training error / variance of y",
}


def few_useful_inputs(n: int, d: int, useful: int, *, teacher: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """X iid N(0, 1) and y = sum_j a_j relu(w_j . x_S), or with teacher=0 a sum of +/- x_S; y has mean 0 and variance 1.

    Args:
        n, d, useful: rows, inputs, inputs that matter (S, the first ones). teacher: number of w_j.
        seed: of the rows and of the teacher.

    Returns:
        X (n, d) and y (n, 1), float32. A larger n begins with the rows of a smaller one.

    Raises:
        ValueError: not 1 <= useful < d, n below 1, or teacher below 0.

    >>> X, y = few_useful_inputs(4, 6, 2)
    >>> X.shape, y.shape
    (torch.Size([4, 6]), torch.Size([4, 1]))
    """
    if not 1 <= useful < d or n < 1 or teacher < 0:
        raise ValueError(
            f"selectivity: useful={useful} must lie in 1..d-1 with d={d}, n={n} be at least 1, teacher={teacher} at least 0"
        )
    X = np.random.Generator(np.random.Philox(key=[seed, 0])).standard_normal((n, d))
    y = _linear(X[:, :useful]) if teacher == 0 else _relu(X[:, :useful], teacher, seed)
    return torch.from_numpy(X).float(), torch.from_numpy(y[:, None]).float()


def _signs(count: int) -> NDArray[np.float64]:
    return np.where(np.arange(count) % 2 == 0, 1.0, -1.0)


def _linear(X: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(X @ _signs(X.shape[1]) / math.sqrt(X.shape[1]))


def _relu(X: NDArray[np.float64], units: int, seed: int) -> NDArray[np.float64]:
    W = np.random.Generator(np.random.Philox(key=[seed, 1])).standard_normal((units, X.shape[1]))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    a = _signs(units)
    # E relu(s) relu(t) of unit normals with correlation r is (sqrt(1 - r^2) + r (pi - acos r)) / 2 pi
    r = np.clip(W @ W.T, -1, 1)
    covariance = (np.sqrt(1 - r**2) + r * (np.pi - np.arccos(r))) / (2 * np.pi) - 1 / (2 * np.pi)
    mean = a.sum() / math.sqrt(2 * np.pi)
    return np.asarray((np.maximum(X @ W.T, 0) @ a - mean) / math.sqrt(a @ covariance @ a))


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
    data = [
        few_useful_inputs(options.n + options.test, options.d, options.useful, teacher=options.teacher, seed=seed)
        for seed in seeds_of(cfg)
    ]
    X, y = (torch.stack(part) for part in zip(*data, strict=True))
    rows = Rows(X[:, : options.n], y[:, : options.n], own=True)
    X_test, y_test = X[:, options.n :], y[:, options.n :]
    noise: Noise = noise_in(cfg)()  # type: ignore[operator]

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

    arms = [
        Arm("quadratic + label noise", partial(network, cfg, layer="quadratic"), rows, noise, cfg.batch_size),
        Arm("quadratic, SGD", partial(network, cfg, layer="quadratic"), rows, NoNoise(), cfg.batch_size),
        Arm("nn.Linear + label noise", partial(network, cfg, layer="plain"), rows, noise, cfg.batch_size),
    ]
    return Study(arms, partial(squared_loss, scale=cfg.loss_scale), measure)


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train the arms on every seed; the table and the figure of selectivity and errors; returns the summary."""
    cfg = cfg.copy()
    study, options = build(cfg), cfg.selectivity
    print(
        f"problem   {options.useful} useful inputs of {options.d}, {options.n} rows, "
        f"{f'{options.teacher} ReLU units' if options.teacher else 'linear'}\n"
        f"runs      {len(study.arms)} arms of {len(seeds_of(cfg))} seeds, {cfg.steps} steps, lr={cfg.optimizer.lr}, "
        f"std={cfg.noise.std}, batches of {cfg.batch_size}",
        flush=True,
    )
    history, seconds = run_arms(cfg, folder, study, resume=resume)
    lines: list[list[str]] = []
    results: dict[str, Any] = {}
    for arm in history:
        values = {metric: at(history, arm, metric, cfg.steps) for metric in METRICS}
        lines.append([arm, *(pm(values[metric]) for metric in METRICS)])
        for metric, numbers in values.items():
            results |= dict(zip((f"final_{metric} {arm}", f"final_{metric}_sd {arm}"), spread(numbers), strict=True))
    first, second = (at(history, study.arms[k].name, "selectivity", cfg.steps) for k in (0, 1))
    results["final_selectivity_ratio"] = spread(first / second)[0]
    text = table(["", *METRICS.values()], lines)
    text += f"\n\nselectivity with label noise over that of SGD, seed by seed: {pm(first / second)}"
    panels = []
    for metric, label in METRICS.items():
        curves = {arm: (row["step"], row[metric]) for arm, row in history.items()}
        panels.append(figures.Panel(label, curves, log=metric == "train_error"))
    title = f"{options.useful} useful inputs of {options.d}, {len(seeds_of(cfg))} seeds: mean and standard deviation"
    figure = figures.arms(panels, title=title)
    return finish(cfg, folder, history, seconds, {"selectivity": figure}, text, results)
