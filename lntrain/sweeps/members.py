"""The jobs of a batch: one model and one optimiser for all, and each one's share of what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.schedules import Schedule
from lntrain.optim.sgd import LabelNoiseSGD
from lntrain.runs.build import RunSpec, noise_of, optimizer_of
from lntrain.runs.regression import History
from lntrain.runs.session import Session
from lntrain.training.divergence import divergence_bound
from lntrain.training.loop import Snapshot


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
    """A configuration, what it builds, and its text with the numbers chosen, for any seed."""

    cfg: DictConfig
    built: RunSpec
    text: Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Member:
    """A job of the batch: its rows among the replicas are `rows`, or the one row `rows` of a single network."""

    place: Place
    plan: Planned
    built: RunSpec
    rows: slice | int
    history: History
    session: Session

    @property
    def folder(self) -> Path:
        return self.place.folder

    @property
    def streams(self) -> list[int]:
        """The noise streams that its networks have when it runs alone."""
        return list(range(self.built.settled.replicas or 1))


def model_of(members: Sequence[Member], replicas: int) -> DiagonalLinear:
    """All networks in one, each with the weights that it starts from alone."""
    own = members[0].built
    model = DiagonalLinear(
        own.problem.d,
        parametrisation=own.model.parametrisation,
        depth=own.model.depth,
        replicas=replicas,
        dtype=own.problem.X.dtype,
        device=own.problem.X.device,
    )
    with torch.no_grad():
        for member in members:
            for all_of_them, alone in zip(model.weights, member.built.model.weights, strict=True):
                all_of_them[member.rows] = alone
    return model


def optimizer_of_all(members: Sequence[Member], model: DiagonalLinear) -> LabelNoiseSGD:
    """A step size, a noise level, a seed and a stream for each replica."""
    cfg = members[0].plan.cfg
    rates, stds, seeds = ([] for _ in range(3))  # type: ignore[var-annotated]
    for member in members:
        for values, value in ((rates, member.built.plan.lr), (stds, member.built.plan.std), (seeds, member.built.seed)):
            values.extend([value] * len(member.streams))
    std = stds[0] if len(set(stds)) == 1 else tuple(stds)
    noise = noise_of(cfg, members[0].built.problem, std, antithetic=members[0].built.settled.antithetic)
    ranks = [stream for member in members for stream in member.streams]
    return optimizer_of(cfg, model, noise, lr=rates[0] if len(set(rates)) == 1 else rates, seed=seeds, rank=ranks)


def part_of(snapshot: Snapshot, member: Member, schedule: Schedule | None) -> Snapshot:
    """A member's share of a snapshot: what it would have yielded alone."""
    rows = member.rows

    def pick(values: Tensor | None) -> Any:
        return None if values is None else values[rows]

    factor = 1.0 if schedule is None else float(schedule(snapshot.step))
    return replace(
        snapshot,
        coef=pick(snapshot.coef),
        mean_coef=pick(snapshot.mean_coef),
        mean_noise=pick(snapshot.mean_noise),
        log_weights=pick(snapshot.log_weights),
        earlier_log_weights=pick(snapshot.earlier_log_weights),
        tail_coef=pick(snapshot.tail_coef),
        tail_noise=pick(snapshot.tail_noise),
        loss=pick(snapshot.loss),
        lr=member.built.plan.lr * factor,
        std=member.built.plan.std,
        _state={},
    )


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
        **state,
        "model": pick(state["model"]),
        "optimizer": {"state": buffers, "param_groups": [group]},
        "base_lr": [lr],
        "sums": pick(state["sums"]),
        "history": [
            {"step": kept["step"], **pick({k: v for k, v in kept.items() if k != "step"})} for kept in state["history"]
        ],
    }


def diverged(members: Sequence[Member], model: DiagonalLinear) -> list[int]:
    """The positions of those beyond the bound that `train` sets for each alone; all, where none can be named."""
    scale, problem = members[0].plan.cfg.loss_constant, members[0].built.problem
    gone = []
    for i, member in enumerate(members):
        with torch.no_grad():
            coef = model.coef[member.rows]
            loss = scale * (coef @ problem.X.mT - problem.y).square().mean(-1)
            start = scale * (member.built.model(problem.X) - problem.y).square().mean(-1)
        if not bool((loss <= divergence_bound(start, problem.y, member.built.plan.std, scale)).all()):
            gone.append(i)
    return gone or list(range(len(members)))
