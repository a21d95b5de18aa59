"""evaluate(): pure; how far a snapshot is from the problem that was predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lntrain.data.problem import Problem
from lntrain.lasso.certificate import products
from lntrain.lasso.concave import StationaryPoint
from lntrain.lasso.dual import Reference
from lntrain.lasso.groups import GroupLassoSolution
from lntrain.lasso.solve import LassoSolution, relabelled_lasso
from lntrain.theory.prediction import Prediction
from lntrain.theory.support import Verdict, fallen, verdict
from lntrain.training.blocks import block_figures, relabelled_groups
from lntrain.training.loop import Snapshot
from lntrain.training.stationary import stationary_figures


def distance(coef: Tensor, reference: Tensor) -> Tensor:
    """||coef - reference|| / ||reference|| over the last axis; without the division where the reference is zero."""
    away: Tensor = torch.linalg.vector_norm(coef - reference, dim=-1)
    size = torch.linalg.vector_norm(reference, dim=-1)
    return away / torch.where(size > 0, size, 1.0)


def kkt_residual(gradient: Tensor, coef: Tensor, penalty: Tensor, off: Tensor, positive: bool = False) -> Tensor:
    """max_j |g_j + lambda_j s_j| / lambda_j over the best subgradient: s = sign(coef) on, free in [-1, 1] off.

    >>> gradient, coef, off = torch.tensor([-0.75, 0.5]), torch.tensor([1.0, 0.0]), torch.tensor([False, True])
    >>> kkt_residual(gradient, coef, torch.ones(2), off).item()
    0.25
    """
    on = (gradient + penalty * torch.sign(coef)).abs() / penalty
    zero = ((-gradient if positive else gradient.abs()) - penalty).clamp_min(0) / penalty
    return torch.where(off, zero, on).amax(-1)


def support_scores(found: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Precision, recall and F1 of supports against others, over the last axis; 1 where both are empty."""
    hit, claimed, wanted = (support.sum(-1).double() for support in (found & true, found, true))
    empty = (claimed + wanted == 0).double()
    return {
        "support_precision": torch.maximum(hit / claimed.clamp_min(1), empty),
        "support_recall": torch.maximum(hit / wanted.clamp_min(1), empty),
        "support_f1": torch.maximum(2 * hit / (claimed + wanted).clamp_min(1), empty),
    }


def evaluate(
    problem: Problem,
    snapshot: Snapshot,
    reference: Prediction | LassoSolution | GroupLassoSolution | Sequence[LassoSolution] | None,
    penalty: Any = None,
    *,
    average: str = "all",
) -> dict[str, float]:
    """Every reported figure of a snapshot, as theory.md section 8 defines it.

    A prediction with an exponent below 1 (Adam and the like) has many stationary points: distances are to the one
    nearest to the run's own mean (at_minimum: 0 for a saddle); kkt_residual and penalty_ratio hold on its support,
    nothing is said of l1, and figures are NaN where no point is certified.

    Args:
        problem: what was trained on. snapshot: from `train`.
        reference: a `predict`ion; or the weighted Lasso, one per replica where penalties differ; or a group lasso,
            against which KKT residual and lambda_ratio are those of blocks; or None.
        penalty: (d,) or (R, d) lambda, of Lassos only; by default the reference's.
        average: what lambda_ratio, kkt_residual, l1_norm_mean and distance_compensated are computed from: "all", the
            mean of all steps, or "tail", that of about the second half. Distances, fits and objectives have both.

    Returns:
        name -> value; with replicas the mean over them, and its standard deviation as name + "_sd"; NaN if
        one of them diverged and was kept.
    """
    return summarise(snapshot.step, measure(problem, snapshot, reference, penalty, average=average))


def summarise(step: int, columns: Mapping[str, Tensor]) -> dict[str, float]:
    """A row of the columns that `measure` gives: each mean, and with several replicas its standard deviation."""
    row = {"step": float(step)}
    for key, values in columns.items():
        row[key] = float(values.mean())
        if len(values) > 1:
            row[f"{key}_sd"] = float(values.std())
    return row


