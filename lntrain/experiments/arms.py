"""What the network experiments share: arms trained on many seeds at once, measured, drawn, tabled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from lntrain.experiments import arms_board as board
from lntrain.experiments.study import anneal_of, scheduled_steps, seeds_of, steps_of
from lntrain.models.replicas import Criterion, Replicas, Rows
from lntrain.noise.labels import Noise
from lntrain.runs.build import lr_schedule_of, optimizer_of
from lntrain.runs.history import Curves
from lntrain.runs.session import Outcome, Session, State
from lntrain.runs.settled import yaml_with
from lntrain.training.ensemble import Progress, descend


@dataclass(frozen=True)
class Arm:
    """One way of training: `network(seed)` in batches (None: all) of `rows`, targets with `noise`; drawn as `name`."""

    name: str
    network: Callable[[int], nn.Module]
    rows: Rows
    noise: Noise
    batch_size: int | None


@dataclass(frozen=True)
class Study:
    """Arms, the loss they train on, what is measured, and how the measurements are summarised and drawn.

    Args:
        said: printed before the first step. measure: (arm, networks) -> {metric: one number per replica}.
        conclude: curves -> (table as text, results of the summary). draw: curves -> {name: figure}.
    """

    said: str
    arms: Sequence[Arm]
    criterion: Criterion
    measure: Callable[[Arm, Replicas], dict[str, list[float]]]
    conclude: Callable[[Curves], tuple[str, dict[str, Any]]]
    draw: Callable[[Curves], Mapping[str, Any]]


def run(cfg: DictConfig, folder: Path, study: Study, *, resume: bool = False) -> dict[str, Any]:
    """Train the arms one after the other, all seeds of each at once; the table and the figures; the summary."""
    session, steps = Session(cfg, folder, resume=resume), steps_of(cfg)
    scheduled, curves = scheduled_steps(cfg), Curves(session.remembered)
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


def _train(cfg: DictConfig, arm: Arm, criterion: Criterion, scheduled: list[int], state: State) -> Iterator[Progress]:
    seeds = seeds_of(cfg)
    networks = Replicas([arm.network(seed) for seed in seeds])
    return descend(
        networks,
        optimizer_of(cfg, networks, arm.noise, seed=seeds),
        arm.rows,
        criterion,
        steps_of(cfg),
        batch_size=arm.batch_size,
        anneal=anneal_of(cfg),
        sampling=None if arm.batch_size is None else cfg.sampling,
        lr_schedule=lr_schedule_of(cfg),
        scheduled=scheduled,
        state=state,
    )
