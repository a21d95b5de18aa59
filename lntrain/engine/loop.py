"""The reference engine: one torch step after the other, by autograd, for any nn.Module."""

from __future__ import annotations

import torch
from torch import Tensor

from lntrain.engine.state import BLOCK, Run
from lntrain.noise.labels import Draw
from lntrain.noise.schedules import factor_at
from lntrain.optim.sgd import LabelNoiseSGD


def advance(run: Run, stop: int) -> None:
    """Train `run` up to step `stop`, in place."""
    X = run.X.to_dense()  # a sparse one is for the fused engine; here any step is dense
    while run.step < stop:
        end = min(stop, (run.step // BLOCK + 1) * BLOCK)
        drawn = run.rows(end - run.step)
        rows = None if drawn is None else torch.from_numpy(drawn).to(run.y.device)
        for k in range(end - run.step):
            _step(run, X, None if rows is None else rows[:, k])
            run.step += 1
        run.close_block()


def _step(run: Run, X: Tensor, rows: Tensor | None) -> None:
    """One step: `rows` (R or 1, b), or None for the whole batch."""
    if run.lr_schedule is not None:
        run.set_lr(factor_at(run.lr_schedule, run.step, "lr_schedule"))
    coef = run.coef
    if coef is not None:
        run.sums["coef_block"].add_(coef)
    x, targets, noise = _noisy_batch(run, X, rows)
    run.add_noise(noise)
    output = run.model(x)
    if output.shape != targets.shape:
        output = output.reshape(targets.shape)
    losses = run.loss_constant * (output - targets).square().mean(-1)
    ratio = run.optimizer.param_groups[0].get("lr_ratio")
    if ratio is not None:  # torch's step has one lr, so each replica's loss is scaled by its ratio
        losses = losses * torch.tensor(ratio, dtype=losses.dtype, device=losses.device)
    run.optimizer.zero_grad()
    losses.sum().backward()
    run.optimizer.step()


def _noisy_batch(run: Run, X: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(x, noisy targets, the noise spread over all n labels)."""
    y, many = run.y, run.replicas is not None
    whole = y if run.replicas is None else y.expand(run.replicas, -1)
    if rows is None:
        noisy = _perturb(run, whole, many)
        return X, noisy, noisy - whole
    if not many:
        rows = rows[0]
    picked = y[rows]
    noise = _perturb(run, torch.zeros_like(picked), many)
    spread = torch.zeros_like(whole).scatter_add(-1, rows, noise) * (len(y) / run.batch_size)
    if run.sampling == "noisy_rows":
        return X, whole + spread, spread
    return X[rows], picked + noise, spread


def _perturb(run: Run, targets: Tensor, many: bool) -> Tensor:
    if run.label_noise is not None:
        return run.label_noise.perturb(targets, Draw(run.keys(), run.step))
    if isinstance(run.optimizer, LabelNoiseSGD):
        return run.optimizer.perturb(targets, replicas=many)
    return targets
