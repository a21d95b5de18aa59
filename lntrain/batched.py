"""Axes that the engine can batch, run as replicas of one job: the same folders, the same numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lntrain import build, job, runfolder
from lntrain.dashboard import Dashboard
from lntrain.diagnostics import measure, summarise
from lntrain.files import write_checkpoint, write_json
from lntrain.model import DiagonalLinear
from lntrain.optim import LabelNoiseSGD
from lntrain.report import result_text
from lntrain.schedule import Schedule
from lntrain.sweep_jobs import Text, settings, sparing, varied, write_config
from lntrain.train import GROWTH, DivergenceError, Snapshot, train
from lntrain.watch import Interruption, signals, watch

BATCHABLE = ("optimizer.lr", "noise.std", "penalty.alpha", "penalty.alpha_ratio", "model.init", "seed")
CHOSEN = (*BATCHABLE, "steps")  # what `build` writes into a configuration, too


@dataclass(frozen=True)
class Place:
    """A job as the sweep gives it: its folder, locked by the caller, its overrides and the values that are its own."""

    folder: Path
    overrides: Sequence[str]
    values: Mapping[str, Any]

    @property
    def planned(self) -> tuple[tuple[str, Any], ...]:
        """The values but the seed: they share a plan."""
        return tuple((key, value) for key, value in self.values.items() if key != "seed")


@dataclass(frozen=True)
class Planned:
    """A configuration with the numbers that its plan chose, what it builds, and its text for any seed."""

    cfg: DictConfig
    built: build.Job
    text: Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Member:
    """A job of the batch: its rows among the replicas are `rows`, or the one row `rows` of a single network."""

    place: Place
    plan: Planned
    built: build.Job
    rows: slice | int
    history: job.History
    dashboard: Dashboard

    @property
    def folder(self) -> Path:
        return self.place.folder

    @property
    def streams(self) -> list[int]:
        """The noise streams that its networks have when it runs alone."""
        return list(range(self.plan.cfg.model.replicas or 1))


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
    alike: dict[tuple[int, bool], list[Place]] = {}
    for place in places:
        if place.planned in plans:
            plan = plans[place.planned].built.plan
            alike.setdefault((plan.steps, plan.reference is None), []).append(place)
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
        runfolder.begin(place.folder, runfolder.identity(varied(self.settings, place.values)), fresh=True)
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
    model = _model(members, first)
    try:
        _train(members, model)
    except DivergenceError:
        return _diverged(members, model)
    finally:
        for member in members:
            member.dashboard.close()
    return []


def _model(members: Sequence[Member], replicas: int) -> DiagonalLinear:
    """All networks in one, each with the weights that it starts from alone."""
    own = members[0].built
    model = DiagonalLinear(
        own.problem.d, parametrisation=own.model.parametrisation, depth=own.model.depth, replicas=replicas,
        dtype=own.problem.X.dtype, device=own.problem.X.device,
    )  # fmt: skip
    with torch.no_grad():
        for member in members:
            for all_of_them, alone in zip(model.weights, member.built.model.weights, strict=True):
                all_of_them[member.rows] = alone
    return model


def _optimizer(members: Sequence[Member], model: DiagonalLinear) -> LabelNoiseSGD:
    """A step size, a noise level, a seed and a stream for each replica."""
    cfg = members[0].plan.cfg
    rates, stds, seeds = ([] for _ in range(3))  # type: ignore[var-annotated]
    for member in members:
        for values, value in ((rates, member.built.plan.lr), (stds, member.built.plan.std), (seeds, member.built.seed)):
            values.extend([value] * len(member.streams))
    optimizer: LabelNoiseSGD = instantiate(cfg.optimizer, _partial_=True, _convert_="all")(
        model.parameters(), lr=rates[0] if len(set(rates)) == 1 else rates, seed=seeds,
        noise=build.noise_of(cfg, stds[0] if len(set(stds)) == 1 else tuple(stds)),
        rank=[stream for member in members for stream in member.streams],
    )  # fmt: skip
    return optimizer


def _train(members: Sequence[Member], model: DiagonalLinear) -> None:
    """The loop of `job`, for all members at each snapshot."""
    first, began, folder = members[0], time.monotonic(), members[0].folder.parent
    cfg, schedule = first.plan.cfg, first.built.lr_schedule
    snapshots = train(
        model, _optimizer(members, model), first.built.problem, cfg.steps, batch_size=cfg.batch_size, sampling=cfg.sampling,
        loss_scale=cfg.loss_scale, lr_schedule=schedule, engine=cfg.engine, snapshots=build.points(cfg.steps, cfg.points_per_octave),
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


def _record(members: Sequence[Member], snapshot: Snapshot, schedule: Schedule | None) -> None:
    """All networks are measured at once, each against its own Lasso."""
    lassos = [member.built.plan.reference for member in members for _ in member.streams]
    known = None if lassos[0] is None else [lasso for lasso in lassos if lasso is not None]
    columns = measure(members[0].built.problem, snapshot, known)
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
        out.write(f"\n{result_text(summary, member.built.plan.reference)}\n")


def part_of(snapshot: Snapshot, member: Member, schedule: Schedule | None) -> Snapshot:
    """A member's share of a snapshot: what it would have yielded alone."""
    rows = member.rows

    def pick(values: Tensor | None) -> Any:
        return None if values is None else values[rows]

    factor = 1.0 if schedule is None else float(schedule(snapshot.step))
    return replace(
        snapshot, coef=pick(snapshot.coef), mean_coef=pick(snapshot.mean_coef), mean_noise=pick(snapshot.mean_noise),
        log_weights=pick(snapshot.log_weights), earlier_log_weights=pick(snapshot.earlier_log_weights),
        loss=pick(snapshot.loss), lr=member.built.plan.lr * factor, std=member.built.plan.std, _state={},
    )  # fmt: skip


def part_of_state(state: dict[str, Any], member: Member, schedule: Schedule | None, step: int) -> dict[str, Any]:
    """A member's share of a state: it goes on alone from there."""
    rows, lr = member.rows, member.built.plan.lr

    def pick(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[rows].clone() for name, value in values.items()}

    group = {
        **state["optimizer"]["param_groups"][0],
        "noise_std": member.built.plan.std,
        "seed": int(member.built.seed),
    }
    group.pop("lr_ratio", None)
    group["lr"] = lr * (1.0 if schedule is None else float(schedule(step)))
    buffers = {key: pick(kept) for key, kept in state["optimizer"]["state"].items()}
    return {
        **state, "model": pick(state["model"]), "optimizer": {"state": buffers, "param_groups": [group]}, "base_lr": [lr],
        "sums": pick(state["sums"]), "history": [(at, weights[rows].clone()) for at, weights in state["history"]],
    }  # fmt: skip


def _diverged(members: Sequence[Member], model: DiagonalLinear) -> list[int]:
    """The positions of those beyond the bound that `train` sets for each alone; all, where none can be named."""
    scale, problem = members[0].plan.cfg.loss_scale, members[0].built.problem
    gone = []
    for i, member in enumerate(members):
        with torch.no_grad():
            coef = model.coef[member.rows]
            loss = scale * (coef @ problem.X.mT - problem.y).square().mean(-1)
            start = scale * (member.built.model(problem.X) - problem.y).square().mean(-1)
        bound = GROWTH * (start.max() + scale * (problem.y.square().mean() + member.built.plan.std**2))
        if not bool((loss <= bound).all()):
            gone.append(i)
    return gone or list(range(len(members)))
