"""Classes with label noise against the same expected objective without it: is the minimum flatter, and as accurate?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional

from lntrain.data.images import Images
from lntrain.experiments import figures
from lntrain.experiments.arms import (
    Arm,
    History,
    Study,
    anneal_start,
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
from lntrain.models.replicas import Criterion, Replicas, Rows
from lntrain.noise.labels import LabelFlips, Noise, NoNoise
from lntrain.sharpness.measures import hessian_trace, label_smoothing

NOISE, CONTROL = "label noise", "control, the same expected loss"
METRICS = {
    "trace": "trace of the Hessian of the expected loss",
    "accuracy": "test accuracy",
    "objective": "expected training loss above its least",
}


def expected_targets(one_hot: Tensor, noise: Noise) -> Tensor:
    """The mean of the noisy one-hot rows: label-smoothed for flips, the rows themselves for noise of mean 0.

    Both losses are, in the target, linear or linear plus a square that training does not move: with these
    rows they are the expected loss of the noisy ones, up to a constant.

    >>> expected_targets(torch.tensor([[1.0, 0.0, 0.0]]), LabelFlips(0.5, 3)).tolist()
    [[0.5, 0.25, 0.25]]

    Source: theory.md section 6.
    """
    if not isinstance(noise, LabelFlips):
        return one_hot
    K = one_hot.shape[-1]
    eps = label_smoothing(noise.p, K, include_true=noise.include_true)
    return (1 - eps) * one_hot + eps / K


def criterion_of(cfg: DictConfig) -> Criterion:
    """(output, target rows) -> mean loss."""
    choices: dict[str, Criterion] = {
        "cross_entropy": functional.cross_entropy,
        "squared": partial(squared_loss, scale=cfg.loss_scale),
    }
    name = cfg.classification.loss
    if name not in choices:
        raise ValueError(f"classification.loss={name!r} is unknown: choose one of {', '.join(choices)}")
    return choices[name]


def build(cfg: DictConfig) -> tuple[Study, Images, Noise]:
    """cfg -> images, noise -> two arms that differ in the noise alone."""
    if cfg.data is None or cfg.network is None:
        raise ValueError("task=classification needs data=... and network=...: e.g. experiment=digits")
    images: Images = instantiate(cfg.data, _convert_="all")
    given, criterion = noise_in(cfg), criterion_of(cfg)
    options = {"num_classes": images.num_classes} if str(cfg.noise._target_).endswith(LabelFlips.__name__) else {}
    noise = given(**options)  # type: ignore[operator]
    one_hot = functional.one_hot(images.y, images.num_classes).to(images.X.dtype)
    expected = expected_targets(one_hot, noise)
    classes = isinstance(noise, LabelFlips) and criterion is functional.cross_entropy  # the same draws, faster

    def network(seed: int) -> Any:
        made = instantiate(cfg.network, _partial_=True, _convert_="all")
        return made(in_shape=images.in_shape, num_classes=images.num_classes, seed=seed)

    arms = [
        Arm(NOISE, network, Rows(images.X, images.y if classes else one_hot), noise, cfg.batch_size),
        Arm(CONTROL, network, Rows(images.X, expected, one_hot), NoNoise(), cfg.batch_size),
    ]
    return Study(arms, criterion, _measure(cfg, images, expected, criterion)), images, noise


def _measure(
    cfg: DictConfig, images: Images, expected: Tensor, criterion: Criterion
) -> Callable[[Arm, Replicas], dict[str, list[float]]]:
    draws, chunk = cfg.classification.trace_draws, cfg.classification.chunk
    best = expected.log() if criterion is functional.cross_entropy else expected
    least = float(criterion(best.clamp_min(-1e4), expected))

    def measure(_: Arm, networks: Replicas) -> dict[str, list[float]]:
        values: dict[str, list[float]] = {name: [] for name in METRICS}
        for r in range(len(networks)):
            net = networks.replica(r).eval()
            with torch.no_grad():
                outputs = torch.cat([net(part) for part in torch.split(images.X, chunk)])
                guesses = torch.cat([net(part).argmax(-1) for part in torch.split(images.X_test, chunk)])
            values["objective"].append(float(criterion(outputs, expected)) - least)
            values["accuracy"].append(float((guesses == images.y_test).double().mean()))
            trace = hessian_trace(net, criterion, images.X, expected, draws=draws, seed=cfg.seed, chunk=chunk)
            values["trace"].append(trace.value)
        return values

    return measure


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train both arms on every seed; the table and the figure of trace, accuracy and loss; returns the summary."""
    cfg = cfg.copy()
    study, images, noise = build(cfg)
    print(
        f"data      {images.name}: {images.n} images of {images.in_shape}, {len(images.X_test)} held out\n"
        f"noise     {noise}; the control trains on its mean\n"
        f"runs      2 arms of {len(seeds_of(cfg))} seeds, {cfg.steps} steps, lr={cfg.optimizer.lr}, batches of {cfg.batch_size}",
        flush=True,
    )
    history, seconds = run_arms(cfg, folder, study, resume=resume)
    text, results = _table(cfg, history)
    title = f"{images.name}, {type(noise).__name__}, {len(seeds_of(cfg))} seeds: mean and standard deviation"
    figure = figures.arms(_panels(cfg, history), title=title)
    return finish(cfg, folder, history, seconds, {"classification": figure}, text, results)


def _table(cfg: DictConfig, history: History) -> tuple[str, dict[str, Any]]:
    """Each metric at constant noise and lr, and at the end."""
    lines: list[list[str]] = []
    results: dict[str, Any] = {}
    for metric, label in METRICS.items():
        for state, step in {"constant": anneal_start(cfg), "annealed": cfg.steps}.items():
            noisy, control = (at(history, arm, metric, step) for arm in (NOISE, CONTROL))
            lines.append([label, state, pm(noisy), pm(control), pm(control / noisy)])
            for name, values in (("noise", noisy), ("control", control)):
                key = f"final_{metric}_{state}_{name}"
                results[key], results[f"{key}_sd"] = spread(values)
    return table(["", "noise and lr", "label noise", "control", "control / label noise"], lines), results


def _panels(cfg: DictConfig, history: History) -> list[figures.Panel]:
    start = anneal_start(cfg)
    mark = start if start < cfg.steps else None
    panels = []
    for metric, label in METRICS.items():
        curves = {arm: (row["step"], np.array(row[metric])) for arm, row in history.items()}
        if metric == "accuracy":
            label, curves = "test error", {arm: (x, 1 - y) for arm, (x, y) in curves.items()}
        panels.append(figures.Panel(label, curves, log=True, mark=mark))
    return panels
