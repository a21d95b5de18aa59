"""Synthetic data of the network experiments: a regression with few useful inputs, a matrix of low rank."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def few_useful_inputs(n: int, d: int, useful: int, *, teacher: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """X iid N(0, 1) and y = sum_j a_j relu(w_j . x_S), or with teacher=0 a sum of +/- x_S; y has mean 0 and variance 1.

    Args:
        n, d, useful: rows, inputs, inputs that matter (S, the first ones). teacher: number of w_j.
        seed: of the rows and of the teacher.

    Returns:
        X (n, d) and y (n, 1), float32. A larger n begins with the rows of a smaller one.

    Raises:
        ValueError: not 1 <= useful < d, n below 1, or teacher below 0.

    >>> X, y = few_useful_inputs(4, 6, 2)
    >>> X.shape, y.shape
    (torch.Size([4, 6]), torch.Size([4, 1]))
    """
    if not 1 <= useful < d or n < 1 or teacher < 0:
        raise ValueError(
            f"selectivity: useful={useful} must lie in 1..d-1 with d={d}, "
            f"n={n} be at least 1, teacher={teacher} at least 0"
        )
    X = np.random.Generator(np.random.Philox(key=[seed, 0])).standard_normal((n, d))
    y = _linear(X[:, :useful]) if teacher == 0 else _relu(X[:, :useful], teacher, seed)
    return torch.from_numpy(X).float(), torch.from_numpy(y[:, None]).float()


def _signs(count: int) -> NDArray[np.float64]:
    return np.where(np.arange(count) % 2 == 0, 1.0, -1.0)


def _linear(X: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(X @ _signs(X.shape[1]) / math.sqrt(X.shape[1]))


def _relu(X: NDArray[np.float64], units: int, seed: int) -> NDArray[np.float64]:
    W = np.random.Generator(np.random.Philox(key=[seed, 1])).standard_normal((units, X.shape[1]))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    a = _signs(units)
    # E relu(s) relu(t) of unit normals with correlation r is (sqrt(1 - r^2) + r (pi - acos r)) / 2 pi
    r = np.clip(W @ W.T, -1, 1)
    covariance = (np.sqrt(1 - r**2) + r * (np.pi - np.arccos(r))) / (2 * np.pi) - 1 / (2 * np.pi)
    mean = a.sum() / math.sqrt(2 * np.pi)
    return np.asarray((np.maximum(X @ W.T, 0) @ a - mean) / math.sqrt(a @ covariance @ a))


def sensing_problem(
    d: int, rank: int, m: int, *, symmetric: bool = True, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """y_i = <A_i, W>, W of the given rank with singular values 1, A_i of Gaussian numbers.

    Args:
        d, rank, m: W is (d, d), its rank, the number of measurements.
        symmetric: W = Q S Q^T with signs S, and A = (G + G^T)/2; else W = Q P^T, and A = G. seed: of the data.

    Returns:
        A (m, d, d), y (m,), W (d, d), float64. A larger m begins with the measurements of a smaller one.

    Raises:
        ValueError: not 1 <= rank <= d, or m below 1.

    >>> A, y, W = sensing_problem(4, 2, 5)
    >>> int(torch.linalg.matrix_rank(W)), bool(torch.allclose((A * W).sum((1, 2)), y))
    (2, True)
    """
    if not 1 <= rank <= d or m < 1:
        raise ValueError(f"matrix_sensing: rank={rank} must lie in 1..d={d}, and measurements={m} be at least 1")
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    Q, P = (np.linalg.qr(rng.standard_normal((d, rank)))[0] for _ in range(2))
    W = (Q * _signs(rank)) @ Q.T if symmetric else Q @ P.T
    G = np.random.Generator(np.random.Philox(key=[seed, 1])).standard_normal((m, d, d))
    A = (G + G.transpose(0, 2, 1)) / 2 if symmetric else G
    return torch.from_numpy(A), torch.from_numpy((A * W).sum((1, 2))), torch.from_numpy(W)
