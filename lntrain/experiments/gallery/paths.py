"""Entries on the regularisation path, which task=path trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lntrain.experiments.gallery import rules
from lntrain.experiments.verdicts import Check


@dataclass(frozen=True)
class LassoPath:
    """Label-noise averages at many noise levels lie on the Lasso's path."""

    median: float  # of the relative distance over the path

    def checks(self, arms: Any) -> list[Check]:
        """Coefficients and fit."""
        path = arms["path"]
        return [
            rules.at_most(f"median distance to the Lasso, {what}", [float(np.median(path[key]))], self.median)
            for what, key in (("coefficients", "distances"), ("fit", "distances_fit"))
        ]
