"""Configuration -> problem, plan, model, noise, optimiser: the objects of one run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from lntrain.data.problem import Problem
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.column_space import ColumnSpaceNoise
from lntrain.noise.labels import Antithetic, LabelFlips, Noise
from lntrain.noise.schedules import Schedule
from lntrain.optim.sgd import LabelNoiseSGD
from lntrain.runs.console import plan_text
from lntrain.runs.settled import AUTOMATIC, Setting, Settled, in_column_space, settle, settled
from lntrain.theory.dynamics import Dynamics
from lntrain.theory.plan import Plan, make_plan
from lntrain.training.loop import Snapshot, train
from lntrain.training.points import APART, LARGE, points

MOST = 10**15  # steps, years of them
DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class RunSpec:
    """The objects that a configuration describes, and the numbers that its "auto" stands for."""

    problem: Problem
    model: DiagonalLinear
    optimizer: LabelNoiseSGD
    plan: Plan
    lr_schedule: Schedule | None
    plan_text: str
    seed: int
    settled: Settled


def build(cfg: DictConfig) -> RunSpec:
    """cfg -> problem -> plan -> model, noise, optimiser."""
    dtype, device = dtype_of(cfg), device_of(cfg)
    if cfg.model.depth != 2:
        raise ValueError(
            f"model.depth={cfg.model.depth} solves no Lasso (its penalty is |beta|^(2 - 2/depth)): "
            "use depth=2, or lntrain.train"
        )
    if not (math.isfinite(cfg.loss_constant) and cfg.loss_constant > 0):
        raise ValueError(
            f"loss_constant={cfg.loss_constant:g} must be positive: 0.5 is half the mean square, 0.25 the paper's"
        )
    problem: Problem = instantiate(cfg.problem, _convert_="all")
    setting = settle(cfg, problem)
    plan = _plan(cfg, setting, problem)
    numbers = settled(cfg, setting, plan)
    model = model_of(cfg, setting, problem.d, dtype, replicas=setting.replicas).to(device)
    leave_out(model, plan.kept)
    data = problem.to(device, dtype)
    noise = noise_of(cfg, data, plan.std, antithetic=numbers.antithetic)
    optimizer = optimizer_of(cfg, model, noise, lr=numbers.lr)
    if problem.n * problem.d > LARGE:
        plan.notes.append(f"metrics are {APART} steps or more apart: X is large, and they cost a twentieth at most")
    plan.notes.extend(noise_notes(cfg, problem))
    text = plan_text(problem, model, plan, _wishes(cfg, numbers, noise))
    return RunSpec(data, model, optimizer, plan, lr_schedule_of(cfg), text, cfg.seed, numbers)


def training_of(
    cfg: DictConfig,
    problem: Problem,
    model: DiagonalLinear,
    optimizer: LabelNoiseSGD,
    *,
    steps: int,
    batch_size: int | None,
    sampling: str | None,
    pairs: bool = False,
    state: dict[str, Any] | None = None,
) -> Iterator[Snapshot]:
    """`train` as the configuration says, reporting as many points as it asks for; pairs: the noise is antithetic."""
    scheduled = points(steps, cfg.points_per_octave, size=problem.n * problem.d, period=1 + pairs)
    return train(
        model,
        optimizer,
        problem,
        steps,
        batch_size=batch_size,
        sampling=sampling,
        loss_constant=cfg.loss_constant,
        lr_schedule=lr_schedule_of(cfg),
        engine=cfg.engine,
        state=state,
        snapshots=scheduled,
    )


def snapshots_of(
    cfg: DictConfig, spec: RunSpec, model: DiagonalLinear, optimizer: LabelNoiseSGD, state: dict[str, Any] | None = None
) -> Iterator[Snapshot]:
    """`training_of` with the numbers of the spec, on its problem."""
    own = spec.settled
    options: dict[str, Any] = {"steps": own.steps, "batch_size": own.batch_size, "pairs": own.antithetic}
    return training_of(cfg, spec.problem, model, optimizer, sampling=cfg.sampling, state=state, **options)


def _plan(cfg: DictConfig, setting: Setting, problem: Problem) -> Plan:
    """The plan for the wishes of the configuration."""
    one = dynamics_of(cfg, setting)
    several = [replace(one, antithetic=pair, batch_size=size) for size in setting.sizes for pair in setting.pairs]
    lr, steps = number(cfg, "optimizer.lr"), number(cfg, "steps", whole=True)
    with planning():
        return make_plan(
            problem,
            several,
            lr=lr,
            std=cfg.noise.std,
            alpha=cfg.penalty.alpha,
            alpha_ratio=cfg.penalty.alpha_ratio,
            steps=steps,
            target_distance=cfg.target_distance,
            budget=cfg.budget,
            corrected=setting.corrected,
            tail=setting.average == "tail",
            replicas=setting.replicas or 1,
        )


@contextmanager
def planning() -> Iterator[None]:
    """What numbers at the edge of floating point make the plan's mathematics raise is a mistake, not a defect."""
    try:
        with np.errstate(all="ignore"):  # what comes of it is looked at
            yield
    except (RuntimeError, ArithmeticError) as error:  # no certified Lasso, a flow that stopped, an overflow
        said = str(error).partition("\n")[0]
        raise ValueError(f"no plan can be made of these numbers: {said}") from error


