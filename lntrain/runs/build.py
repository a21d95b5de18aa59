"""Configuration -> problem, plan, model, noise, optimiser: the objects of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lntrain.data.problem import Problem
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.labels import Antithetic, LabelFlips, Noise, RademacherNoise
from lntrain.noise.schedules import Schedule
from lntrain.optim.sgd import LabelNoiseSGD
from lntrain.penalty.formula import alpha_max
from lntrain.runs.console import plan_text
from lntrain.theory.dynamics import Dynamics
from lntrain.theory.plan import Plan, make_plan
from lntrain.training.loop import POINTS_PER_OCTAVE

DTYPES = {"float64": torch.float64, "float32": torch.float32}
REPLICAS, REAL_REPLICAS = 8, 2  # networks of an automatic run: of the paper's problem, of real data
INIT = 0.1  # of the weights
LARGE, APART = 200_000, 1600  # numbers of X from which on metrics cost as much as some 80 steps, and steps between them
FEWEST_ROWS = 256  # of a batch that "auto" may choose
AUTOMATIC = ("noise.antithetic", "penalty.corrected", "average", "model.replicas", "model.init", "batch_size", "optimizer.lr", "steps")  # fmt: skip


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
    """cfg -> problem -> plan -> model, noise, optimiser. `cfg` then holds what "auto" chose."""
    if cfg.model.dtype not in DTYPES:
        raise ValueError(f"model.dtype={cfg.model.dtype!r}: choose one of {', '.join(DTYPES)}")
    if cfg.model.depth != 2:
        raise ValueError(
            f"model.depth={cfg.model.depth} solves no Lasso (its penalty is |beta|^(2 - 2/depth)): use depth=2, or lntrain.train"
        )
    if not (math.isfinite(cfg.loss_scale) and cfg.loss_scale > 0):
        raise ValueError(
            f"loss_scale={cfg.loss_scale:g} must be positive: 0.5 is half the mean square, 0.25 the paper's"
        )
    problem: Problem = instantiate(cfg.problem, _convert_="all")
    asked = OmegaConf.create(OmegaConf.to_container(cfg))
    settle(cfg, problem)
    plan = make_plan(
        problem, _alternatives(cfg, problem),
        lr=number(cfg, "optimizer.lr"), std=cfg.noise.std, alpha=cfg.penalty.alpha, alpha_ratio=cfg.penalty.alpha_ratio,
        steps=number(cfg, "steps", whole=True), accuracy=cfg.accuracy, budget=cfg.budget,
        corrected=cfg.penalty.corrected, tail=cfg.average == "tail", replicas=cfg.model.replicas or 1,
    )  # fmt: skip
    _write(cfg, plan)
    dtype, device = DTYPES[cfg.model.dtype], device_of(cfg)
    model = instantiate(cfg.model, _partial_=True, _convert_="all")(in_features=problem.d, dtype=dtype).to(device)
    leave_out(model, plan.kept)
    noise = noise_of(cfg, plan.std)
    optimizer = instantiate(cfg.optimizer, _partial_=True, _convert_="all")(
        model.parameters(), noise=noise, seed=cfg.seed
    )
    lr_schedule = instantiate(cfg.lr_schedule, _convert_="all") if cfg.lr_schedule else None
    if problem.n * problem.d > LARGE:
        plan.notes.append(f"metrics are {APART} steps or more apart: X is large, and they cost a twentieth at most")
    for name, schedule in (("noise.schedule", cfg.noise.schedule), ("lr_schedule", cfg.lr_schedule)):
        if schedule:
            plan.notes.append(f"{name} changes the penalty over time: the prediction is for its first step")
    text = plan_text(problem, model, plan, _wishes(asked, cfg, noise))
    return Job(problem.to(device, dtype), model, optimizer, plan, lr_schedule, text, cfg.seed)


def leave_out(model: DiagonalLinear, kept: torch.Tensor) -> None:
    """The other columns start at 0, where their weights stay for ever; kept: (d,), or (R, d) with replicas."""
    with torch.no_grad():
        for weight in model.weights:
            weight[..., ~kept.to(weight.device)] = 0


def settle(cfg: DictConfig, problem: Problem) -> None:
    """What "auto" means for this problem, where no plan is needed to tell: a known truth keeps the paper's setting."""
    real = problem.coef is None
    if cfg.average not in ("auto", "all", "tail"):
        raise ValueError(f"average={cfg.average!r} is unknown: choose all, tail or auto")
    if cfg.model.replicas == "auto":
        cfg.model.replicas = REAL_REPLICAS if real else REPLICAS
    if cfg.model.init == "auto":
        scale = math.sqrt(alpha_max(problem.X, problem.y)) if real else 1.0
        cfg.model.init = float(f"{INIT * scale or INIT:.3g}")
    if cfg.average == "auto":
        cfg.average = "tail" if real else "all"
    if cfg.penalty.corrected == "auto":
        cfg.penalty.corrected = real and cfg.noise.std is None
    if cfg.noise.antithetic == "auto" and not real:
        cfg.noise.antithetic = False
    if cfg.batch_size == "auto" and (not real or cfg.sampling is not None):
        cfg.batch_size = None
    for key in ("model.replicas", "batch_size"):
        value = OmegaConf.select(cfg, key)
        if value not in (None, "auto") and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{key}={value!r} must be a whole number, at least 1, or null")
    for key in ("noise.antithetic", "penalty.corrected"):
        if OmegaConf.select(cfg, key) not in (True, False, "auto"):
            raise ValueError(f"{key}={OmegaConf.select(cfg, key)!r}: choose true, false or auto")


