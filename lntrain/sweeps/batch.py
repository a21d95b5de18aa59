"""Axes that the engine can batch, run as replicas of one job: the same folders, the same numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lntrain.experiments import train as job
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.schedules import Schedule
from lntrain.runs import build, folders
from lntrain.runs.coefficients import units_text
from lntrain.runs.console import result_text
from lntrain.runs.dashboard import Dashboard
from lntrain.runs.files import write_checkpoint, write_json
from lntrain.runs.watch import Interruption, signals, watch
from lntrain.sweeps.jobs import Text, settings, sparing, varied, write_config
from lntrain.sweeps.members import Member, Place, Planned, diverged, model_of, optimizer_of, part_of, part_of_state
from lntrain.training.evaluation import measure, summarise
from lntrain.training.loop import DivergenceError, Snapshot, train

BATCHABLE = ("optimizer.lr", "noise.std", "penalty.alpha", "penalty.alpha_ratio", "model.init", "seed")
CHOSEN = tuple(dict.fromkeys((*BATCHABLE, *build.AUTOMATIC)))  # what `build` writes into a configuration, too


def batchable(cfg: DictConfig) -> bool:
    """Whether a job may be part of a batch: plain training of a diagonal network."""
    return bool(cfg.task == "train" and cfg.model._target_ == "lntrain.DiagonalLinear")


def run_batch(base: DictConfig, places: Sequence[Place]) -> list[Place]:
    """Train all as replicas of one model; those that must run alone, which are left untouched.

    Args:
        base: the configuration of all but for their own values, whose keys are BATCHABLE.
    """
    work = base.copy()
    places = [replace(place, values=_typed(work, place.values)) for place in places]
    if not places or _linked(base, places[0].values):
        return list(places)
    plans, alone = _plans(sparing(base), places)
    alike: dict[tuple[Any, ...], list[Place]] = {}
    for place in places:
        if place.planned in plans:
            plan = plans[place.planned].built.plan
            alike.setdefault(
                (plan.steps, plan.dynamics.antithetic, plan.dynamics.batch_size, plan.reference is None), []
            ).append(place)
    begin = _Begin(base, list(places[0].values))
    for chosen in alike.values():
        while chosen:
            bad = _run_together(chosen, plans, begin)
            if not bad:
                break
            alone += [chosen[i] for i in bad]  # they diverge again there, and say how
            chosen = [place for i, place in enumerate(chosen) if i not in bad]
    return alone


def _typed(cfg: DictConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Put the values into `cfg`; they come back of the type that the schema says."""
    for key, value in values.items():
        OmegaConf.update(cfg, key, value)
    return {key: OmegaConf.select(cfg, key) for key in values}


def _linked(base: DictConfig, values: Mapping[str, Any]) -> bool:
    """Whether another value follows from one of these, by an interpolation."""
    work = base.copy()
    other = _typed(work, {key: value + 1 for key, value in values.items()})
    return settings(work) != varied(settings(base), other)


def _plans(base: DictConfig, places: Sequence[Place]) -> tuple[dict[tuple[tuple[str, Any], ...], Planned], list[Place]]:
    """A plan for all seeds of the same values, and the jobs that cannot have one."""
    plans: dict[tuple[tuple[str, Any], ...], Planned] = {}
    text, failed = Text(base, CHOSEN), set()
    for place in places:
        if place.planned in plans or place.planned in failed:
            continue
        cfg = base.copy()
        _typed(cfg, place.values)
        try:
            built = build.build(cfg)
        except (ValueError, RuntimeError):
            failed.add(place.planned)  # the usual way records the reason
            continue
        if built.plan.lr > built.plan.stable_lr:
            failed.add(place.planned)
        else:
            chosen = {key: OmegaConf.select(cfg, key) for key in text.marks}
            plans[place.planned] = Planned(cfg, built, partial(text, chosen))
    return plans, [place for place in places if place.planned in failed]


class _Begin:
    """The first files of each job, from one configuration."""

    def __init__(self, base: DictConfig, keys: Sequence[str]) -> None:
        self.text, self.settings = Text(base, keys), settings(base)

    def __call__(self, place: Place, plan_text: str) -> None:
        folders.begin(place.folder, folders.identity(varied(self.settings, place.values)), fresh=True)
        write_config(place.folder, self.text(place.values), place.overrides)
        (place.folder / "output.txt").write_text(f"{plan_text}\n")


