"""Axes that the engine can batch, run as replicas of one job: the same folders, the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lntrain.experiments import train as job
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.schedules import Schedule
from lntrain.runs import build, folders
from lntrain.runs.files import append
from lntrain.runs.session import Session
from lntrain.runs.settled import AUTOMATIC
from lntrain.sweeps.jobs import Text, settings, sparing, varied, write_config
from lntrain.sweeps.members import Member, Place, Planned, diverged, model_of, optimizer_of_all, part_of, part_of_state
from lntrain.training.divergence import DivergenceError
from lntrain.training.evaluation import measure, summarise
from lntrain.training.loop import Snapshot

BATCHABLE = ("optimizer.lr", "noise.std", "penalty.alpha", "penalty.alpha_ratio", "model.init", "seed")
CHOSEN = tuple(dict.fromkeys((*BATCHABLE, *AUTOMATIC)))  # what is settled, too


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
            numbers = built.settled.values()
            chosen = {key: numbers.get(key, OmegaConf.select(cfg, key)) for key in text.marks}
            plans[place.planned] = Planned(cfg, built, partial(text, chosen))
    return plans, [place for place in places if place.planned in failed]


class _Begin:
    """The first files of each job, from one configuration."""

    def __init__(self, base: DictConfig, keys: Sequence[str]) -> None:
        self.text, self.settings = Text(base, keys), settings(base)

    def __call__(self, place: Place, plan_text: str) -> None:
        folders.begin(place.folder, folders.identity(varied(self.settings, place.values)), fresh=True)
        write_config(place.folder, self.text(place.values), place.overrides)
        append(place.folder / "output.txt", f"{plan_text}\n".encode())


def _run_together(
    places: Sequence[Place], plans: Mapping[tuple[tuple[str, Any], ...], Planned], begin: _Begin
) -> list[int]:
    """One batch of equal steps; the positions of those that diverged (then nothing is finished)."""
    members, first = [], 0
    for place in places:
        plan = plans[place.planned]
        spec = replace(plan.built, seed=place.values.get("seed", plan.built.seed))
        begin(place, spec.plan_text)
        many = spec.settled.replicas
        rows: slice | int = first if many is None else slice(first, first + many)
        first += many or 1
        session = Session(plan.cfg, place.folder, jobs=len(places), seed=spec.seed)
        history = job.begin(session, spec, plan.text({"seed": spec.seed}))
        members.append(Member(place, plan, spec, rows, history, session))
    model = model_of(members, first)
    with ExitStack() as sessions:
        for member in members:
            sessions.enter_context(member.session)
        try:
            _train(members, model)
        except DivergenceError:
            return diverged(members, model)
    return []


def _train(members: Sequence[Member], model: DiagonalLinear) -> None:
    """The loop of `job`, for all members at each snapshot."""
    own, cfg = members[0].built, members[0].plan.cfg

    def save(snapshot: Snapshot) -> None:
        whole = snapshot.state_dict()
        for member in members:
            member.session.save(part_of_state(whole, member, own.lr_schedule, snapshot.step))

    last = Session(cfg, members[0].folder.parent).train(
        lambda _: build.snapshots_of(cfg, own, model, optimizer_of_all(members, model)),
        own.settled.steps,
        lambda snapshot: _record(members, snapshot, own.lr_schedule),
        save=save,
        label=f"{len(members)} jobs at once",
    )
    seconds = [member.session.seconds for member in members]
    for member, spent in zip(members, seconds, strict=True):
        _finish(member, part_of(last, member, own.lr_schedule), spent)


def _record(members: Sequence[Member], snapshot: Snapshot, schedule: Schedule | None) -> None:
    """All networks are measured at once, each against its own Lasso."""
    lassos = [member.built.plan.reference for member in members for _ in member.streams]
    known = None if lassos[0] is None else [lasso for lasso in lassos if lasso is not None]
    columns = measure(members[0].built.problem, snapshot, known, average=members[0].built.settled.average)
    plain = {name: values.tolist() for name, values in columns.items()}
    for member in members:
        rows = member.rows
        if isinstance(rows, int):
            row = {"step": float(snapshot.step), **{name: values[rows] for name, values in plain.items()}}
        else:
            row = summarise(snapshot.step, {name: values[rows] for name, values in columns.items()})
        job.record(member.session, member.built, member.history, part_of(snapshot, member, schedule), row)


def _finish(member: Member, snapshot: Snapshot, seconds: float) -> None:
    summary = job.finish(member.session, member.built, member.history, snapshot, seconds)
    append(member.folder / "output.txt", f"\n{job.report(member.built, snapshot, summary)}\n".encode())