def model_of(cfg: DictConfig, setting: Setting, d: int, dtype: torch.dtype, *, replicas: int | None) -> DiagonalLinear:
    """The configured network."""
    make = instantiate(cfg.model, _partial_=True, _convert_="all")
    settled = {"init": setting.init} if cfg.model.init == "auto" else {}  # else it may be an object of its own
    model: DiagonalLinear = make(in_features=d, replicas=replicas, dtype=dtype, **settled)
    return model


def optimizer_of(cfg: DictConfig, model: torch.nn.Module, noise: Noise, **options: Any) -> LabelNoiseSGD:
    """The configured optimiser; `options` over the configuration's."""
    make = instantiate(cfg.optimizer, _partial_=True, _convert_="all")
    optimizer: LabelNoiseSGD = make(model.parameters(), **{"noise": noise, "seed": cfg.seed, **options})
    return optimizer


def lr_schedule_of(cfg: DictConfig) -> Schedule | None:
    """step -> factor on lr; None leaves it."""
    _check_schedule("lr_schedule", cfg.lr_schedule)
    return instantiate(cfg.lr_schedule, _convert_="all") if cfg.lr_schedule else None


def noise_schedule_of(cfg: DictConfig) -> Any:
    """What the configuration says of the noise's schedule; None leaves std as it is."""
    _check_schedule("noise.schedule", cfg.noise.schedule)
    return cfg.noise.schedule or None


def _check_schedule(key: str, value: Any) -> None:
    if value and not (OmegaConf.is_dict(value) and "_target_" in value):
        raise ValueError(f"{key}={value!r} is no schedule: choose {key.replace('.', '/')}=NAME, or give a _target_")


def noise_notes(cfg: DictConfig, problem: Problem) -> list[str]:
    """What is to be said of the noise's stream, and what a prediction has to say of schedules."""
    named = (("noise.schedule", cfg.noise.schedule), ("lr_schedule", cfg.lr_schedule))
    notes = [f"{name} changes the penalty over time: the prediction is for its first step" for name, v in named if v]
    if not in_column_space(cfg):
        return notes
    if problem.n <= problem.d:
        return [*notes, f"noise.stream=gram saves nothing: X has n={problem.n} rows and d={problem.d} columns"]
    drawn = f"noise: drawn in the {problem.d} directions of X's columns"
    return [*notes, f"{drawn}: same law of every gradient, another stream"]


