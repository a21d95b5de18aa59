"""Classes with label noise against the same expected objective without it: is the minimum flatter, and as accurate?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional

from lntrain.data.images import Images
from lntrain.experiments import arms, classifiers
from lntrain.experiments.arms import Arm, Study
from lntrain.experiments.arms_board import pm, spread, table
from lntrain.experiments.gallery.run import ends, judged
from lntrain.experiments.study import anneal_start, criterion_of, noise_in, seeds_of, steps_of
from lntrain.models.replicas import Criterion, Replicas, Rows
from lntrain.noise.labels import LabelFlips, NoNoise
from lntrain.runs.history import Curves
from lntrain.sharpness.expected import expected_targets

NOISE, CONTROL = "label noise", "control, the same expected loss"
METRICS = {
    "trace": "trace of the Hessian of the expected loss",
    "accuracy": "test accuracy",
    "objective": "expected training loss above its least",
}


def build(cfg: DictConfig) -> Study:
    """cfg -> images, noise -> two arms that differ in the noise alone."""
    if cfg.data is None or cfg.network is None:
        raise ValueError("task=classification needs data=... and network=...: e.g. experiment=digits")
    if cfg.classification.chunk < 1:
        raise ValueError(f"classification.chunk={cfg.classification.chunk} must be at least 1")
    images: Images = instantiate(cfg.data, _convert_="all")
    noise, criterion = noise_in(cfg, images.num_classes), criterion_of(cfg)
    one_hot = functional.one_hot(images.y, images.num_classes).to(images.X.dtype)
    expected = expected_targets(one_hot, noise)
    classes = isinstance(noise, LabelFlips) and criterion is functional.cross_entropy  # the same draws, faster

    def network(seed: int) -> Any:
        made = instantiate(cfg.network, _partial_=True, _convert_="all")
        return made(in_shape=images.in_shape, num_classes=images.num_classes, seed=seed)

    pair = [
        Arm(NOISE, network, Rows(images.X, images.y if classes else one_hot), noise, cfg.batch_size),
        Arm(CONTROL, network, Rows(images.X, expected, one_hot), NoNoise(), cfg.batch_size),
    ]
    seeds = len(seeds_of(cfg))
    said = (
        f"data      {images.name}: {images.n} images of {images.in_shape}, {len(images.X_test)} held out\n"
        f"noise     {noise}; the control trains on its mean\n"
        f"runs      2 arms of {seeds} seeds, {cfg.steps} steps, lr={cfg.optimizer.lr}, batches of {cfg.batch_size}"
    )
    title = f"{images.name}, {type(noise).__name__}, {seeds} seeds: mean and standard deviation"
    measure = _measure(cfg, images, expected, criterion)
    return Study(said, pair, criterion, measure, partial(_table, cfg), partial(_draw, cfg, title))


def _measure(
    cfg: DictConfig, images: Images, expected: Tensor, criterion: Criterion
) -> Callable[[Arm, Replicas], dict[str, list[float]]]:
    draws, chunk = cfg.classification.trace_draws, cfg.classification.chunk
    best = expected.log() if criterion is functional.cross_entropy else expected
    least = float(criterion(best.clamp_min(-1e4), expected))

    def measure(_: Arm, networks: Replicas) -> dict[str, list[float]]:
        found = classifiers.measure(networks, images, expected, criterion, draws=draws, seed=cfg.seed, chunk=chunk)
        objective = [loss - least for loss in found["loss"]]
        return {"trace": found["trace"], "accuracy": found["accuracy"], "objective": objective}

    return measure


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train both arms on every seed; the table and the figure of trace, accuracy and loss; returns the summary."""
    return arms.run(cfg, folder, build(cfg), resume=resume)


def _table(cfg: DictConfig, curves: Curves) -> tuple[str, dict[str, Any]]:
    """Each metric at constant noise and lr, and at the end."""
    lines: list[list[str]] = []
    results: dict[str, Any] = {}
    for metric, label in METRICS.items():
        for state, step in {"constant": anneal_start(cfg), "annealed": steps_of(cfg)}.items():
            noisy, control = (curves.at(arm, metric, step) for arm in (NOISE, CONTROL))
            lines.append([label, state, pm(noisy), pm(control), pm(control / noisy)])
            for name, values in (("noise", noisy), ("control", control)):
                key = f"final_{metric}_{state}_{name}"
                results[key], results[f"{key}_sd"] = spread(values)
    results |= judged(cfg, ends(curves.named))
    return table(["", "noise and lr", "label noise", "control", "control / label noise"], lines), results


def _draw(cfg: DictConfig, title: str, curves: Curves) -> dict[str, Any]:
    from lntrain.experiments import figures

    start = anneal_start(cfg)
    panels = []
    for metric, label in METRICS.items():
        shown = {arm: (row["step"], np.array(row[metric])) for arm, row in curves.named.items()}
        if metric == "accuracy":
            label, shown = "test error", {arm: (x, 1 - y) for arm, (x, y) in shown.items()}
        panels.append(figures.Panel(label, shown, log=True, mark=start if start < steps_of(cfg) else None))
    return {"classification": figures.arms(panels, title=title)}
