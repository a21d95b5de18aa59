"""The paper's Figure 1: GD, SGD, GD + label noise and SGD + label noise from one init."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from lntrain.data.problem import Problem
from lntrain.experiments.gallery.paper import figure1_ends
from lntrain.experiments.gallery.run import judged
from lntrain.experiments.study import listed
from lntrain.noise.labels import GaussianNoise
from lntrain.runs.build import DTYPES, number, optimizer_of, training_of
from lntrain.runs.history import Curves
from lntrain.runs.session import Outcome, Session, State
from lntrain.runs.settled import yaml_with
from lntrain.training.loop import Snapshot


@dataclass(frozen=True)
class Curve:
    """One algorithm at one noise level."""

    name: str
    std: float
    batch_size: int | None


def curves_of(cfg: DictConfig, n: int) -> list[Curve]:
    """Both noiseless algorithms, then both noisy ones at each std of cfg.figure1.stds.

    A step on a single noisy sample has n times the gradient variance of the whole batch. "matched" divides its
    variance by n, as the paper's curve needs; "literal" does not.
    """
    rule = cfg.figure1.single_sample
    if rule not in ("matched", "literal"):
        raise ValueError(f'figure1.single_sample={rule!r}: choose "matched" or "literal"')
    for std in listed(cfg, "figure1.stds"):
        GaussianNoise(std)  # before the first curve: a mistake shows at once
    scale = 1 / math.sqrt(n) if rule == "matched" else 1.0
    curves = [Curve("GD", 0.0, None), Curve("SGD", 0.0, 1)]
    curves += [Curve(f"SGD, batch {size}", 0.0, size) for size in cfg.figure1.get("batches") or () if size < n]
    for std in cfg.figure1.stds:
        curves += [
            Curve(f"GD + label noise, std {std:g}", std, None),
            Curve(f"SGD + label noise, std {std:g}", std * scale, 1),
        ]
    return curves


def _train(cfg: DictConfig, problem: Problem, curve: Curve, state: State) -> Iterator[Snapshot]:
    model = instantiate(cfg.model, _partial_=True, _convert_="all")(in_features=problem.d, dtype=problem.X.dtype)
    optimizer, steps = optimizer_of(cfg, model, GaussianNoise(curve.std)), number(cfg, "steps", whole=True)
    options: dict[str, Any] = {"batch_size": curve.batch_size, "sampling": None, "state": state}
    return training_of(cfg, problem, model, optimizer, steps=steps, **options)


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Run every curve, with checkpoints; draw one figure per noise level; returns the summary."""
    if cfg.steps == "auto" or cfg.optimizer.lr == "auto" or cfg.model.dtype not in DTYPES or not cfg.model.replicas:
        raise ValueError(
            "experiment=figure1 needs numbers for steps, optimizer.lr and model.replicas, and a known model.dtype"
        )
    session = Session(cfg, folder, resume=resume)
    problem: Problem = instantiate(cfg.problem, _convert_="all").to(DTYPES[cfg.model.dtype])
    if problem.coef is None:
        raise ValueError("experiment=figure1 needs a problem whose truth is known: problem=sparse")
    chosen, curves = curves_of(cfg, problem.n), Curves(session.remembered)
    lines = [f"figure 1  {len(chosen)} curves, {cfg.steps} steps, {cfg.model.replicas} replicas, lr={cfg.optimizer.lr}"]
    for std in (curve.std for curve in chosen[2:] if curve.std and curve.batch_size is None):
        bar = cfg.optimizer.lr * std**2 / problem.n
        lines.append(f"          std {std:g}: variance delta={std**2:.3g}, delta_bar = lr delta / n = {bar:.2g}")
    print("\n".join(lines), flush=True)
    layout = {"Figure 1": {"squared error": ["Multiline", ["figure1_error/.*"]]}}
    with session.begin(yaml_with(cfg, {}), curves, layout=layout):
        trainings = {curve.name: partial(_train, cfg, problem, curve) for curve in chosen}
        session.train_each(trainings, curves, cfg.steps, lambda name, s: curves.add(name, s.step, _measure(s, problem)))
        summary = _finish(cfg, session, curves)
    print(f"\nwrote     {folder}", flush=True)
    return summary


def _measure(snapshot: Snapshot, problem: Problem) -> dict[str, list[float]]:
    """The last iterate's squared error and two coordinates, one value per replica."""
    assert snapshot.coef is not None
    assert problem.coef is not None
    coef, truth = snapshot.coef.double(), problem.coef.double()
    on, off = int(truth.abs().argmax()), int((truth == 0).nonzero()[0, 0])
    error = (coef - truth).square().sum(-1).tolist()
    return {"error": error, "on": coef[:, on].tolist(), "off": coef[:, off].tolist()}


def _finish(cfg: DictConfig, session: Session, curves: Curves) -> dict[str, Any]:
    arrays = {name: {key: np.array(row[key]).T for key in ("error", "on", "off")} for name, row in curves.named.items()}
    steps, seconds = curves.of("GD")["step"], session.seconds
    hparams = {"steps": cfg.steps, "seed": cfg.seed, "replicas": cfg.model.replicas}
    speed = cfg.steps * cfg.model.replicas * len(arrays) / seconds
    summary: dict[str, Any] = {"status": "done", "seconds": seconds, "steps_per_second": speed, **hparams}
    print(f"\n{'last iterate':<32}log10 squared error, median [lowest, highest] of {cfg.model.replicas}")
    for name, panel in arrays.items():
        last, tag = np.log10(panel["error"][:, -1]), f"figure1_error/{name.replace(' ', '_').replace(',', '')}"
        summary[f"log10_error {name}"] = float(np.median(last))
        print(f"{name:<32}{np.median(last):6.2f} [{last.min():.2f}, {last.max():.2f}]")
        for step, error in zip(steps, np.median(panel["error"], 0), strict=True):
            session.dashboard.writer.add_scalar(tag, error, step)
    summary |= judged(cfg, figure1_ends(arrays))
    flat = {f"{name}/{key}": values for name, panel in arrays.items() for key, values in panel.items()}

    def draw() -> dict[str, Any]:
        from lntrain.experiments import figures

        return figures.figures1(steps, arrays, cfg.figure1.stds)

    hparams |= {"lr": cfg.optimizer.lr}
    return session.finish(Outcome(summary, {"steps": np.array(steps), **flat}, draw, hparams, cfg.steps))