def leave_out(model: DiagonalLinear, kept: torch.Tensor) -> None:
    """The other columns start at 0, where their weights stay for ever; kept: (d,), or (R, d) with replicas."""
    with torch.no_grad():
        for weight in model.weights:
            weight[..., ~kept.to(weight.device)] = 0


def _wishes(cfg: DictConfig, numbers: Settled, noise: Noise) -> dict[str, str]:
    """Remarks on noise, lr and batch, and the overrides that repeat what "auto" chose."""
    automatic = [key for key in AUTOMATIC if OmegaConf.select(cfg, key) == "auto"]
    again, plain = numbers.values(), {None: "null", True: "true", False: "false"}
    size, sampling = numbers.batch_size, cfg.sampling or "replacement"
    return {
        "noise": ("antithetic " if numbers.antithetic else "") + type(getattr(noise, "noise", noise)).__name__,
        "batch": "all labels" if size is None else f"batches of {size} ({sampling})",
        "lr": "auto" if "optimizer.lr" in automatic else "given",
        "again": " ".join(
            f"{key}={plain[v] if v is None or isinstance(v, bool) else v}" for key in automatic for v in [again[key]]
        ),
    }


def dtype_of(cfg: DictConfig) -> torch.dtype:
    """The configured dtype."""
    if cfg.model.dtype not in DTYPES:
        raise ValueError(f"model.dtype={cfg.model.dtype!r}: choose one of {', '.join(DTYPES)}")
    return DTYPES[cfg.model.dtype]


def device_of(cfg: DictConfig) -> torch.device:
    """The configured device, if this machine has it."""
    try:
        device = torch.device(cfg.device)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("it is neither the CPU nor a CUDA GPU")
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
    known = not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
    if not known or (whole and value != int(value)):
        raise ValueError(f'{key}={value!r} is no {"whole " if whole else ""}number: give one, or "auto"')
    if whole and not 0 < value <= MOST:
        raise ValueError(f"{key}={value:g} must lie in 1..{MOST}")
    return int(value) if whole else float(value)


def dynamics_of(cfg: DictConfig, setting: Setting) -> Dynamics:
    """The dynamics that is preferred."""
    scale = setting.init if isinstance(setting.init, (int, float)) else 0.1
    if not scale or not math.isfinite(scale):
        raise ValueError(
            f"model.init={scale} must be finite and not zero: a weight that starts at 0 stays there for ever"
        )
    return Dynamics(
        parametrisation=cfg.model.parametrisation,
        loss_constant=cfg.loss_constant,
        batch_size=setting.sizes[0],
        sampling=cfg.sampling,
        momentum=cfg.optimizer.momentum,
        dampening=cfg.optimizer.dampening,
        nesterov=cfg.optimizer.nesterov,
        weight_decay=cfg.optimizer.weight_decay,
        antithetic=setting.pairs[0],
        noise_kurtosis=getattr(kind_of_noise(cfg), "kurtosis", 3.0),
        init=abs(scale),
        stream="gram" if in_column_space(cfg) else "labels",
    )


def kind_of_noise(cfg: DictConfig) -> Any:
    """The class of the configured noise."""
    return get_class(cfg.noise._target_)


def noise_of(cfg: DictConfig, problem: Problem, std: Any, *, antithetic: bool) -> Noise:
    """The configured noise with this std (or one a replica), of the labels of a problem as it is trained."""
    if kind_of_noise(cfg) is LabelFlips:
        raise ValueError("noise=flips is for classes (experiment=digits): numbers need noise=gaussian or rademacher")
    options = {"schedule": noise_schedule_of(cfg)}
    make = instantiate({"_target_": cfg.noise._target_, **options}, _partial_=True, _convert_="all")
    noise: Noise = make(std=std)
    if in_column_space(cfg):
        noise = ColumnSpaceNoise(std, noise.schedule, X=problem.X)  # type: ignore[union-attr]
    return Antithetic(noise) if antithetic else noise  # type: ignore[arg-type]