def _alternatives(cfg: DictConfig, problem: Problem) -> list[Dynamics]:
    """The dynamics that the plan may choose from, in order of preference."""
    one = dynamics_of(cfg)
    pairs = [False, True] if cfg.noise.antithetic == "auto" else [cfg.noise.antithetic]
    sizes: list[int | None] = [cfg.batch_size]
    if cfg.batch_size == "auto":
        fewer = (problem.n // share for share in (4, 16, 64, 256))
        sizes = [None, *(size for size in fewer if size >= max(FEWEST_ROWS, 2 * problem.d))]
    return [replace(one, antithetic=pair, batch_size=size) for size in sizes for pair in pairs]


def _write(cfg: DictConfig, plan: Plan) -> None:
    """What the plan chose, into `cfg`; a corrected std follows again from the penalty, which stays."""
    cfg.optimizer.lr, cfg.steps = plan.lr, plan.steps
    cfg.noise.antithetic, cfg.batch_size = plan.dynamics.antithetic, plan.dynamics.batch_size
    if not plan.corrected:
        cfg.penalty.corrected = False
        cfg.noise.std, cfg.penalty.alpha, cfg.penalty.alpha_ratio = plan.std, None, None  # std now says it


def _wishes(asked: Any, cfg: DictConfig, noise: Noise) -> dict[str, str]:
    """Remarks on noise, lr and batch, and the overrides that repeat what "auto" chose."""
    automatic = [key for key in AUTOMATIC if OmegaConf.select(asked, key) == "auto"]
    again = {key: OmegaConf.select(cfg, key) for key in automatic}
    plain = {None: "null", True: "true", False: "false"}
    batch = "all labels" if cfg.batch_size is None else f"batches of {cfg.batch_size} ({cfg.sampling or 'replacement'})"
    return {
        "noise": ("antithetic " if cfg.noise.antithetic else "") + type(getattr(noise, "noise", noise)).__name__,
        "batch": batch,
        "lr": "auto" if "optimizer.lr" in automatic else "given",
        "again": " ".join(f"{key}={plain[v] if v is None or isinstance(v, bool) else v}" for key, v in again.items()),
    }


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


def points(steps: int, per_octave: int | None, *, size: int = 0, period: int = 1) -> str | list[int]:
    """The steps to report, so many an octave, evenly in the logarithm; "log" is `train`'s own choice.

    Where X holds `size` > LARGE numbers they lie at least APART steps apart, so that metrics cost a twentieth of the
    steps at most; and at whole pairs of antithetic noise (`period` 2).

    >>> points(100, 1), points(4000, 1, size=10**6, period=2)
    ([100, 50, 25, 12, 6, 3, 1], [4000, 2000])
    """
    if per_octave is None and size <= LARGE:
        return "log"
    if per_octave is not None and per_octave < 1:
        raise ValueError(f"points_per_octave={per_octave} must be at least 1")
    many = per_octave or POINTS_PER_OCTAVE
    chosen = (int(steps * 2 ** (-k / many)) // period * period for k in range(1, many * (steps.bit_length() - 1) + 1))
    apart, kept = APART if size > LARGE else 1, [steps]
    for step in chosen:
        if step >= apart and kept[-1] - step >= apart:
            kept.append(step)
    return kept


def dynamics_of(cfg: DictConfig) -> Dynamics:
    scale = cfg.model.init if isinstance(cfg.model.init, (int, float)) else 0.1
    if not scale or not math.isfinite(scale):
        raise ValueError(
            f"model.init={scale} must be finite and not zero: a weight that starts at 0 stays there for ever"
        )
    rademacher = str(cfg.noise._target_).endswith(RademacherNoise.__name__)
    return Dynamics(
        parametrisation=cfg.model.parametrisation, loss_scale=cfg.loss_scale, batch_size=None if cfg.batch_size == "auto" else cfg.batch_size, sampling=cfg.sampling,
        momentum=cfg.optimizer.momentum, dampening=cfg.optimizer.dampening, nesterov=cfg.optimizer.nesterov,
        weight_decay=cfg.optimizer.weight_decay, antithetic=cfg.noise.antithetic is True,
        noise_kurtosis=1.0 if rademacher else 3.0, init=abs(scale),
    )  # fmt: skip


def noise_of(cfg: DictConfig, std: Any) -> Noise:
    """The configured noise with this std (or one a replica)."""
    if str(cfg.noise._target_).endswith(LabelFlips.__name__):
        raise ValueError("noise=flips is for classes (experiment=digits): numbers need noise=gaussian or rademacher")
    options = {"schedule": cfg.noise.schedule or None}
    noise: Noise = instantiate({"_target_": cfg.noise._target_, **options}, _partial_=True, _convert_="all")(std=std)
    return Antithetic(noise) if cfg.noise.antithetic is True else noise  # type: ignore[arg-type]
