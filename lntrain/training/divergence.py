"""When a run has diverged: the bound of its loss, what is said, and replicas that are left behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lntrain.data.problem import Problem
from lntrain.engine.state import Run
from lntrain.models.diagonal import DiagonalLinear
from lntrain.penalty.formula import stable_lr

GROWTH = 1e6  # a loss this many times its start (with the noise) has diverged


class DivergenceError(RuntimeError):
    """The loss left all bounds; the last snapshot yielded is the last good state."""


def divergence_bound(start: Tensor, y: Tensor, std: Any, scale: float) -> Tensor:
    """The loss beyond which a run has diverged; start: its first, () or (R,), std: of the noise, one or (R,)."""
    return GROWTH * (
        start.nan_to_num(0.0, 0.0).max()
        + scale * (y.square().mean() + torch.as_tensor(std, dtype=torch.float64).square().max())
    )


def loss_of(run: Run) -> Tensor:
    """The clean loss, () or (R,)."""
    with torch.no_grad():
        output = run.model(run.X)
        if run.replicas is None:
            output = output.reshape(run.y.shape)
        loss: Tensor = run.loss_constant * (output - run.y).square().mean(-1)
        return loss


def leave_diverged(run: Run, problem: Problem, bound: Tensor, *, keep: bool = False) -> None:
    """Raise if the loss or a weight left all bounds; or `keep`: make each replica that did NaN, for ever.

    Raises:
        DivergenceError: a run diverged, with `keep` every replica.
    """
    loss = loss_of(run)
    with torch.no_grad():
        whole = torch.stack([torch.isfinite(p).reshape(*loss.shape, -1).all(-1) for p in run.model.parameters()]).all(0)
    good = whole & (loss <= bound)
    if run.gone is not None:
        good &= ~run.gone
    if bool(good.all()):
        return
    if keep and bool(good.any()):
        run.gone = ~good
        with torch.no_grad():  # after every chunk: a path may lift a NaN to the floor of its weights
            for values in (*run.model.parameters(), *run.sums.values()):
                values[run.gone] = torch.nan
        return
    lr = float(run.optimizer.param_groups[0]["lr"])
    raise DivergenceError(
        f"diverged by step {run.step} with lr={lr:g}: the loss is {float(loss.max()):.3g}; {_remedy(run, problem, lr)}"
    )


def _remedy(run: Run, problem: Problem, lr: float) -> str:
    """Advice: an lr below the failed one that is stable at the least squares solution and half way through the run."""
    quadratic = isinstance(run.model, DiagonalLinear) and run.model.depth == 2 and run.model.groups is None
    if not quadratic or not isinstance(run.optimizer, torch.optim.SGD) or problem.X.layout != torch.strided:
        return "take a smaller lr"
    X, y = problem.X.double(), problem.y.double()
    coef = problem.coef if problem.coef is not None else torch.linalg.pinv(X) @ y
    sizes = [coef, *(kept["log_weights"].exp().sum(-2).reshape(-1, problem.d).amax(0) for kept in run.history[:1])]
    options: dict[str, Any] = {"parametrisation": run.model.parametrisation, "loss_constant": run.loss_constant}
    stable = min(
        stable_lr(X, size, batch_size=run.batch_size, **options) for size in sizes if bool(size.isfinite().all())
    )
    return f"a stable lr for this problem is at most {min(stable, lr) / 2:.2g}, less with strong noise"
