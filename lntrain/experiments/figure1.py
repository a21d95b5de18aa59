"""The paper's Figure 1: GD, SGD, GD + label noise and SGD + label noise from one init."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lntrain.data.problem import Problem
from lntrain.experiments import figures
from lntrain.noise.labels import GaussianNoise
from lntrain.optim.sgd import LabelNoiseSGD
from lntrain.runs.build import DTYPES
from lntrain.runs.dashboard import Dashboard
from lntrain.runs.files import read_checkpoint, write_arrays, write_checkpoint, write_json
from lntrain.runs.watch import signals, watch
from lntrain.training.loop import Snapshot, train


@dataclass(frozen=True)
class Curve:
    """One algorithm at one noise level."""

    name: str
    std: float
    batch_size: int | None


def curves_of(cfg: DictConfig, n: int) -> list[Curve]:
    """Both noiseless algorithms, then both noisy ones at each std of cfg.figure1.stds.

    A single noisy sample a step has n times the gradient variance of the whole batch. "matched" divides its
    variance by n, as the paper's curve needs; "literal" does not.
    """
    rule = cfg.figure1.single_sample
    if rule not in ("matched", "literal"):
        raise ValueError(f'figure1.single_sample={rule!r}: choose "matched" or "literal"')
    scale = 1 / math.sqrt(n) if rule == "matched" else 1.0
    curves = [Curve("GD", 0.0, None), Curve("SGD", 0.0, 1)]
    for std in cfg.figure1.stds:
        curves += [
            Curve(f"GD + label noise, std {std:g}", std, None),
            Curve(f"SGD + label noise, std {std:g}", std * scale, 1),
        ]
    return curves


def _snapshots(cfg: DictConfig, problem: Problem, curve: Curve, state: dict[str, Any] | None) -> Iterator[Snapshot]:
    options = {"in_features": problem.d, "dtype": problem.X.dtype}
    model = instantiate(cfg.model, _partial_=True, _convert_="all")(**options)
    noise = GaussianNoise(curve.std)
    optimizer: LabelNoiseSGD = instantiate(cfg.optimizer, _partial_=True)(
        model.parameters(), noise=noise, seed=cfg.seed
    )
    return train(
        model, optimizer, problem, cfg.steps, batch_size=curve.batch_size, loss_constant=cfg.loss_scale, engine=cfg.engine, state=state
    )  # fmt: skip


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Run every curve, a checkpoint now and then; draw one figure a noise level; returns the summary."""
    if cfg.steps == "auto" or cfg.optimizer.lr == "auto" or cfg.model.dtype not in DTYPES or not cfg.model.replicas:
        raise ValueError(
            "experiment=figure1 needs numbers for steps, optimizer.lr and model.replicas, and a known model.dtype"
        )
    began = time.monotonic()
    problem: Problem = instantiate(cfg.problem, _convert_="all").to(DTYPES[cfg.model.dtype])
    if problem.coef is None:
        raise ValueError("experiment=figure1 needs a problem whose truth is known: problem=sparse")
    empty: dict[str, Any] = {"history": {"rows": {}, "seconds": 0.0}, "state": None}
    checkpoint = read_checkpoint(folder) if resume else empty
    rows: dict[str, dict[str, Any]] = checkpoint["history"]["rows"]
    earlier: float = checkpoint["history"]["seconds"]
    curves, state = curves_of(cfg, problem.n), checkpoint["state"]
    print(
        f"figure 1  {len(curves)} curves, {cfg.steps} steps, {cfg.model.replicas} replicas, lr={cfg.optimizer.lr}",
        flush=True,
    )
    for curve in curves[2:]:
        if curve.batch_size is None:
            bar = cfg.optimizer.lr * curve.std**2 / problem.n
            print(
                f"          std {curve.std:g}: variance delta={curve.std**2:.3g}, delta_bar = lr delta / n = {bar:.2g}",
                flush=True,
            )

    def save(snapshot: Snapshot | None) -> None:
        history = {"rows": rows, "seconds": earlier + time.monotonic() - began}
        current = None if snapshot is None else snapshot.state_dict()
        write_checkpoint(folder, {"config": OmegaConf.to_yaml(cfg), "state": current, "history": history})

    with signals() as asked:
        for curve in curves:
            row = rows.setdefault(curve.name, {"step": [], "error": [], "on": [], "off": [], "done": False})
            if row["done"]:
                continue
            for snapshot in watch(
                _snapshots(cfg, problem, curve, state), steps=cfg.steps, start=(row["step"] or [0])[-1],
                every=cfg.checkpoint_every, save=save, asked=asked, folder=folder, label=curve.name,
            ):  # fmt: skip
                if snapshot.scheduled and snapshot.step > (row["step"] or [0])[-1]:
                    _add(row, snapshot, problem)
            row["done"], state = True, None
            save(None)
    return _finish(cfg, folder, rows, curves, earlier + time.monotonic() - began)