def measure(
    problem: Problem,
    snapshot: Snapshot,
    reference: Prediction | LassoSolution | GroupLassoSolution | Sequence[LassoSolution] | None,
    penalty: Any = None,
    *,
    average: str = "all",
) -> dict[str, Tensor]:
    """`evaluate` before the mean: name -> (R,) values, (1,) without replicas; NaN for a replica that diverged."""
    gone = _gone(snapshot)
    if bool(gone.any()) and not bool(gone.all()):
        return _measure_whole(problem, snapshot, reference, penalty, average, ~gone)
    many = snapshot.loss.ndim > 0

    def rows(values: Tensor) -> Tensor:
        return (values if many else values[None]).detach().cpu().double()

    columns = {"train_loss": rows(snapshot.loss)}
    if snapshot.coef is None or snapshot.mean_coef is None:
        return columns
    if average not in ("all", "tail"):
        raise ValueError(f'average={average!r} is unknown: choose "all" or "tail"')
    last, mean = rows(snapshot.coef), rows(snapshot.mean_coef)
    tail = mean if snapshot.tail_coef is None else rows(snapshot.tail_coef)
    tail_noise = snapshot.mean_noise if snapshot.tail_noise is None else snapshot.tail_noise
    judged, noise = (mean, snapshot.mean_noise) if average == "all" else (tail, tail_noise)
    known, penalty = _opened(reference, penalty)
    if not isinstance(known, (GroupLassoSolution, StationaryPoint)):
        columns["l1_norm_last"], columns["l1_norm_mean"] = last.abs().sum(-1), judged.abs().sum(-1)
    columns |= _truth(problem, mean, last)
    if known is None:
        return columns
    averages = {"mean": mean, "tail": tail}
    if isinstance(known, StationaryPoint):
        if not isinstance(reference, Prediction):
            raise ValueError("reference: a stationary point alone says not which penalty acts, give the prediction")
        return columns | _near_stationary(problem, reference, last, averages, judged, rows(noise))
    if isinstance(known, GroupLassoSolution):
        return columns | _against_groups(problem, known, last, averages, judged, rows(noise))
    if isinstance(known, Reference):
        fits = _fits(problem, {**averages, "": known.coef[None]})
        return columns | _distances(known.coef, last, averages, fits)
    lassos = [known] * len(mean) if isinstance(known, LassoSolution) else list(known)
    fell = None
    if snapshot.log_weights is not None and snapshot.earlier_log_weights is not None:
        now, before = rows(snapshot.log_weights), rows(snapshot.earlier_log_weights)
        fell = fallen(now, before, snapshot.step, snapshot.earlier_step)
    sampled = _sampled(snapshot, snapshot.step - snapshot.earlier_step * (average == "tail"))
    drawn = min(problem.X.shape) if snapshot._state.get("stream") == "gram" else problem.n
    return columns | _against(problem, lassos, penalty, last, averages, judged, rows(noise), drawn, fell, sampled)


def _gone(snapshot: Snapshot) -> Tensor:
    """(R,) which replicas diverged and were kept, as NaN."""
    coef = snapshot.mean_coef
    return torch.tensor([False]) if coef is None or coef.ndim == 1 else ~coef.isfinite().all(-1)


def _measure_whole(
    problem: Problem, snapshot: Snapshot, reference: Any, penalty: Any, average: str, whole: Tensor
) -> dict[str, Tensor]:
    """`measure` of the replicas that are `whole` (R,), NaN for the others."""
    own: dict[str, Any] = {name: value[whole] for name, value in vars(snapshot).items() if isinstance(value, Tensor)}
    if isinstance(reference, Sequence):
        reference = [each for each, kept in zip(reference, whole.tolist(), strict=True) if kept]
    if penalty is not None and torch.as_tensor(penalty).ndim == 2:
        penalty = torch.as_tensor(penalty)[whole]
    columns = measure(problem, replace(snapshot, **own), reference, penalty, average=average)
    nothing = torch.full(whole.shape, torch.nan, dtype=torch.float64)
    return {name: nothing.masked_scatter(whole.cpu(), values) for name, values in columns.items()}


def _truth(problem: Problem, mean: Tensor, last: Tensor) -> dict[str, Tensor]:
    """Distances to the coefficients that made the labels, where these are known."""
    if problem.coef is None:
        return {}
    truth = problem.coef.cpu().double()
    return {"distance_truth_mean": distance(mean, truth), "distance_truth_last": distance(last, truth)}


def _sampled(snapshot: Snapshot, steps: int) -> float:
    """1 / (batch_size steps) if rows are drawn, else 0: times n r^2 it is the variance that the sampling adds."""
    size, sampling = (snapshot._state.get(name) for name in ("batch_size", "sampling"))
    return 1.0 / (size * steps) if size and steps and sampling not in ("full", "noisy_rows") else 0.0


def _opened(reference: Any, penalty: Any) -> tuple[Any, Any]:
    """The reference in a prediction, and the Lasso's penalty."""
    if isinstance(reference, Prediction):
        own = reference.reference
        penalty = reference.weights if penalty is None and isinstance(own, LassoSolution) else penalty
        reference = own
    if penalty is not None and isinstance(reference, (GroupLassoSolution, StationaryPoint, Reference)):
        raise ValueError(f"penalty: a {type(reference).__name__} carries its own, leave it out")
    return reference, penalty


