"""evaluate(): pure; how far a snapshot is from the Lasso that was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lntrain.lasso import LassoSolution, as_float64, lasso_objective, weighted_lasso
from lntrain.problem import Problem
from lntrain.train import Snapshot

FALL = 8.0  # theory.md section 4: off when both log w^2 fall by more than this over the second half
SUNK = -60.0  # and a weight below e^-30 is off whatever it does: the float32 engine stops it at 1e-15


def off_support(log_weights: Tensor, earlier: Tensor, step: int, earlier_step: int) -> Tensor:
    """(..., d) bool: each log w^2 of the coordinate falls by more than 8 over the second half of the run.

    Args:
        log_weights, earlier: (..., m, d) log w^2 at `step` and at `earlier_step`, about half way.

    >>> off_support(torch.tensor([[-30.0, 0.0]]), torch.tensor([[-10.0, 0.0]]), 100, 50).tolist()
    [True, False]

    Source: theory.md section 4.
    """
    share = 2 * (step - earlier_step) / max(step, 1)  # 1 when the record is exactly half way
    return ((earlier - log_weights > FALL * share) | (log_weights < SUNK)).all(-2)


def distance(coef: Tensor, reference: Tensor) -> float:
    """||coef - reference|| / ||reference||; without the division where the reference is zero."""
    size = float(torch.linalg.vector_norm(reference))
    return float(torch.linalg.vector_norm(coef - reference)) / (size or 1.0)


def kkt_residual(gradient: Tensor, coef: Tensor, penalty: Tensor, off: Tensor, positive: bool = False) -> float:
    """max_j |g_j + lambda_j s_j| / lambda_j over the best subgradient: s = sign(coef) on, free in [-1, 1] off.

    >>> kkt_residual(torch.tensor([-0.75, 0.5]), torch.tensor([1.0, 0.0]), torch.ones(2), torch.tensor([False, True]))
    0.25
    """
    on = (gradient + penalty * torch.sign(coef)).abs() / penalty
    zero = ((-gradient if positive else gradient.abs()) - penalty).clamp_min(0) / penalty
    return float(torch.where(off, zero, on).max())


def support_scores(found: Tensor, true: Tensor) -> dict[str, float]:
    """Precision, recall and F1 of a support against another; 1 where both are empty."""
    hit, claimed, wanted = int((found & true).sum()), int(found.sum()), int(true.sum())
    if not claimed and not wanted:
        return {"support_precision": 1.0, "support_recall": 1.0, "support_f1": 1.0}
    return {
        "support_precision": hit / claimed if claimed else 0.0,
        "support_recall": hit / wanted if wanted else 0.0,
        "support_f1": 2 * hit / (claimed + wanted),
    }


def evaluate(
    problem: Problem,
    snapshot: Snapshot,
    reference: LassoSolution | Sequence[LassoSolution] | None,
    penalty: Any = None,
) -> dict[str, float]:
    """Every reported figure of a snapshot, as theory.md section 8 defines it.

    Args:
        problem: what was trained on. snapshot: from `train`.
        reference: the weighted Lasso, one a replica where penalties differ, or None without one.
        penalty: (d,) or (R, d) lambda; the reference's own unless told otherwise.

    Returns:
        name -> value; with replicas the mean over them, and its standard deviation as name + "_sd".
    """
    many = snapshot.loss.ndim > 0
    rows = []
    for r in range(len(snapshot.loss) if many else 1):
        lasso = reference[r] if isinstance(reference, Sequence) else reference
        own = lasso.penalty if lasso is not None and penalty is None else penalty
        lam = None if own is None else torch.as_tensor(own, dtype=torch.float64)
        rows.append(
            _evaluate_one(
                problem, snapshot, r if many else None, lasso, lam[r] if lam is not None and lam.ndim == 2 else lam
            )
        )
    row = {"step": float(snapshot.step)}
    for key in rows[0]:
        values = torch.tensor([each[key] for each in rows], dtype=torch.float64)
        row[key] = float(values.mean())
        if len(rows) > 1:
            row[f"{key}_sd"] = float(values.std())
    return row


def _evaluate_one(
    problem: Problem, snapshot: Snapshot, r: int | None, lasso: LassoSolution | None, penalty: Tensor | None
) -> dict[str, float]:
    def pick(values: Tensor) -> Tensor:
        return (values if r is None else values[r]).detach().cpu().double()

    row = {"train_loss": float(pick(snapshot.loss))}
    if snapshot.coef is None or snapshot.mean_coef is None:
        return row
    X, y = as_float64(problem.X), problem.y.detach().cpu().double()
    last, mean = pick(snapshot.coef), pick(snapshot.mean_coef)
    row["l1_norm_last"], row["l1_norm_mean"] = float(last.abs().sum()), float(mean.abs().sum())
    if problem.coef is not None:
        truth = problem.coef.cpu().double()
        row["distance_truth_mean"], row["distance_truth_last"] = distance(mean, truth), distance(last, truth)
    if lasso is None or penalty is None:
        return row
    labels = y + pick(snapshot.mean_noise)
    compensated = weighted_lasso(X, labels, penalty, positive=lasso.positive, start=lasso.coef)
    row["distance_mean"], row["distance_last"] = distance(mean, lasso.coef), distance(last, lasso.coef)
    row["distance_compensated"] = distance(mean, compensated.coef)
    objective = lasso_objective(X, y, penalty, mean)
    row["suboptimality_mean"] = (objective - lasso.objective) / lasso.objective if lasso.objective else 0.0
    gradient = torch.from_numpy(X.T @ (X @ mean.numpy() - labels.numpy())) / len(y)
    off = mean.abs() <= 1e-3 * mean.abs().max()  # a model without log-weights
    if snapshot.log_weights is not None and snapshot.earlier_log_weights is not None:
        now, before = pick(snapshot.log_weights), pick(snapshot.earlier_log_weights)
        off = off_support(now, before, snapshot.step, snapshot.earlier_step)
    row["kkt_residual"] = kkt_residual(gradient, mean, penalty, off, lasso.positive)
    on = lasso.support
    row["lambda_ratio"] = (
        float((-torch.sign(lasso.coef[on]) * gradient[on] / penalty[on]).mean()) if bool(on.any()) else float("nan")
    )
    row.update(support_scores(~off, on))
    row["support_size"] = float((~off).sum())
    return row
