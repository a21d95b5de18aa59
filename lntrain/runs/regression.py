"""What a run against its Lasso remembers beside its state, and what it is summed up to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain.runs.build import RunSpec
from lntrain.runs.history import Memory
from lntrain.theory.plan import Plan
from lntrain.training.loop import Snapshot

SHOWN = 12  # coordinates on and off the support whose trajectories are drawn
SUMMARY = (
    "alpha",
    "steps",
    "seconds",
    "steps_per_second",
    "seed",
    "reference_gap",
    "distance_mean",
    "distance_last",
    "distance_compensated",
    "suboptimality_mean",
    "kkt_residual",
    "lambda_ratio",
    "support_f1",
    "status",
)


class History(Memory):
    """The rows, and the trajectories of a few coordinates."""

    def __init__(self, spec: RunSpec, remembered: Mapping[str, Any]) -> None:
        reference, self.plan = spec.plan.reference, spec.plan
        size = reference.coef.abs() if reference is not None else torch.zeros(spec.problem.d)
        if reference is None and spec.problem.coef is not None:
            size = spec.problem.coef.double().abs()
        order = torch.argsort(size, descending=True, stable=True)
        on = int((size > 0).sum())
        self.shown = torch.cat((order[: min(on, SHOWN)], order[on : on + SHOWN]))
        self.metrics: list[dict[str, float]] = remembered.get("rows", [])
        self.last: list[Tensor] = list(remembered.get("last", []))
        self.mean: list[Tensor] = list(remembered.get("mean", []))

    def add(self, snapshot: Snapshot, row: dict[str, float]) -> None:
        """Remember a scheduled snapshot."""
        first = (0,) if snapshot.loss.ndim else ()
        mean = judged(self.plan, snapshot)
        assert snapshot.coef is not None
        assert mean is not None
        self.metrics.append(row)
        self.last.append(snapshot.coef[first][self.shown].double().cpu())
        self.mean.append(mean[first][self.shown].double().cpu())

    def state(self) -> dict[str, Any]:
        return {"rows": self.metrics, "last": _stack(self.last), "mean": _stack(self.mean)}

    def rows(self) -> Iterable[Mapping[str, Any]]:
        return self.metrics

    def told(self) -> dict[str, Any]:
        return dict.fromkeys(SUMMARY)

    def column(self, name: str) -> list[float]:
        """One metric over the rows."""
        return [row.get(name, math.nan) for row in self.metrics]


def _stack(rows: list[Tensor]) -> Tensor | list[Tensor]:
    """One tensor, which is saved sooner than many."""
    return torch.stack(rows) if rows else []


def judged(plan: Plan, snapshot: Snapshot) -> Tensor | None:
    """The average that this run is judged by."""
    return snapshot.tail_coef if plan.tail else snapshot.mean_coef


def summary_of(spec: RunSpec, row: Mapping[str, float], snapshot: Snapshot, seconds: float) -> dict[str, Any]:
    """What summary.json says of a run that is done; row: its last metrics."""
    plan, summary = spec.plan, dict.fromkeys(SUMMARY) | {name: value for name, value in row.items() if name != "step"}
    which = "tail" if plan.tail else "mean"
    for name, own in (("distance", "distance"), ("distance_fit", "fit"), ("suboptimality", "suboptimality")):
        summary |= {f"{name}{sd}": row[f"{own}_{which}{sd}"] for sd in ("", "_sd") if f"{own}_{which}{sd}" in row}
    summary |= {
        "alpha": plan.alpha,
        "alpha_ratio": plan.alpha_ratio,
        "lr": plan.lr,
        "std": plan.std,
        "steps": snapshot.step,
        "seconds": seconds,
        "steps_per_second": snapshot.step / seconds,
        "seed": spec.seed,
        "replicas": spec.settled.replicas,
        "reference_gap": None if plan.reference is None else plan.reference.gap,
        "near_ties": plan.near_ties,
        "antithetic": plan.dynamics.antithetic,
        "batch_size": plan.dynamics.batch_size,
        "average": spec.settled.average,
        "corrected": plan.corrected,
        "short_of_steps": plan.planned_steps if plan.short else None,
        "left_out": int((~plan.kept).sum()),
        "ill_determined": plan.ill_determined,
        "problem": spec.problem.name,
        "engine": snapshot.engine,
        "status": "done",
    }
    if plan.expected is not None:
        expected = {f"expected_{name}": value for name, value in vars(plan.expected).items()}
        summary |= {name: value if math.isfinite(value) else None for name, value in expected.items()}
    return summary


def arrays_of(spec: RunSpec, snapshot: Snapshot) -> dict[str, NDArray[Any]]:
    """What result.npz holds."""
    plan, problem, mean = spec.plan, spec.problem, judged(spec.plan, snapshot)
    arrays = {
        "mean_coef": snapshot.mean_coef,
        "tail_coef": snapshot.tail_coef,
        "last_coef": snapshot.coef,
        "penalty": plan.penalty,
        "truth": problem.coef,
    }
    if plan.reference is not None:
        arrays["reference_coef"] = plan.reference.coef
    if problem.X_scale is not None and mean is not None:
        arrays["mean_coef_original"], arrays["intercept_original"] = problem.original_units(mean)  # type: ignore[assignment]
    names = {"columns": np.array(problem.columns), "target": np.array(problem.target)} if problem.columns else {}
    return {k: np.asarray(v.cpu()) for k, v in arrays.items() if v is not None} | names
