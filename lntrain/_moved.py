"""Where modules were before version 0.2: the old paths are found for one release, with a warning, and so are old runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

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


class _Finder(MetaPathFinder, Loader):
    """Finds `lntrain.OLD` as the module that it is now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __package__ and old in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"{__package__}.{MOVED[spec.name.rpartition('.')[2]]}"
        warnings.warn(f"{spec.name} is {new} now; the old path goes with the next release", FutureWarning, stacklevel=2)
        self._own = import_module(new).__spec__
        return sys.modules[new]

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its new name, and keeps the spec of it."""
        module.__spec__ = self._own


sys.meta_path.append(_Finder())
