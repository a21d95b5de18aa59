"""What "auto" means: the numbers of a run, settled once and frozen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from lntrain.data.problem import Problem
from lntrain.noise.labels import GaussianNoise
from lntrain.penalty.formula import alpha_max
from lntrain.theory.plan import Plan

REPLICAS, REAL_REPLICAS = 8, 2  # networks of an automatic run: of the paper's problem, of real data
INIT = 0.1  # of the weights
FEWEST_ROWS = 256  # of a batch that "auto" may choose
AUTOMATIC = (
    "noise.antithetic",
    "penalty.corrected",
    "average",
    "model.replicas",
    "model.init",
    "batch_size",
    "optimizer.lr",
    "steps",
)


@dataclass(frozen=True)
class Setting:
    """What is settled before there is a plan, which chooses among `pairs` (of noise or not) and `sizes` of batches."""

    replicas: int | None
    init: Any
    average: str
    corrected: bool
    pairs: tuple[bool, ...]
    sizes: tuple[int | None, ...]

    def values(self) -> dict[str, Any]:
        """Key of the configuration -> number, the preferred one where a plan could choose."""
        own = {"model.replicas": self.replicas, "model.init": self.init, "average": self.average}
        preferred = {"noise.antithetic": self.pairs[0], "batch_size": self.sizes[0]}
        return {**own, "penalty.corrected": self.corrected, **preferred}


@dataclass(frozen=True)
class Settled:
    """The numbers of a run, every one chosen; std is None where it follows from the penalty and the steps."""

    replicas: int | None
    init: Any
    average: str
    corrected: bool
    antithetic: bool
    batch_size: int | None
    lr: float
    steps: int
    std: float | None
    alpha: float | None
    alpha_ratio: float | None

    def values(self) -> dict[str, Any]:
        """Key of the configuration -> number."""
        return {
            "model.replicas": self.replicas,
            "model.init": self.init,
            "average": self.average,
            "penalty.corrected": self.corrected,
            "noise.antithetic": self.antithetic,
            "batch_size": self.batch_size,
            "optimizer.lr": self.lr,
            "steps": self.steps,
            "noise.std": self.std,
            "penalty.alpha": self.alpha,
            "penalty.alpha_ratio": self.alpha_ratio,
        }

    def yaml(self, cfg: DictConfig) -> str:
        """The configuration that gives this run again, as a checkpoint keeps it."""
        return yaml_with(cfg, self.values())


def yaml_with(cfg: DictConfig, values: dict[str, Any]) -> str:
    """A configuration as text, with other values at some keys."""
    other = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
    for key, value in values.items():
        OmegaConf.update(other, key, value)
    return OmegaConf.to_yaml(other)


def settle(cfg: DictConfig, problem: Problem) -> Setting:
    """What "auto" means for this problem, where no plan is needed to tell: a known truth keeps the paper's setting."""
    real, average, replicas, init = problem.coef is None, cfg.average, cfg.model.replicas, cfg.model.init
    if average not in ("auto", "all", "tail"):
        raise ValueError(f"average={average!r} is unknown: choose all, tail or auto")
    if replicas == "auto":
        replicas = REAL_REPLICAS if real else REPLICAS
    for key, value in (("model.replicas", replicas), ("batch_size", cfg.batch_size)):
        if value not in (None, "auto") and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{key}={value!r} must be a whole number, at least 1, or null")
        if isinstance(value, int) and value > 2**31:
            raise ValueError(f"{key}={value} must be at most {2**31}")
    for key in ("noise.antithetic", "penalty.corrected"):
        if OmegaConf.select(cfg, key) not in (True, False, "auto"):
            raise ValueError(f"{key}={OmegaConf.select(cfg, key)!r}: choose true, false or auto")
    if init == "auto":
        scale = math.sqrt(alpha_max(problem, problem.y)) if real else 1.0
        init = float(f"{INIT * scale or INIT:.3g}")
    automatic = real and cfg.noise.std is None
    return Setting(
        replicas,
        init,
        ("tail" if real else "all") if average == "auto" else average,
        automatic if cfg.penalty.corrected == "auto" else cfg.penalty.corrected,
        ((False, True) if real else (False,)) if cfg.noise.antithetic == "auto" else (cfg.noise.antithetic,),
        _sizes(cfg, problem),
    )


def in_column_space(cfg: DictConfig) -> bool:
    """Whether the noise is drawn in the directions of X's columns (noise.stream=gram), where that can be."""
    stream = OmegaConf.select(cfg, "noise.stream", default="labels")  # checkpoints of former releases lack it
    if stream not in ("labels", "gram"):
        raise ValueError(f"noise.stream={stream!r} is unknown: choose labels or gram")
    if stream == "labels":
        return False
    if get_class(cfg.noise._target_) is not GaussianNoise:
        raise ValueError(f"noise.stream=gram is Gaussian only, not {cfg.noise._target_}: take noise=gaussian")
    batch, sampling = cfg.batch_size, cfg.sampling
    if sampling not in (None, "full") or (sampling is None and batch not in (None, "auto")):
        raise ValueError(
            f"noise.stream=gram needs whole batches, not batch_size={batch}, sampling={sampling or 'null'}: "
            "leave both out, or take noise.stream=labels"
        )
    return True


def _sizes(cfg: DictConfig, problem: Problem) -> tuple[int | None, ...]:
    """Of the batches that the plan may choose from, in order of preference."""
    whole = in_column_space(cfg)
    if cfg.batch_size != "auto":
        return (cfg.batch_size,)
    if problem.coef is not None or cfg.sampling is not None or whole:
        return (None,)
    fewer = (problem.n // share for share in (4, 16, 64, 256))
    return (None, *(size for size in fewer if size >= max(FEWEST_ROWS, 2 * problem.d)))


def settled(cfg: DictConfig, setting: Setting, plan: Plan) -> Settled:
    """With what the plan chose; a corrected std follows again from the penalty, which stays."""
    wish = (cfg.noise.std, cfg.penalty.alpha, cfg.penalty.alpha_ratio) if plan.corrected else (plan.std, None, None)
    return Settled(
        setting.replicas,
        setting.init,
        setting.average,
        setting.corrected and plan.corrected,
        plan.dynamics.antithetic,
        plan.dynamics.batch_size,
        plan.lr,
        plan.steps,
        *wish,
    )
