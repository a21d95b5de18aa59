"""Former names, taken for one release with a warning: paths of modules, keyword arguments, words of a config."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MOVED = {
    "controls": "noise.controls",
    "corrections": "penalty.corrections",
    "diagnostics": "training.evaluation",
    "dual": "lasso.dual",
    "flow": "theory.flow",
    "gamma": "theory.gamma",
    "images": "data.images",
    "laws": "theory.laws",
    "model": "models.diagonal",
    "networks": "models.networks",
    "plan": "theory.plan",
    "prediction": "theory.prediction",
    "problem": "data.problem",
    "readers": "data.readers",
    "references": "lasso.references",
    "regime": "theory.regime",
    "replicas": "models.replicas",
    "schedule": "noise.schedules",
    "stream": "noise.philox",
    "support": "theory.support",
}  # not `train` and `quadratic`: those names are functions now
KEYS = {"loss_scale": "loss_constant", "accuracy": "target_distance"}  # of a configuration, and of functions
SAMPLINGS = {"haochen": "noisy_rows"}


def warn(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Say once where it is used that a name has changed."""
    warnings.warn(f"{old} is {new} now: the old name goes with the next release", FutureWarning, stacklevel=stacklevel)


def sampling_named(word: str | None) -> str | None:
    """Today's word for a way of sampling."""
    if word not in SAMPLINGS:
        return word
    warn(f"sampling={word!r}", repr(SAMPLINGS[word]), stacklevel=4)
    return SAMPLINGS[word]


def renamed(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, which also takes its keyword arguments by their former names.

    >>> with warnings.catch_warnings(action="ignore"):
    ...     renamed(lambda loss_constant: loss_constant)(loss_scale=0.25)
    0.25
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for old in KEYS.keys() & kwargs.keys():
            if KEYS[old] in kwargs:
                raise TypeError(f"{function.__name__}: {old} is {KEYS[old]} now: give that one alone")
            warn(f"{function.__name__}({old}=...)", KEYS[old])
            kwargs[KEYS[old]] = kwargs.pop(old)
        return function(*args, **kwargs)

    return call


def former(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that finds its functions by their former names too."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(f"{module}.{name}", names[name])
        return getattr(sys.modules[module], names[name])

    return find


class _Finder(MetaPathFinder, Loader):
    """Finds `lntrain.OLD` as the module that it is now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __package__ and old in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"{__package__}.{MOVED[spec.name.rpartition('.')[2]]}"
        warn(spec.name, new, stacklevel=2)
        self._own = import_module(new).__spec__
        return sys.modules[new]

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its new name, and keeps the spec of it."""
        module.__spec__ = self._own


sys.meta_path.append(_Finder())
