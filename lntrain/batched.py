"""Axes that the engine can batch, run as replicas of one job: the same folders, the same numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lntrain import build, job
from lntrain.dashboard import Dashboard
from lntrain.files import write_atomically, write_checkpoint, write_json
from lntrain.model import DiagonalLinear
from lntrain.optim import LabelNoiseSGD
from lntrain.report import result_text
from lntrain.schedule import Schedule
from lntrain.train import GROWTH, DivergenceError, Snapshot, train
from lntrain.watch import Interruption, signals, watch

BATCHABLE = ("optimizer.lr", "noise.std", "penalty.alpha", "penalty.alpha_ratio", "model.init", "seed")


@dataclass(frozen=True)
class Member:
    """A job of the batch: its rows among the replicas are `rows`, or the one row `rows` of a single network."""

    folder: Path
    cfg: DictConfig
    built: build.Job
    rows: slice | int
    history: job.History
    dashboard: Dashboard

    @property
    def streams(self) -> list[int]:
        """The noise streams that its networks have when it runs alone."""
        return list(range(self.cfg.model.replicas or 1))


def batchable(cfg: DictConfig) -> bool:
    """Whether a job may be part of a batch: plain training that is not expected to diverge at once."""
    return bool(cfg.task == "train" and cfg.model._target_ == "lntrain.DiagonalLinear")


def run_batch(cfgs: Sequence[DictConfig], folders: Sequence[Path], begin: Callable[[int], None]) -> list[int]:
    """Train all as replicas of one model; the numbers of those that must run alone, which are left untouched.

    Args:
        cfgs: equal but for the keys BATCHABLE. folders: where each belongs, locked by the caller.
        begin: called with a job's number before the first file is written to its folder.
    """
    built, alone = _build(cfgs)
    sizes: dict[int, list[int]] = {}
    for k, (cfg, _) in built.items():
        sizes.setdefault(int(cfg.steps), []).append(k)
    for chosen in sizes.values():
        while chosen:
            bad = _run_together([built[k] for k in chosen], [folders[k] for k in chosen], [(begin, k) for k in chosen])
            if not bad:
                break
            alone += [chosen[i] for i in bad]  # they diverge again there, and say how
            chosen = [k for i, k in enumerate(chosen) if i not in bad]
    return alone


def _build(cfgs: Sequence[DictConfig]) -> tuple[dict[int, tuple[DictConfig, build.Job]], list[int]]:
    """number -> (configuration with the chosen numbers, job): a plan serves all seeds; and the numbers of the others."""
    plans: dict[str, tuple[DictConfig, build.Job]] = {}
    built: dict[int, tuple[DictConfig, build.Job]] = {}
    alone = []
    for k, cfg in enumerate(cfgs):
        key = repr([OmegaConf.select(cfg, name) for name in BATCHABLE if name != "seed"])
        try:
            if key not in plans:
                first = cfg.copy()
                plans[key] = (first, build.build(first))
        except (ValueError, RuntimeError):
            alone.append(k)  # the usual way records the reason
            continue
        filled, own = plans[key]
        if own.plan.lr > own.plan.stable_lr:
            alone.append(k)
            continue
        filled = filled.copy()
        filled.seed = cfg.seed
        built[k] = (filled, own)
    return built, alone


def _run_together(
    built: Sequence[tuple[DictConfig, build.Job]], folders: Sequence[Path], begin: Sequence[tuple[Callable[[int], None], int]]
) -> list[int]:  # fmt: skip
    """One batch of equal steps; the positions of those that diverged (then nothing is finished)."""
    members, first = [], 0
    for (cfg, own), folder, (start, k) in zip(built, folders, begin, strict=True):
        start(k)
        write_atomically(folder / "output.txt", f"{own.plan_text}\n".encode())
        rows: slice | int = first if cfg.model.replicas is None else slice(first, first + cfg.model.replicas)
        first += cfg.model.replicas or 1
        board = Dashboard(folder, replicas=bool(cfg.model.replicas), settled=cfg.steps // 100)
        board.text("plan", own.plan_text)
        members.append(Member(folder, cfg, own, rows, job.History(own, None), board))
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
    cfg = members[0].cfg
    rates, stds, seeds = ([] for _ in range(3))  # type: ignore[var-annotated]
    for member in members:
        for values, value in ((rates, member.built.plan.lr), (stds, member.built.plan.std), (seeds, member.cfg.seed)):
            values.extend([value] * len(member.streams))
    optimizer: LabelNoiseSGD = instantiate(cfg.optimizer, _partial_=True, _convert_="all")(
        model.parameters(), lr=rates[0] if len(set(rates)) == 1 else rates, seed=seeds,
        noise=build.noise_of(cfg, stds[0] if len(set(stds)) == 1 else tuple(stds)),
        rank=[stream for member in members for stream in member.streams],
    )  # fmt: skip
    return optimizer


def _train(members: Sequence[Member], model: DiagonalLinear) -> None:
    """The loop of `job`, for all members at each snapshot."""
    first, began, folder = members[0], time.monotonic(), members[0].folder
    cfg, schedule = first.cfg, first.built.lr_schedule
    snapshots = train(
        model, _optimizer(members, model), first.built.problem, cfg.steps, batch_size=cfg.batch_size, sampling=cfg.sampling,
        loss_scale=cfg.loss_scale, lr_schedule=schedule, engine=cfg.engine, snapshots=build.points(cfg.steps, cfg.points_per_octave),
    )  # fmt: skip

    def save(snapshot: Snapshot) -> None:
        whole, elapsed = snapshot.state_dict(), (time.monotonic() - began) / len(members)
        for member in members:
            text, state = OmegaConf.to_yaml(member.cfg), part_of_state(whole, member, schedule, snapshot.step)
            write_checkpoint(member.folder, {"config": text, "state": state, "history": member.history.state(elapsed)})

    try:
        with signals() as asked:
            for snapshot in watch(
                snapshots, steps=cfg.steps, start=0, every=cfg.checkpoint_every, save=save, asked=asked, folder=folder.parent,
                label=f"{len(members)} jobs at once",
            ):  # fmt: skip
                if snapshot.scheduled:
                    for member in members:
                        _record(member, part_of(snapshot, member, schedule))
            save(snapshot)
    except Interruption as stop:
        for member in members:
            write_json(
                member.folder / "summary.json",
                {**dict.fromkeys(job.SUMMARY), "seed": member.cfg.seed, "status": "interrupted"},
            )
        raise Interruption(stop.code - 128, folder.parent) from None
    seconds = (time.monotonic() - began) / len(members)
    for member in members:
        _finish(member, part_of(snapshot, member, schedule), seconds)


def _record(member: Member, snapshot: Snapshot) -> None:
    with (member.folder / "metrics.jsonl").open("a") as metrics:
        job.record(member.cfg, member.built, member.history, member.dashboard, metrics, snapshot)


def _finish(member: Member, snapshot: Snapshot, seconds: float) -> None:
    summary = job.finish(member.cfg, member.built, member.folder, member.history, member.dashboard, snapshot, seconds)
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

    group = {**state["optimizer"]["param_groups"][0], "noise_std": member.built.plan.std, "seed": int(member.cfg.seed)}
    group.pop("lr_ratio", None)
    group["lr"] = lr * (1.0 if schedule is None else float(schedule(step)))
    buffers = {key: pick(kept) for key, kept in state["optimizer"]["state"].items()}
    return {
        **state, "model": pick(state["model"]), "optimizer": {"state": buffers, "param_groups": [group]}, "base_lr": [lr],
        "sums": pick(state["sums"]), "history": [(at, weights[rows].clone()) for at, weights in state["history"]],
    }  # fmt: skip


def _diverged(members: Sequence[Member], model: DiagonalLinear) -> list[int]:
    """The positions of those beyond the bound that `train` sets for each alone; all, where none can be named."""
    scale, problem = members[0].cfg.loss_scale, members[0].built.problem
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
