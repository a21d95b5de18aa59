"""What the configuration of a network experiment says: seeds, noise, loss, steps and the annealing at their end."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.nn import functional

from lntrain.models.replicas import Criterion, squared_loss
from lntrain.noise.labels import LabelFlips, Noise
from lntrain.runs.build import kind_of_noise, noise_schedule_of, number
from lntrain.training.ensemble import Anneal, schedule
from lntrain.training.points import check

ANNEALING_POINTS = 6  # evenly spaced within the annealing, where log-spaced points are too few


def seeds_of(cfg: DictConfig) -> list[int]:
    """seed, seed + 1, ..., one per replica.

    >>> from omegaconf import OmegaConf
    >>> seeds_of(OmegaConf.create({"seed": 3, "study": {"replicas": 2}}))
    [3, 4]
    """
    replicas = cfg.study.replicas
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
        raise ValueError(f"study.replicas={replicas!r} must be a whole number, at least 1")
    return [cfg.seed + r for r in range(replicas)]


def listed(cfg: DictConfig, key: str) -> list[Any]:
    """A list of the configuration that must not be empty."""
    values = OmegaConf.select(cfg, key)
    if not OmegaConf.is_list(values) or not len(values):
        raise ValueError(f"{key}={values!r} must be a list of at least one number, such as [1]")
    return list(values)


def noise_in(cfg: DictConfig, classes: int | None = None) -> Noise:
    """The noise of the group `noise` with the numbers given, its schedule included; flips are among `classes`."""
    options = {"schedule": noise_schedule_of(cfg), "std": cfg.noise.std, "p": cfg.noise.p}
    given = {key: value for key, value in options.items() if value is not None}
    if not {"std", "p"} & set(given):
        raise ValueError("noise.std is not given: it is a standard deviation (or noise.p with noise=flips)")
    if (stream := OmegaConf.select(cfg, "noise.stream", default="labels")) != "labels":
        raise ValueError(f"noise.stream={stream} is for models linear in X, not for task={cfg.task}: leave it out")
    if classes is not None and kind_of_noise(cfg) is LabelFlips:
        given["num_classes"] = classes
    make = instantiate({"_target_": cfg.noise._target_, **given}, _partial_=True, _convert_="all")
    try:
        noise: Noise = make()  # called here, so that an error is the constructor's, not Hydra's
    except TypeError:
        raise ValueError(
            f"noise.{' and noise.'.join(given)} do not fit {cfg.noise._target_}: choose noise=..."
        ) from None
    return noise


def steps_of(cfg: DictConfig) -> int:
    """The number of steps, which must be given: no plan chooses it here."""
    steps = number(cfg, "steps", whole=True)
    if steps is None or number(cfg, "optimizer.lr") is None:
        raise ValueError(f"task={cfg.task} needs numbers for steps and optimizer.lr")
    return int(steps)


def anneal_of(cfg: DictConfig) -> Anneal:
    """The annealing at the end, from study.anneal (a share of the steps) and study.annealed."""
    steps = steps_of(cfg)
    if not 0 <= cfg.study.anneal <= 1:
        raise ValueError(f"study.anneal={cfg.study.anneal} must lie in [0, 1]: it is a share of the steps")
    return Anneal(round(cfg.study.anneal * steps), cfg.study.annealed)


def anneal_start(cfg: DictConfig) -> int:
    """The last step of constant noise and lr."""
    return max(1, steps_of(cfg) - anneal_of(cfg).steps)


def criterion_of(cfg: DictConfig) -> Criterion:
    """(output, target rows) -> mean loss."""
    squared = partial(squared_loss, scale=cfg.loss_constant)
    choices: dict[str, Criterion] = {"cross_entropy": functional.cross_entropy, "squared": squared}
    name = cfg.classification.loss
    if name not in choices:
        raise ValueError(f"classification.loss={name!r} is unknown: choose one of {', '.join(choices)}")
    return choices[name]


def scheduled_steps(cfg: DictConfig) -> list[int]:
    """The steps to measure at."""
    steps, anneal = steps_of(cfg), anneal_of(cfg).steps
    per_octave = cfg.study.points if cfg.points_per_octave is None else cfg.points_per_octave
    check(per_octave)
    extra = np.linspace(steps - anneal, steps, ANNEALING_POINTS + 1).astype(int).tolist() if anneal else []
    return schedule(steps, per_octave, *extra)