def _fits(problem: Problem, coefs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """X beta (R, n) for each name's coefficients (R, d)."""
    X = problem.design.array
    return {name: torch.from_numpy(products(X, coef.numpy())) for name, coef in coefs.items()}


def _distances(
    beta: Tensor, last: Tensor, averages: Mapping[str, Tensor], fits: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Each row's distances to the coefficients beta, (d,) or (R, d), and those of the fits to fits[""]."""
    figures = {"distance_last": distance(last, beta)}
    for name, average in averages.items():
        figures |= {f"distance_{name}": distance(average, beta), f"fit_{name}": distance(fits[name], fits[""])}
    return figures


def _against_groups(
    problem: Problem,
    solution: GroupLassoSolution,
    last: Tensor,
    averages: Mapping[str, Tensor],
    judged: Tensor,
    noise: Tensor,
) -> dict[str, Tensor]:
    """Each row's figures against the group lasso."""
    fits = _fits(problem, {**averages, "": solution.coef[None]})
    compensated = distance(judged, relabelled_groups(problem, solution, noise))
    figures = _distances(solution.coef, last, averages, fits) | {"distance_compensated": compensated}
    return figures | block_figures(problem, solution, averages, fits, judged, noise)


def _near_stationary(
    problem: Problem,
    prediction: Prediction,
    last: Tensor,
    averages: Mapping[str, Tensor],
    judged: Tensor,
    noise: Tensor,
) -> dict[str, Tensor]:
    """Each row's figures against the stationary point nearest to its mean."""
    near, compensated, figures = stationary_figures(problem, prediction, judged, noise)
    figures |= _distances(near, last, averages, _fits(problem, {**averages, "": near}))
    figures["distance_compensated"] = distance(judged, compensated)
    figures["distance_predicted"] = distance(judged, prediction.reference.coef)
    return figures


def _support(
    problem: Problem,
    lassos: Sequence[LassoSolution],
    mean: Tensor,
    gradient: Tensor,
    power: Tensor,
    fell: Tensor | None,
) -> Verdict:
    """theory.md section 4's verdict; without log-weights, a coordinate is on where its mean is not tiny."""
    if fell is None:
        off = mean.abs() <= 1e-3 * mean.abs().amax(-1, keepdim=True)
        return Verdict(~off, off)
    lam = torch.stack([lasso.penalty for lasso in lassos])
    return verdict(problem, gradient, mean, lam, power, fell, lassos[0].positive)


def _against(
    problem: Problem,
    lassos: Sequence[LassoSolution],
    penalty: Any,
    last: Tensor,
    averages: Mapping[str, Tensor],
    judged: Tensor,
    noise: Tensor,
    drawn: int,
    fell: Tensor | None,
    sampled: float,
) -> dict[str, Tensor]:
    """Each row's figures against its own Lasso; noise (R, n) of so many numbers drawn."""
    X, y = problem.design.array, problem.y.detach().cpu().double()
    if penalty is not None:
        lam = torch.as_tensor(penalty, dtype=torch.float64).expand(len(judged), problem.d)
        lassos = [
            lasso if torch.equal(lasso.penalty, own) else replace(lasso, penalty=own)
            for lasso, own in zip(lassos, lam, strict=True)
        ]
    lam, beta = torch.stack([lasso.penalty for lasso in lassos]), torch.stack([lasso.coef for lasso in lassos])
    compensated = relabelled_lasso(X, y, noise, lassos)
    alike = beta[:1] if all(lasso is lassos[0] for lasso in lassos) else beta
    fits = _fits(problem, {**averages, "": alike})
    best = torch.tensor([lasso.objective for lasso in lassos], dtype=torch.float64)
    figures = _distances(beta, last, averages, fits) | {"distance_compensated": distance(judged, compensated)}
    for name, average in averages.items():
        objective = (y - fits[name]).square().sum(-1) / (2 * len(y)) + (lam * average.abs()).sum(-1)
        figures[f"suboptimality_{name}"] = torch.where(
            best != 0, (objective - best) / torch.where(best != 0, best, 1.0), 0.0
        )
    residual = next(fits[name] for name, average in averages.items() if average is judged) - y
    gradient = torch.from_numpy(products(X.T, (residual - noise).numpy())) / len(y)
    power = noise.square().sum(-1, keepdim=True) / drawn + sampled * len(y) * residual.square().mean(-1, keepdim=True)
    on, found = beta != 0, _support(problem, lassos, judged, gradient, power, fell)
    return {
        **figures,
        "kkt_residual": kkt_residual(gradient, judged, lam, ~found.support, lassos[0].positive),
        "lambda_ratio": torch.where(on, -torch.sign(beta) * gradient / lam, 0.0).sum(-1) / on.sum(-1),
        **support_scores(found.support, on),
        "support_size": found.support.sum(-1).double(),
        "support_undecided": found.undecided.sum(-1).double(),
    }