def _run_together(
    places: Sequence[Place], plans: Mapping[tuple[tuple[str, Any], ...], Planned], begin: _Begin
) -> list[int]:  # fmt: skip
    """One batch of equal steps; the positions of those that diverged (then nothing is finished)."""
    members, first = [], 0
    for place in places:
        plan = plans[place.planned]
        cfg, built = plan.cfg, replace(plan.built, seed=place.values.get("seed", plan.built.seed))
        begin(place, built.plan_text)
        rows: slice | int = first if cfg.model.replicas is None else slice(first, first + cfg.model.replicas)
        first += cfg.model.replicas or 1
        board = Dashboard(place.folder, replicas=bool(cfg.model.replicas), settled=cfg.steps // 100)
        board.text("plan", built.plan_text)
        members.append(Member(place, plan, built, rows, job.History(built, None), board))
    model = model_of(members, first)
    try:
        _train(members, model)
    except DivergenceError:
        return diverged(members, model)
    finally:
        for member in members:
            member.dashboard.close()
    return []


def _train(members: Sequence[Member], model: DiagonalLinear) -> None:
    """The loop of `job`, for all members at each snapshot."""
    first, began, folder = members[0], time.monotonic(), members[0].folder.parent
    cfg, schedule = first.plan.cfg, first.built.lr_schedule
    snapshots = train(
        model, optimizer_of(members, model), first.built.problem, cfg.steps, batch_size=cfg.batch_size, sampling=cfg.sampling,
        loss_constant=cfg.loss_scale, lr_schedule=schedule, engine=cfg.engine, snapshots=_points(first),
    )  # fmt: skip

    def save(snapshot: Snapshot) -> None:
        whole, elapsed = snapshot.state_dict(), (time.monotonic() - began) / len(members)
        for member in members:
            member.history.trim_metrics(member.folder)
            member.dashboard.flush()
            text, state = (
                member.plan.text({"seed": member.built.seed}),
                part_of_state(whole, member, schedule, snapshot.step),
            )
            write_checkpoint(member.folder, {"config": text, "state": state, "history": member.history.state(elapsed)})

    try:
        with signals() as asked:
            for snapshot in watch(
                snapshots, steps=cfg.steps, start=0, every=cfg.checkpoint_every, save=save, asked=asked, folder=folder,
                label=f"{len(members)} jobs at once",
            ):  # fmt: skip
                if snapshot.scheduled:
                    _record(members, snapshot, schedule)
            save(snapshot)
    except Interruption as stop:
        for member in members:
            write_json(
                member.folder / "summary.json",
                {**dict.fromkeys(job.SUMMARY), "seed": member.built.seed, "status": "interrupted"},
            )
        raise Interruption(stop.code - 128, folder) from None
    seconds = (time.monotonic() - began) / len(members)
    for member in members:
        _finish(member, part_of(snapshot, member, schedule), seconds)


def _points(member: Member) -> str | list[int]:
    cfg, problem = member.plan.cfg, member.built.problem
    pairs = 1 + member.built.plan.dynamics.antithetic
    return build.points(cfg.steps, cfg.points_per_octave, size=problem.n * problem.d, period=pairs)


def _record(members: Sequence[Member], snapshot: Snapshot, schedule: Schedule | None) -> None:
    """All networks are measured at once, each against its own Lasso."""
    lassos = [member.built.plan.reference for member in members for _ in member.streams]
    known = None if lassos[0] is None else [lasso for lasso in lassos if lasso is not None]
    columns = measure(members[0].built.problem, snapshot, known, average=members[0].plan.cfg.average)
    plain = {name: values.tolist() for name, values in columns.items()}
    for member in members:
        rows = member.rows
        if isinstance(rows, int):
            row = {"step": float(snapshot.step), **{name: values[rows] for name, values in plain.items()}}
        else:
            row = summarise(snapshot.step, {name: values[rows] for name, values in columns.items()})
        job.record(
            member.plan.cfg, member.built, member.history, member.dashboard, part_of(snapshot, member, schedule), row
        )


def _finish(member: Member, snapshot: Snapshot, seconds: float) -> None:
    summary = job.finish(
        member.plan.cfg, member.built, member.folder, member.history, member.dashboard, snapshot, seconds
    )
    with (member.folder / "output.txt").open("a") as out:
        plan, problem = member.built.plan, member.built.problem
        out.write(
            f"\n{result_text(summary, plan.reference)}{units_text(problem, plan.reference, job.judged(plan, snapshot))}\n"
        )
