"""A matrix of low rank from few measurements: label noise against gradient descent from the same start."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from lntrain.data.teachers import sensing_problem
from lntrain.experiments import arms
from lntrain.experiments.arms import Arm, Study
from lntrain.experiments.arms_board import pm, spread, table
from lntrain.experiments.gallery.run import ends, judged
from lntrain.experiments.study import anneal_start, listed, noise_in, seeds_of, steps_of
from lntrain.models.networks import MatrixSensing
from lntrain.models.replicas import Replicas, Rows, squared_loss
from lntrain.noise.labels import NoNoise
from lntrain.runs.history import Curves

NOISE, GD, SMALL = "label noise", "GD, the same start", "GD, a small start"


def build(cfg: DictConfig) -> Study:
    """cfg -> for each number of measurements: label noise, GD from the same start, and GD from a small one."""
    options, seeds = cfg.matrix_sensing, seeds_of(cfg)
    symmetric = options.parametrisation == "difference"
    sizes, noise = listed(cfg, "matrix_sensing.measurements"), noise_in(cfg)
    truth = torch.stack([sensing_problem(options.d, options.rank, 1, symmetric=symmetric, seed=s)[2] for s in seeds])

    def network(seed: int, *, init: float) -> nn.Module:
        return MatrixSensing(options.d, parametrisation=options.parametrisation, init=init, seed=seed)

    trained = []
    for m in sizes:
        data = [sensing_problem(options.d, options.rank, m, symmetric=symmetric, seed=seed) for seed in seeds]
        rows = Rows(torch.stack([A for A, _, _ in data]), torch.stack([y for _, y, _ in data]), own=True)
        start = partial(network, init=options.init)
        small = partial(network, init=options.small_init)
        trained += [
            Arm(f"{NOISE}, m={m}", start, rows, noise, cfg.batch_size),
            Arm(f"{GD}, m={m}", start, rows, NoNoise(), None),
            Arm(f"{SMALL}, m={m}", small, rows, NoNoise(), None),
        ]

    def measure(arm: Arm, networks: Replicas) -> dict[str, list[float]]:
        with torch.no_grad():
            train = (networks(arm.rows.inputs) - arm.rows.targets).square().mean(1)
            found = torch.stack([networks.replica(r).matrix for r in range(len(networks))])  # type: ignore[misc]
        error = (found - truth).norm(dim=(1, 2)) / truth.norm(dim=(1, 2))
        return {"error": error.tolist(), "train_error": train.tolist()}

    d, (freedom, whole) = options.d, _freedom(cfg)
    said = (
        f"problem   a {d} x {d} matrix of rank {options.rank}: "
        f"{freedom} free numbers of {whole}; {list(options.measurements)} measurements\n"
        f"runs      {len(trained)} arms of {len(seeds)} seeds, {cfg.steps} steps, "
        f"lr={cfg.optimizer.lr}, std={cfg.noise.std}"
    )
    criterion = partial(squared_loss, scale=cfg.loss_constant)
    return Study(said, trained, criterion, measure, partial(_table, cfg), partial(_draw, cfg))


def _freedom(cfg: DictConfig) -> tuple[int, int]:
    """The degrees of freedom of a matrix of the given rank, and of any matrix."""
    options = cfg.matrix_sensing
    d, rank = options.d, options.rank
    if options.parametrisation == "difference":
        return rank * (2 * d - rank + 1) // 2, d * (d + 1) // 2
    return rank * (2 * d - rank), d * d


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train the arms on every seed; test error against the measurements and over time; returns the summary."""
    return arms.run(cfg, folder, build(cfg), resume=resume)


def _final(cfg: DictConfig, curves: Curves) -> dict[str, list[Any]]:
    """Algorithm -> the error at the end, one row per number of measurements."""
    sizes, steps = cfg.matrix_sensing.measurements, steps_of(cfg)
    return {name: [curves.at(f"{name}, m={m}", "error", steps) for m in sizes] for name in (NOISE, GD, SMALL)}


def _table(cfg: DictConfig, curves: Curves) -> tuple[str, dict[str, Any]]:
    sizes, final, (freedom, whole) = list(cfg.matrix_sensing.measurements), _final(cfg, curves), _freedom(cfg)
    lines = [[str(m), *(pm(final[name][i]) for name in final)] for i, m in enumerate(sizes)]
    note = f"relative error of the matrix, mean ± standard deviation; {freedom} free numbers, {whole} without the rank"
    results: dict[str, Any] = {}
    for name, values in final.items():
        for m, numbers in zip(sizes, values, strict=True):
            keys = f"final_error {name}, m={m}", f"final_error_sd {name}, m={m}"
            results |= dict(zip(keys, spread(numbers), strict=True))
    results |= judged(cfg, ends(curves.named))
    return f"{table(['measurements', *final], lines)}\n\n{note}", results


def _draw(cfg: DictConfig, curves: Curves) -> dict[str, Any]:
    """The error at the end against the measurements, and over time at the middle number of them."""
    from lntrain.experiments import figures

    options, label, start = cfg.matrix_sensing, "relative error of the matrix", anneal_start(cfg)
    sizes, final = list(options.measurements), _final(cfg, curves)
    shown = sizes[len(sizes) // 2]
    rows = {name: curves.of(f"{name}, m={shown}") for name in final}
    panels = [
        figures.Panel(
            f"{label}, at the end",
            {name: (sizes, values) for name, values in final.items()},
            log=True,
            xlabel="measurements",
            logx=False,
            mark=_freedom(cfg)[0],
            mark_label="free numbers of the matrix",
        ),
        figures.Panel(
            f"{label}, {shown} measurements",
            {name: (row["step"], row["error"]) for name, row in rows.items()},
            log=True,
            mark=start if start < steps_of(cfg) else None,
        ),
    ]
    matrix = f"Rank {options.rank} of a {options.d} x {options.d} matrix"
    title = f"{matrix}, {len(seeds_of(cfg))} seeds: mean and standard deviation"
    return {"matrix_sensing": figures.arms(panels, title=title)}
