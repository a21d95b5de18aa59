"""Which coordinates a run keeps: support, complement or undecided, by the drift that each has where it is small."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from lntrain._checks import as_float64
from lntrain._moved import warn
from lntrain.data.design import Design
from lntrain.lasso.solve import LassoSolution

LEVEL = 0.01  # probability that a coordinate of the support is declared off, per coordinate and look
SIGMAS = -float(ndtri(LEVEL))
FALL = 8.0  # of log w^2: a weight that loses e^-8 over half the run has left


class Verdict(NamedTuple):
    """(..., d) bool each: in the support, in its complement; a coordinate that is in neither is undecided."""

    support: Tensor
    complement: Tensor

    @property
    def undecided(self) -> Tensor:
        """(..., d) bool."""
        return ~(self.support | self.complement)

    @property
    def on(self) -> Tensor:
        """The former name of `support`."""
        warn("Verdict.on", "support")
        return self.support

    @property
    def off(self) -> Tensor:
        """The former name of `complement`."""
        warn("Verdict.off", "complement")
        return self.complement


def verdict(
    X: Any, gradient: Tensor, coef: Tensor, penalty: Tensor, power: Tensor, fell: Tensor, positive: bool = False
) -> Verdict:
    """Support, complement or undecided, by the sign of the drift of log w_j^2 where w_j is small, against its error.

    That drift is 2 a lr lambda_j q_j per step, q_j = |g_j - c_j beta_j| / lambda_j - 1 at the time mean: c_j |beta*_j|
    / lambda_j on the support, |g*_j| / lambda_j - 1 < 0 off it. With e = `lack`, the relative gap of |g_j| to lambda_j
    at the largest coordinate, r_j = SIGMAS sd(g_j) / lambda_j + e and R_j = SIGMAS c_j sd(beta_j) / lambda_j + e,
    support: q_j > R_j, and the mean is as large: c_j |beta_j| / lambda_j > R_j;
    complement: q_j < -r_j, and the weights have gone: they fell, or c_j |beta_j| / lambda_j < -q_j / 2.

    Args:
        X: (n, d), dense or scipy.sparse, or a problem.
        gradient, coef: (R, d) compensated gradient g at the time mean beta, and beta.
        penalty: (R, d) lambda. power: (R, 1) mean square of the mean noise of a label.
        fell: (R, d) bool, `fallen`. positive: beta >= 0 is imposed.

    >>> X = 2 * torch.eye(4, dtype=torch.float64).numpy()
    >>> g, beta = torch.tensor([[-1.0, 0.5, -0.99, -1.0]]), torch.tensor([[1.0, 1e-3, 1e-3, 0.02]])
    >>> gone = torch.tensor([[False, True, False, False]])
    >>> found = verdict(X, g, beta, torch.ones(1, 4), torch.full((1, 1), 0.01), gone)
    >>> found.support.tolist(), found.complement.tolist()
    ([[True, False, False, False]], [[False, True, False, False]])

    Source: theory.md section 4.
    """
    design = Design.of(X)
    X, squares = design.array, design.c
    pull, size = -gradient / penalty + squares * coef / penalty, squares * coef.abs() / penalty
    score = (pull if positive else pull.abs()) - 1
    largest = size.argmax(-1, keepdim=True)
    lack = (1 - gradient.abs() / penalty).abs().gather(-1, largest)
    lack = torch.where(score.gather(-1, largest) > 0, lack, 0.0)
    noise = SIGMAS * (squares * power / X.shape[0]).sqrt() / penalty
    held = torch.minimum(score, size)
    on = held > lack + noise * inflation(X, held > lack + noise)
    return Verdict(on, (score < -lack - noise) & (fell | (size < -score / 2)))


def inflation(X: Any, active: Tensor) -> Tensor:
    """sqrt(c_j (S_AA^-1)_jj), (R, d): how much the other columns of A = active (R, d) amplify beta_j's response to g_j.

    1 outside A; inf where A holds as many columns as X has rows.

    >>> inflation(np.array([[1.0, 0.6], [0.0, 0.8]] * 2), torch.tensor([[True, True]])).round(decimals=9).tolist()
    [[1.25, 1.25]]
    """
    out = torch.ones(active.shape, dtype=torch.float64)
    patterns, which = torch.unique(active, dim=0, return_inverse=True)
    for k, pattern in enumerate(patterns):
        chosen = pattern.nonzero()[:, 0]
        columns = X[:, chosen.numpy()]
        columns = torch.from_numpy(np.asarray(columns.toarray() if hasattr(columns, "toarray") else columns))
        row = torch.ones(active.shape[1], dtype=torch.float64)
        row[chosen] = math.inf
        if 0 < len(chosen) < len(columns):
            row[chosen] = torch.linalg.vector_norm(torch.linalg.pinv(columns), dim=1) * columns.norm(dim=0)
        out[which == k] = row
    return out


def undecided_probability(X: Any, y: Any, lasso: LassoSolution, *, rate: float, steps: int) -> Tensor:
    """(d,) P(undecided) after `steps` steps of iid noise, known before the first: P(-r_j < q_j < R_j), q_j Gaussian.

    q_j has the mean c_j |beta*_j| / lambda_j on the support and |g*_j| / lambda_j - 1 off it; sd(g_j) / lambda_j =
    sqrt(2 / (rate lambda_j steps)), multiplied by sqrt(c_j (S_AA^-1)_jj) in q_j and R_j on the support A. Off it
    this is an upper bound, as the support absorbs a part of the noise. It neglects `lack`, which decays as 1 / steps (a
    few percent more are undecided in 1-D), and is not for antithetic noise, which leaves almost none undecided.

    Args:
        X: (n, d). y: (n,). lasso: the prediction. rate: a * lr, with momentum's factor. steps: K.

    >>> from lntrain.lasso.solve import weighted_lasso
    >>> small, large = (weighted_lasso([[1.0], [1.0]], [1.0 + b] * 2, 1.0) for b in (0.2, 2.0))
    >>> [round(undecided_probability([[1.0]] * 2, [1.0 + b] * 2, lasso, rate=0.02, steps=8000).item(), 3)
    ...  for b, lasso in ((0.2, small), (2.0, large))]
    [0.705, 0.0]

    Source: theory.md section 4.
    """
    design, y = Design.of(X), as_float64(y)
    X, on, penalty = design.array, lasso.support, lasso.penalty
    slope = torch.from_numpy(X.T @ (y - X @ lasso.coef.numpy())) / len(y)
    pull = (slope + design.c * lasso.coef) / penalty
    score = ((pull if lasso.positive else pull.abs()) - 1).numpy()
    noise = (2 / (rate * penalty * steps)).sqrt()
    spread = (noise * inflation(X, on[None])[0]).numpy()
    low = ndtr((-SIGMAS * noise.numpy() - score) / spread)
    return torch.from_numpy(ndtr(SIGMAS - score / spread) - low)


def fallen(log_weights: Tensor, earlier: Tensor, step: int, earlier_step: int) -> Tensor:
    """(..., d) bool: each log w^2 of the coordinate falls by more than 8 over the second half of the run.

    Args:
        log_weights, earlier: (..., m, d) log w^2 at `step` and at `earlier_step`, about half way.

    >>> fallen(torch.tensor([[-30.0, 0.0]]), torch.tensor([[-10.0, 0.0]]), 100, 50).tolist()
    [True, False]
    """
    share = 2 * (step - earlier_step) / max(step, 1)  # 1 when the record is exactly half way
    return (earlier - log_weights > FALL * share).all(-2)
