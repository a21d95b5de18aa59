"""A matrix of low rank from few measurements: label noise against gradient descent from the same start."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

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
from lntrain.models.networks import MatrixSensing
from lntrain.models.replicas import Replicas, Rows
from lntrain.noise.labels import Noise, NoNoise

NOISE, GD, SMALL = "label noise", "GD, the same start", "GD, a small start"


def sensing_problem(
    d: int, rank: int, m: int, *, symmetric: bool = True, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """y_i = <A_i, W>, W of the given rank with singular values 1, A_i of Gaussian numbers.

    Args:
        d, rank, m: W is (d, d), its rank, the number of measurements.
        symmetric: W = Q S Q^T with signs S, and A = (G + G^T)/2; else W = Q P^T, and A = G. seed: of the data.

    Returns:
        A (m, d, d), y (m,), W (d, d), float64. A larger m begins with the measurements of a smaller one.

    Raises:
        ValueError: not 1 <= rank <= d, or m below 1.

    >>> A, y, W = sensing_problem(4, 2, 5)
    >>> int(torch.linalg.matrix_rank(W)), bool(torch.allclose((A * W).sum((1, 2)), y))
    (2, True)
    """
    if not 1 <= rank <= d or m < 1:
        raise ValueError(f"matrix_sensing: rank={rank} must lie in 1..d={d}, and measurements={m} be at least 1")
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    Q, P = (np.linalg.qr(rng.standard_normal((d, rank)))[0] for _ in range(2))
    signs = np.where(np.arange(rank) % 2 == 0, 1.0, -1.0)
    W = (Q * signs) @ Q.T if symmetric else Q @ P.T
    G = np.random.Generator(np.random.Philox(key=[seed, 1])).standard_normal((m, d, d))
    A = (G + G.transpose(0, 2, 1)) / 2 if symmetric else G
    return torch.from_numpy(A), torch.from_numpy((A * W).sum((1, 2))), torch.from_numpy(W)


def build(cfg: DictConfig) -> Study:
    """cfg -> for each number of measurements: label noise, GD from the same start, and GD from a small one."""
    options, seeds = cfg.matrix_sensing, seeds_of(cfg)
    symmetric = options.parametrisation == "difference"
    noise: Noise = noise_in(cfg)()  # type: ignore[operator]
    truth = torch.stack([sensing_problem(options.d, options.rank, 1, symmetric=symmetric, seed=s)[2] for s in seeds])

    def network(seed: int, *, init: float) -> nn.Module:
        return MatrixSensing(options.d, parametrisation=options.parametrisation, init=init, seed=seed)

    arms = []
    for m in options.measurements:
        data = [sensing_problem(options.d, options.rank, m, symmetric=symmetric, seed=seed) for seed in seeds]
        rows = Rows(torch.stack([A for A, _, _ in data]), torch.stack([y for _, y, _ in data]), own=True)
        start = partial(network, init=options.init)
        small = partial(network, init=options.small_init)
        arms += [
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

    return Study(arms, partial(squared_loss, scale=cfg.loss_scale), measure)


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train the arms on every seed; test error against the measurements and over time; returns the summary."""
    cfg = cfg.copy()
    options, study = cfg.matrix_sensing, build(cfg)
    d, rank, sizes = options.d, options.rank, list(options.measurements)
    freedom = rank * (2 * d - rank + 1) // 2 if options.parametrisation == "difference" else rank * (2 * d - rank)
    whole = d * (d + 1) // 2 if options.parametrisation == "difference" else d * d
    print(
        f"problem   a {d} x {d} matrix of rank {rank}: {freedom} free numbers of {whole}; {sizes} measurements\n"
        f"runs      {len(study.arms)} arms of {len(seeds_of(cfg))} seeds, {cfg.steps} steps, lr={cfg.optimizer.lr}, std={cfg.noise.std}",
        flush=True,
    )
    history, seconds = run_arms(cfg, folder, study, resume=resume)
    final = {name: [at(history, f"{name}, m={m}", "error", cfg.steps) for m in sizes] for name in (NOISE, GD, SMALL)}
    lines = [[str(m), *(pm(final[name][i]) for name in final)] for i, m in enumerate(sizes)]
    text = table(["measurements", *final], lines)
    text += (
        f"\n\nrelative error of the matrix, mean ± standard deviation; {freedom} free numbers, {whole} without the rank"
    )
    results: dict[str, Any] = {}
    for name, values in final.items():
        for m, numbers in zip(sizes, values, strict=True):
            keys = f"final_error {name}, m={m}", f"final_error_sd {name}, m={m}"
            results |= dict(zip(keys, spread(numbers), strict=True))
    title = f"Rank {rank} of a {d} x {d} matrix, {len(seeds_of(cfg))} seeds: mean and standard deviation"
    figure = figures.arms(_panels(cfg, history, final, freedom), title=title)
    return finish(cfg, folder, history, seconds, {"matrix_sensing": figure}, text, results)


def _panels(cfg: DictConfig, history: History, final: dict[str, Any], freedom: int) -> list[figures.Panel]:
    """The error at the end against the measurements, and over time at the middle number of them."""
    sizes, label, start = list(cfg.matrix_sensing.measurements), "relative error of the matrix", anneal_start(cfg)
    shown = sizes[len(sizes) // 2]
    rows = {name: history[f"{name}, m={shown}"] for name in final}
    return [
        figures.Panel(
            f"{label}, at the end", {name: (sizes, values) for name, values in final.items()},
            log=True, xlabel="measurements", logx=False, mark=freedom, mark_label="free numbers of the matrix",
        ),
        figures.Panel(
            f"{label}, {shown} measurements", {name: (row["step"], row["error"]) for name, row in rows.items()},
            log=True, mark=start if start < cfg.steps else None,
        ),
    ]  # fmt: skip
