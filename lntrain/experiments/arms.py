"""What the network experiments share: arms trained on many seeds at once, measured, drawn, tabled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from lntrain.experiments import arms_board as board
from lntrain.models.replicas import Criterion, Replicas, Rows
from lntrain.noise.labels import Noise
from lntrain.runs.build import lr_schedule_of, number, optimizer_of
from lntrain.runs.history import Curves
from lntrain.runs.session import Outcome, Session, State
from lntrain.runs.settled import yaml_with
from lntrain.training.ensemble import Anneal, Progress, descend, schedule
from lntrain.training.points import check

ANNEALING_POINTS = 6  # reported evenly within the annealing, which a log scale would pass over


@dataclass(frozen=True)
class Arm:
    """One way of training: `network(seed)` in batches (None: all) of `rows`, whose targets carry `noise`; drawn as `name`."""

    name: str
    network: Callable[[int], nn.Module]
    rows: Rows
    noise: Noise
    batch_size: int | None


@dataclass(frozen=True)
class Study:
    """Arms, the loss they train on, what is measured of them, and what is made of that.

    Args:
        said: before the first step. measure: (arm, networks) -> {metric: a number a replica}.
        conclude: curves -> (table as text, results of the summary). draw: curves -> {name: figure}.
    """

    said: str
    arms: Sequence[Arm]
    criterion: Criterion
    measure: Callable[[Arm, Replicas], dict[str, list[float]]]
    conclude: Callable[[Curves], tuple[str, dict[str, Any]]]
    draw: Callable[[Curves], Mapping[str, Any]]


def seeds_of(cfg: DictConfig) -> list[int]:
    """seed, seed + 1, ..., one a replica.

    >>> seeds_of(OmegaConf.create({"seed": 3, "study": {"replicas": 2}}))
    [3, 4]
    """
    replicas = cfg.study.replicas
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
        raise ValueError(f"study.replicas={replicas!r} must be a whole number, at least 1")
    return [cfg.seed + r for r in range(replicas)]


def noise_in(cfg: DictConfig) -> Noise:
    """The noise of the group `noise` with the numbers given, its schedule included."""
    options = {"schedule": cfg.noise.schedule or None, "std": cfg.noise.std, "p": cfg.noise.p}
    given = {key: value for key, value in options.items() if value is not None}
    if not {"std", "p"} & set(given):
        raise ValueError("noise.std is not given: it is a standard deviation (or noise.p with noise=flips)")
    noise: Noise = instantiate({"_target_": cfg.noise._target_, **given}, _partial_=True, _convert_="all")
    return noise


def steps_of(cfg: DictConfig) -> int:
    """The steps, which no plan chooses here."""
    steps = number(cfg, "steps", whole=True)
    if steps is None or number(cfg, "optimizer.lr") is None:
        raise ValueError(f"task={cfg.task} needs numbers for steps and optimizer.lr")
    return int(steps)


def anneal_of(cfg: DictConfig) -> Anneal:
    """The end of the run, from study.anneal (a share of the steps) and study.annealed."""
    steps = steps_of(cfg)
    if not 0 <= cfg.study.anneal <= 1:
        raise ValueError(f"study.anneal={cfg.study.anneal} must lie in [0, 1]: it is a share of the steps")
    return Anneal(round(cfg.study.anneal * steps), cfg.study.annealed)


def anneal_start(cfg: DictConfig) -> int:
    """The last step of constant noise and lr."""
    return max(1, steps_of(cfg) - anneal_of(cfg).steps)


def run(cfg: DictConfig, folder: Path, study: Study, *, resume: bool = False) -> dict[str, Any]:
    """Train the arms one after the other, all seeds of each at once; the table and the figures; the summary."""
    session, steps = Session(cfg, folder, resume=resume), steps_of(cfg)
    scheduled, curves = _scheduled(cfg), Curves(session.remembered)
    arms = {arm.name: arm for arm in study.arms}
    print(study.said, flush=True)

    def take(name: str, progress: Progress) -> None:
        values = study.measure(arms[name], progress.networks)
        if not curves.of(name)["step"] and name == study.arms[0].name:
            session.dashboard.writer.add_custom_scalars(board.layout(values, list(arms)))
        curves.add(name, progress.step, values)
        board.show(session.dashboard, name, *curves.last(name))

    with session.begin(yaml_with(cfg, {"steps": steps}), curves, layout={}):
        trainings = {name: partial(_train, cfg, arm, study.criterion, scheduled) for name, arm in arms.items()}
        session.train_each(trainings, curves, steps, take)
        seconds, (table, results) = session.seconds, study.conclude(curves)
        told = {"task": cfg.task, "steps": steps, "seed": cfg.seed}
        summary = {"status": "done", **told, "seconds": seconds, "replicas": cfg.study.replicas, **results}
        hparams = {**told, "lr": cfg.optimizer.lr, "batch_size": cfg.batch_size or 0}
        draw = partial(study.draw, curves)
        session.finish(Outcome(summary, curves.arrays(), draw, hparams, steps, table=table))
    print(f"\n{table}\n\nran       {seconds:.0f} s\nwrote     {folder}", flush=True)
    return summary


def _scheduled(cfg: DictConfig) -> list[int]:
    """The steps to measure at."""
    steps, anneal = steps_of(cfg), anneal_of(cfg).steps
    per_octave = cfg.study.points if cfg.points_per_octave is None else cfg.points_per_octave
    check(per_octave)
    extra = np.linspace(steps - anneal, steps, ANNEALING_POINTS + 1).astype(int).tolist() if anneal else []
    return schedule(steps, per_octave, *extra)


def _train(cfg: DictConfig, arm: Arm, criterion: Criterion, scheduled: list[int], state: State) -> Iterator[Progress]:
    seeds = seeds_of(cfg)
    networks = Replicas([arm.network(seed) for seed in seeds])
    return descend(
        networks, optimizer_of(cfg, networks, arm.noise, seed=seeds), arm.rows, criterion, steps_of(cfg),
        batch_size=arm.batch_size, anneal=anneal_of(cfg), sampling=None if arm.batch_size is None else cfg.sampling,
        lr_schedule=lr_schedule_of(cfg), scheduled=scheduled, state=state,
    )  # fmt: skip
