"""The figures of one run: coefficients on the Lasso, trajectories, errors against the step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lntrain.experiments import figures
from lntrain.runs.build import RunSpec
from lntrain.runs.regression import History


def draw(spec: RunSpec, history: History, average: Tensor, step: int) -> dict[str, Any]:
    """name -> figure. average: (d,) or (R, d), what the run is judged by."""
    plan, steps, mean = spec.plan, history.column("step"), average.cpu().numpy()
    assert plan.reference is not None
    many, columns = mean.ndim == 2, spec.problem.columns or None
    title = f"{spec.problem.name}: penalty {plan.alpha:.3g} (std {plan.std:.3g}, lr {plan.lr:.2g}), {step:.3g} steps"
    which = "mean of the second half" if plan.tail else "time average"
    own = plan.expected
    expected = None if own is None else (own.distance, own.low, own.high)
    names = _curves(plan.tail, which)
    bands = {label: history.column(f"{name}_sd") for label, name in names.items()} if many and len(mean) > 1 else None
    return {
        "coefficients": figures.coefficients(
            mean.mean(0) if many else mean,
            plan.reference.coef,
            sd=mean.std(0, ddof=1) if many and len(mean) > 1 else None,
            truth=None if spec.problem.coef is None else spec.problem.coef.cpu(),
            names=columns,
            which=which,
            title=title,
        ),
        "trajectories": figures.trajectories(
            steps,
            torch.stack(history.last),
            torch.stack(history.mean),
            plan.reference.coef[history.shown],
            names=columns and [columns[j] for j in history.shown],
            which=which,
            title=title,
        ),
        "errors": figures.errors(
            steps,
            {label: history.column(name) for label, name in names.items()},
            bands=bands,
            guides=not plan.tail,
            expected=expected,
            title=title,
        ),
    }


def _curves(tail: bool, which: str) -> dict[str, str]:
    """Label -> metric of the errors; for a tail the fit replaces compensated labels, needless with pairs."""
    if tail:
        return {which: "distance_tail", "its fit": "fit_tail", "last iterate": "distance_last"}
    return {
        which: "distance_mean",
        f"{which}, compensated labels": "distance_compensated",
        "last iterate": "distance_last",
    }
