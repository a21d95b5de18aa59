"""The group lasso with a certificate: what label noise solves where beta_g = u_g v_g."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain._checks import as_float64, group_labels
from lntrain.lasso.block_descent import newton, sweeps
from lntrain.lasso.certificate import GAP, Array, finite, fitting_problem, of_shape, positive_penalty

EXACT = 1e-12  # gap wanted of the solver, of which GAP is asked: a coefficient's error goes as its root
ROUNDS, SWEEPS = 200, 100  # of sweeps, each followed by Newton on the groups left
ROUNDING = 1e-12  # a group so much smaller than the largest, in fit, is none if the gap says so too
NULL = 1e-10  # part of X_g, relative, that may lie where its metric is zero


@dataclass(frozen=True)
class GroupLassoSolution:
    """A certified solution of the group lasso.

    coef (d,) float64; objective F(coef); gap, the relative duality gap (F - dual) / F; penalty (G,); groups (d,)
    labels; ranks (G,) of X_g: where one is below the group's size, the fit X_g beta_g is determined and coef is the
    one of least norm; metric: K_g of each group, or None for X_g^T X_g / n.
    """

    coef: Tensor
    objective: float
    gap: float
    penalty: Tensor
    groups: Tensor
    ranks: Tensor
    metric: tuple[Tensor, ...] | None = None

    @property
    def support(self) -> Tensor:
        """(d,) bool, where coef is not zero."""
        return self.coef != 0

    @property
    def active(self) -> Tensor:
        """(G,) bool, the groups that are not zero."""
        return torch.zeros(len(self.penalty), dtype=torch.bool).index_put_(
            (self.groups[self.support],), torch.tensor(True)
        )


def group_lasso(
    X: Any, y: Any, penalty: Any, groups: Any, *, metric: Sequence[Any] | None = None, start: Any = None
) -> GroupLassoSolution:
    """min (1/2n)||y - X beta||^2 + sum_g lambda_g ||K_g^(1/2) beta_g||; standardised: K_g = X_g^T X_g / n.

    Blocks in turn after each is whitened by its singular values, then Newton. Columns may be equal or dependent, in a
    group (see `ranks`) and between groups (then there may be many solutions, and one is returned).

    Args:
        X: (n, d); a sparse one is made dense. y: (n,). penalty: lambda, a positive number or (G,) of them.
        groups: G index lists that hold each column once, or (d,) labels.
        metric: K_g (p_g, p_g), positive semidefinite, one a group, e.g. `group_penalty`'s; None as above.
        start: (d,) a warm start.

    Returns:
        GroupLassoSolution, its relative duality gap at most 1e-6.

    Raises:
        ValueError: as `weighted_lasso`; groups that overlap or lack a column; a metric that is not positive
            semidefinite, or zero where X_g is not. RuntimeError: the gap was not reached.

    >>> solution = group_lasso([[2.0, 0.0], [0.0, 2.0]], [4.0, 3.0], 1.0, [[0, 1]])  # n = 2: C_g = 2 I
    >>> [round(beta, 9) for beta in solution.coef.tolist()]
    [1.434314575, 1.075735931]

    Source: Yuan and Lin 2006; Simon and Tibshirani 2012, "Standardization and the group lasso penalty".
    """
    X, y, lam, blocks = _problem(X, y, penalty, groups, metric)
    z = np.zeros(len(blocks.columns))
    if start is not None:
        z = blocks.whitened(finite("start", of_shape("start", as_float64(start), X.shape[1:])))
    for _ in range(ROUNDS):
        if _gap(blocks, y, lam, z)[0] <= EXACT:
            break
        residual, before = y - z @ blocks.columns, z.copy()
        sweeps(blocks.columns, blocks.begins, blocks.curvature, lam, residual, z, SWEEPS)
        z = newton(blocks.columns, blocks.begins, lam, y, z)
        if np.array_equal(z, before):
            break
    z = _without_rounding(blocks, y, lam, z)
    gap, objective = _gap(blocks, y, lam, z)
    if not gap <= GAP:
        raise RuntimeError(
            f"the group lasso was solved to a relative duality gap of {gap:.1e} (wanted {GAP:g}): "
            f"raise the penalty (its mean is {lam.mean():.3g}) or standardise the columns of X"
        )
    coef, ranks = torch.from_numpy(blocks.coef(z)), torch.from_numpy(blocks.ranks)
    given = None if metric is None else tuple(torch.from_numpy(as_float64(K)) for K in metric)
    return GroupLassoSolution(
        coef, objective, gap, torch.from_numpy(lam), torch.from_numpy(blocks.labels), ranks, given
    )


def group_duality_gap(X: Any, y: Any, penalty: Any, groups: Any, coef: Any, *, metric: Any = None) -> float:
    """Relative gap (F - D(theta)) / F, theta = s r, r the residual, s <= 1, ||K_g^(-1/2) X_g^T theta|| <= n lambda_g.

    F - D = (1 - s)^2 |r|^2 / 2n + sum_g (lambda_g ||z_g|| - s z_g.X_g^T r / n), z_g = K_g^(1/2) beta_g: no term is
    negative, so nothing cancels.

    Args:
        X, y, penalty, groups, metric: as for `group_lasso`. coef: (d,).

    Returns:
        No coefficients have an objective below F (1 - gap).

    >>> group_duality_gap([[1.0]], [1.0], 0.5, [[0]], [0.5]), group_duality_gap([[1.0]], [1.0], 0.5, [[0]], [0.0])
    (0.0, 0.25)
    """
    X, y, lam, blocks = _problem(X, y, penalty, groups, metric)
    return _gap(blocks, y, lam, blocks.whitened(of_shape("coef", as_float64(coef), X.shape[1:])))[0]


class Blocks(NamedTuple):
    """Each group in coordinates z_g = to_g beta_g, beta_g = from_g z_g: its penalty is ||z_g||, its curvature diagonal.

    columns (r, n), those of X_g from_g as rows, group after group; begins (G + 1,); curvature (r,); ranks (G,).
    """

    labels: NDArray[np.int64]
    begins: NDArray[np.int64]
    columns: Array
    curvature: Array
    ranks: NDArray[np.int64]
    to: tuple[Array, ...]
    back: tuple[Array, ...]

    def whitened(self, coef: Array) -> Array:
        """z (r,) of coef (d,)."""
        return np.concatenate([to @ coef[self.labels == g] for g, to in enumerate(self.to)])

    def coef(self, z: Array) -> Array:
        """coef (d,) of z (r,)."""
        coef = np.zeros(len(self.labels))
        for g, back in enumerate(self.back):
            coef[self.labels == g] = back @ z[self.begins[g] : self.begins[g + 1]]
        return coef

    def norms(self, z: Array) -> Array:
        """||z_g||, (G,)."""
        own = np.repeat(np.arange(len(self.ranks)), np.diff(self.begins))
        return np.sqrt(np.bincount(own, z**2, len(self.ranks)))


def whiten(X: Array, labels: NDArray[np.int64], metric: Sequence[Any] | None) -> Blocks:
    """The groups of X (n, d) in the coordinates of `Blocks`."""
    parts = [_whiten(X[:, labels == g], None if metric is None else metric[g], g) for g in range(labels.max() + 1)]
    columns = np.ascontiguousarray(np.concatenate([part.columns for part in parts]))
    sizes = [len(part.columns) for part in parts]
    return Blocks(
        labels,
        np.concatenate([[0], np.cumsum(sizes)]),
        columns,
        (columns**2).mean(1),
        np.array([part.rank for part in parts]),
        tuple(part.to for part in parts),
        tuple(part.back for part in parts),
    )


class _Block(NamedTuple):
    columns: Array
    rank: int
    to: Array
    back: Array


def _whiten(X: Array, metric: Any, g: int) -> _Block:
    """By the singular values of X_g: sums of squares would lose half the digits of nearly dependent columns."""
    n, p = X.shape
    left, sizes, right = np.linalg.svd(X / np.sqrt(n), full_matrices=False)
    kept = sizes > sizes[0] * max(n, p) * np.finfo(float).eps
    rank, right = int(kept.sum()), right[kept]
    if metric is None:
        return _Block(np.sqrt(n) * left[:, kept].T, rank, sizes[kept, None] * right, right.T / sizes[kept])
    K = of_shape(f"metric[{g}]", finite(f"metric[{g}]", as_float64(metric)), (p, p))
    roots, axes = np.linalg.eigh((K + K.T) / 2)
    if not np.allclose(K, K.T, rtol=1e-9, atol=1e-12 * abs(K).max()) or roots[0] < -1e-9 * abs(roots[-1]):
        raise ValueError(f"metric[{g}] is not symmetric and positive semidefinite: it measures no length")
    on = roots > roots[-1] * p * np.finfo(float).eps
    if np.linalg.norm(X @ axes[:, ~on]) > NULL * np.linalg.norm(X):
        raise ValueError(f"metric[{g}] is zero in a direction that X has: it would not be penalised")
    back, to = axes[:, on] / np.sqrt(roots[on]), np.sqrt(roots[on])[:, None] * axes[:, on].T
    turn = np.linalg.eigh((X @ back).T @ (X @ back))[1]  # the block's curvature becomes diagonal
    return _Block((X @ back @ turn).T, rank, turn.T @ to, back @ turn)


def _without_rounding(blocks: Blocks, y: Array, lam: Array, z: Array) -> Array:
    """z without groups that are rounding, such as the second of two equal groups, where that costs no gap."""
    sizes = blocks.norms(z)
    kept = np.where(np.repeat(sizes > ROUNDING * sizes.max(), np.diff(blocks.begins)), z, 0.0)
    return kept if _gap(blocks, y, lam, kept)[0] <= max(EXACT, _gap(blocks, y, lam, z)[0]) else z


def _problem(X: Any, y: Any, penalty: Any, groups: Any, metric: Any) -> tuple[Array, Array, Array, Blocks]:
    X, y, _ = fitting_problem(X, y, 1.0)
    X = X.toarray() if hasattr(X, "toarray") else X
    labels = group_labels(groups, X.shape[1])
    many = int(labels.max()) + 1
    lam = as_float64(penalty)
    if lam.shape not in ((), (many,)):
        raise ValueError(f"penalty has shape {lam.shape}: there are {many} groups")
    if metric is not None and (held := len(metric) if hasattr(metric, "__len__") else 0) != many:
        raise ValueError(f"metric holds {held} matrices: there are {many} groups")
    return X, y, positive_penalty(np.broadcast_to(lam, (many,)).copy(), many), whiten(X, labels, metric)


def _gap(blocks: Blocks, y: Array, lam: Array, z: Array) -> tuple[float, float]:
    """(relative duality gap, objective) at z."""
    n, residual = len(y), y - z @ blocks.columns
    slope = blocks.columns @ residual / n
    own = np.repeat(np.arange(len(lam)), np.diff(blocks.begins))
    over = max(1.0, float((blocks.norms(slope) / lam).max()))
    square, sizes = float(residual @ residual) / (2 * n), lam * blocks.norms(z)
    primal = square + float(sizes.sum())
    apart = np.maximum(sizes - np.bincount(own, z * slope, len(lam)) / over, 0.0).sum()  # below 0 by rounding alone
    return float((1 - 1 / over) ** 2 * square + apart) / (primal or 1.0), primal
