"""The configuration's schema: a misspelt key or a wrong type is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

MISSING: Any = "???"  # filled by conf/


@dataclass
class SparseProblem:
    """conf/problem/sparse.yaml: lntrain.sparse_regression."""

    _target_: str = MISSING
    n: int = MISSING
    d: int = MISSING
    k: int = MISSING
    signs: str = MISSING
    noise: float = MISSING
    design: str = MISSING
    rho: float = MISSING
    column_scales: Optional[list[float]] = None  # noqa: UP045 (OmegaConf knows no union of a list)
    seed: int = MISSING


@dataclass
class DiabetesProblem:
    """conf/problem/diabetes.yaml: lntrain.diabetes."""

    _target_: str = MISSING
    interactions: bool = MISSING
    center: bool = MISSING
    scale: bool = MISSING


@dataclass
class FileProblem:
    """conf/problem/file.yaml: lntrain.from_file."""

    _target_: str = MISSING
    path: str = MISSING
    target: str | None = None
    center: bool = MISSING
    scale: bool = MISSING


@dataclass
class Model:
    """conf/model/: lntrain.DiagonalLinear."""

    _target_: str = MISSING
    parametrisation: str = MISSING
    depth: int = MISSING
    init: Any = MISSING
    replicas: int | None = None
    dtype: str = MISSING


@dataclass
class Noise:
    """conf/noise/: what is added to labels; `antithetic` pairs it, `schedule` scales std over steps."""

    _target_: str = MISSING
    std: float | None = None
    antithetic: bool = False
    schedule: Any = None


@dataclass
class Optimizer:
    """conf/optimizer/: lntrain.LabelNoiseSGD."""

    _target_: str = MISSING
    lr: Any = MISSING
    momentum: float = MISSING
    dampening: float = MISSING
    nesterov: bool = MISSING
    weight_decay: float = MISSING


@dataclass
class Penalty:
    """The wish: at most one of noise.std, penalty.alpha and penalty.alpha_ratio; none means ratio 0.1."""

    alpha: float | None = None
    alpha_ratio: float | None = None


@dataclass
class Config:
    """conf/config.yaml."""

    problem: Any = MISSING
    model: Model = field(default_factory=Model)
    noise: Noise = field(default_factory=Noise)
    optimizer: Optimizer = field(default_factory=Optimizer)
    penalty: Penalty = field(default_factory=Penalty)
    lr_schedule: Any = None
    task: str = MISSING
    steps: Any = MISSING
    accuracy: float = MISSING
    batch_size: int | None = None
    sampling: str | None = None
    loss_scale: float = MISSING
    engine: str = MISSING
    seed: int = MISSING
    checkpoint_every: float = MISSING
    figure1: Any = None
    path: Any = None
    run_dir: str = MISSING
