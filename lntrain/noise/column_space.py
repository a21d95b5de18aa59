"""Gaussian label noise drawn in the directions of X's columns: what a gradient sees of it takes d numbers, not n."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lntrain._checks import as_tensor
from lntrain.noise import philox
from lntrain.noise.labels import GaussianNoise

OFF = 1e-6  # of a column's length, by which X may leave the space of the noise: rounding to float32 and no more


@dataclass(frozen=True, eq=False)
class ColumnSpaceNoise(GaussianNoise):
    """y + std * Q eta, eta ~ N(0, I_r), r = min(n, d): Q (n, r) is orthonormal and X = Q B.

    A model linear in X sees its labels' noise xi through X' xi alone, and X' Q eta has the law of X' eps,
    eps ~ N(0, I_n): both are Gaussian of covariance X' X. So every gradient has the law that GaussianNoise gives it.

    Args:
        std, schedule: as for GaussianNoise.
        X: (n, d), of the problem that is trained; whole batches only.

    Raises:
        ValueError: std negative or not finite, X no matrix of finite numbers; other than n labels.

    >>> import torch
    >>> from lntrain.noise.labels import Draw
    >>> X = torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.0, 1.0]])
    >>> noise = ColumnSpaceNoise(2.0, X=X)
    >>> xi = noise.perturb(torch.zeros(3), Draw(step=7))
    >>> bool((xi @ torch.tensor([-2.0, 1.0, 0.0])).abs() < 1e-6)  # nothing beside the columns
    True
    """

    X: Any = field(kw_only=True, repr=False)

    __eq__, __hash__ = object.__eq__, object.__hash__  # of a GaussianNoise only std and schedule count

    def __post_init__(self) -> None:
        super().__post_init__()
        X = as_tensor(self.X)
        if X.ndim != 2 or 0 in X.shape:
            raise ValueError(f"X has shape {tuple(X.shape)}: give the matrix (n, d) of the problem that is trained")
        object.__setattr__(self, "X", X)

    @cached_property
    def basis(self) -> NDArray[np.float64]:
        """Q (n, r): the polar factor of X with columns of length 1, which is unique as Q of X = Q R is not.

        B = Q' X is then a function of X, continuous also where columns depend on each other; for n <= d, Q = I.
        """
        X = _float64(self.X)
        if not np.isfinite(X).all():
            raise ValueError("X holds a number that is not finite: remove or fill missing values first")
        n, d = X.shape
        if n <= d:
            return np.eye(n)
        length = np.linalg.norm(X, axis=0)
        U, _, V = np.linalg.svd(X / np.where(length > 0, length, 1.0), full_matrices=False)
        return np.ascontiguousarray(U @ V)

    def coordinates(self, X: Any) -> NDArray[np.float64]:
        """B = Q' X (r, d).

        Raises:
            ValueError: X = Q B does not hold, so it is another X.
        """
        X = _float64(X)
        if len(X) == len(self.X):
            B: NDArray[np.float64] = self.basis.T @ X
            square = (X * X).sum(0)
            if (square - (B * B).sum(0) <= OFF**2 * square).all():
                return B
        raise ValueError("ColumnSpaceNoise was made for another X: give it X=problem.X of the problem that is trained")

    def unit(self, seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.float64]:
        """Q eta of steps start..stop-1, (stop - start, n)."""
        n, r = self.basis.shape
        if width != n:
            raise ValueError(
                f"ColumnSpaceNoise was made for n={n} labels, not {width}: it needs whole batches and one output"
            )
        out = np.empty((stop - start, n))
        for row, eta in zip(out, philox.normals(seed, stream, start, stop, r, draw), strict=True):
            row[:] = self.basis @ eta.astype(np.float64)  # one by one: the same bits in any slice of steps
        return out


def _float64(X: Any) -> NDArray[np.float64]:
    array: NDArray[np.float64] = as_tensor(X).to_dense().double().cpu().numpy()
    return array