def _add(row: dict[str, Any], snapshot: Snapshot, problem: Problem) -> None:
    """The last iterate's squared error and two coordinates, a value a replica."""
    assert snapshot.coef is not None
    assert problem.coef is not None
    coef, truth = snapshot.coef.double(), problem.coef.double()
    on, off = int(truth.abs().argmax()), int((truth == 0).nonzero()[0, 0])
    row["step"].append(snapshot.step)
    row["error"].append((coef - truth).square().sum(-1).tolist())
    row["on"].append(coef[:, on].tolist())
    row["off"].append(coef[:, off].tolist())


def _finish(cfg: DictConfig, folder: Path, rows: dict[str, Any], curves: list[Curve], seconds: float) -> dict[str, Any]:
    arrays = {c.name: {key: np.array(rows[c.name][key]).T for key in ("error", "on", "off")} for c in curves}
    steps = rows["GD"]["step"]
    summary: dict[str, Any] = {
        "status": "done", "steps": cfg.steps, "seconds": seconds, "seed": cfg.seed, "replicas": cfg.model.replicas,
        "steps_per_second": cfg.steps * cfg.model.replicas * len(curves) / seconds,
    }  # fmt: skip
    print(f"\n{'last iterate':<32}log10 squared error, median [lowest, highest] of {cfg.model.replicas}")
    for name, panel in arrays.items():
        last = np.log10(panel["error"][:, -1])
        summary[f"log10_error {name}"] = float(np.median(last))
        print(f"{name:<32}{np.median(last):6.2f} [{last.min():.2f}, {last.max():.2f}]")
    drawn = {}
    for std in cfg.figure1.stds:
        chosen = {name: panel for name, panel in arrays.items() if "std" not in name or name.endswith(f"std {std:g}")}
        title = f"Four algorithms from one init: label noise of standard deviation {std:g} (variance {std**2:.2g})"
        drawn[f"figure1_std_{std:g}"] = figures.figure1(steps, chosen, title=title)
    figures.save(drawn, folder / "figures")
    flat = {f"{name}/{key}": values for name, panel in arrays.items() for key, values in panel.items()}
    write_arrays(folder / "result.npz", {"steps": np.array(steps), **flat})
    write_json(folder / "summary.json", summary)
    dashboard = Dashboard(folder, layout={"Figure 1": {"squared error": ["Multiline", ["figure1_error/.*"]]}})
    for name, panel in arrays.items():
        for step, error in zip(steps, np.median(panel["error"], 0), strict=True):
            dashboard.writer.add_scalar(f"figure1_error/{name.replace(' ', '_').replace(',', '')}", error, step)
    hparams = {"lr": cfg.optimizer.lr, "steps": cfg.steps, "seed": cfg.seed, "replicas": cfg.model.replicas}
    dashboard.finish(drawn, hparams, summary, cfg.steps)
    dashboard.close()
    print(f"\nwrote     {folder}", flush=True)
    return summary
