"""Configuration -> problem, plan, model, noise, optimiser: the objects of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lntrain.model import DiagonalLinear
from lntrain.noise import Antithetic, LabelFlips, Noise, RademacherNoise
from lntrain.optim import LabelNoiseSGD
from lntrain.plan import Dynamics, Plan, make_plan
from lntrain.problem import Problem
from lntrain.report import plan_text
from lntrain.schedule import Schedule

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class Job:
    """The objects a configuration describes."""

    problem: Problem
    model: DiagonalLinear
    optimizer: LabelNoiseSGD
    plan: Plan
    lr_schedule: Schedule | None
    plan_text: str
    seed: int


def build(cfg: DictConfig) -> Job:
    """cfg -> problem -> plan -> model, noise, optimiser. `cfg` then holds the numbers that "auto" chose."""
    if cfg.model.dtype not in DTYPES:
        raise ValueError(f"model.dtype={cfg.model.dtype!r}: choose one of {', '.join(DTYPES)}")
    if cfg.model.depth != 2:
        raise ValueError(
            f"model.depth={cfg.model.depth} solves no Lasso (its penalty is |beta|^(2 - 2/depth)): use depth=2, or lntrain.train"
        )
    problem: Problem = instantiate(cfg.problem, _convert_="all")
    dynamics = dynamics_of(cfg)
    automatic = cfg.optimizer.lr == "auto"
    plan = make_plan(
        problem, dynamics,
        lr=number(cfg, "optimizer.lr"), std=cfg.noise.std, alpha=cfg.penalty.alpha, alpha_ratio=cfg.penalty.alpha_ratio,
        steps=number(cfg, "steps", whole=True), accuracy=cfg.accuracy,
    )  # fmt: skip
    cfg.optimizer.lr, cfg.steps, cfg.noise.std = plan.lr, plan.steps, plan.std
    cfg.penalty.alpha = cfg.penalty.alpha_ratio = None  # std now says it
    dtype = DTYPES[cfg.model.dtype]
    device = device_of(cfg)
    model = instantiate(cfg.model, _partial_=True, _convert_="all")(in_features=problem.d, dtype=dtype).to(device)
    noise = noise_of(cfg, plan.std)
    optimizer = instantiate(cfg.optimizer, _partial_=True, _convert_="all")(
        model.parameters(), noise=noise, seed=cfg.seed
    )
    lr_schedule = instantiate(cfg.lr_schedule, _convert_="all") if cfg.lr_schedule else None
    for name, schedule in (("noise.schedule", cfg.noise.schedule), ("lr_schedule", cfg.lr_schedule)):
        if schedule:
            plan.notes.append(f"{name} changes the penalty over time: the prediction is for its first step")
    wishes = {
        "noise": ("antithetic " if cfg.noise.antithetic else "") + type(getattr(noise, "noise", noise)).__name__,
        "batch": "all labels"
        if cfg.batch_size is None
        else f"batches of {cfg.batch_size} ({cfg.sampling or 'replacement'})",
        "lr": "auto" if automatic else "given",
    }
    text = plan_text(problem, model, plan, wishes)
    return Job(problem.to(device, dtype), model, optimizer, plan, lr_schedule, text, cfg.seed)


def device_of(cfg: DictConfig) -> torch.device:
    """The configured device, if this machine has it."""
    try:
        device = torch.device(cfg.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        why = str(error).splitlines()[0]
        raise ValueError(f"device={cfg.device!r} cannot be used ({why}): take device=cpu") from None
    return device


def number(cfg: DictConfig, key: str, whole: bool = False) -> Any:
    """A number, or None for "auto"."""
    value = OmegaConf.select(cfg, key)
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (whole and value != int(value)):
        raise ValueError(f'{key}={value!r} is no {"whole " if whole else ""}number: give one, or "auto"')
    return int(value) if whole else float(value)


def points(steps: int, per_octave: int | None) -> str | list[int]:
    """The steps to report, so many an octave, evenly in the logarithm; "log" is `train`'s own choice.

    >>> points(100, 1)
    [100, 50, 25, 12, 6, 3, 1]
    """
    if per_octave is None:
        return "log"
    if per_octave < 1:
        raise ValueError(f"points_per_octave={per_octave} must be at least 1")
    return list(
        dict.fromkeys(int(steps * 2 ** (-k / per_octave)) for k in range(per_octave * (steps.bit_length() - 1) + 1))
    )


def dynamics_of(cfg: DictConfig) -> Dynamics:
    scale = cfg.model.init if isinstance(cfg.model.init, (int, float)) else 0.1
    if not scale or not math.isfinite(scale):
        raise ValueError(
            f"model.init={scale} must be finite and not zero: a weight that starts at 0 stays there for ever"
        )
    rademacher = str(cfg.noise._target_).endswith(RademacherNoise.__name__)
    return Dynamics(
        parametrisation=cfg.model.parametrisation, loss_scale=cfg.loss_scale, batch_size=cfg.batch_size, sampling=cfg.sampling,
        momentum=cfg.optimizer.momentum, dampening=cfg.optimizer.dampening, nesterov=cfg.optimizer.nesterov,
        weight_decay=cfg.optimizer.weight_decay, antithetic=cfg.noise.antithetic,
        noise_kurtosis=1.0 if rademacher else 3.0, init=abs(scale),
    )  # fmt: skip


def noise_of(cfg: DictConfig, std: Any) -> Noise:
    """The configured noise with this std (or one a replica)."""
    if str(cfg.noise._target_).endswith(LabelFlips.__name__):
        raise ValueError("noise=flips is for classes (experiment=digits): numbers need noise=gaussian or rademacher")
    options = {"schedule": cfg.noise.schedule or None}
    noise: Noise = instantiate({"_target_": cfg.noise._target_, **options}, _partial_=True, _convert_="all")(std=std)
    return Antithetic(noise) if cfg.noise.antithetic else noise  # type: ignore[arg-type]
