"""Runs of diagonal linear networks for the entries: one call, the snapshots that were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain.data.problem import Problem
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.labels import GaussianNoise
from lntrain.optim.sgd import LabelNoiseSGD
from lntrain.penalty.formula import mean_squares
from lntrain.training.loop import Snapshot, train

Array = NDArray[np.float64]


def run(
    problem: Problem,
    *,
    lr: Any,
    steps: int,
    init: Any,
    seed: Any = 0,
    std: Any = 0.0,
    replicas: int | None = None,
    parametrisation: str = "difference",
    depth: int = 2,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    snapshots: str | Iterable[int] = (),
    **options: Any,
) -> list[Snapshot]:
    """Train a network; the scheduled snapshots, the last one at `steps`. `options` are `train`'s."""
    model = DiagonalLinear(problem.d, parametrisation=parametrisation, depth=depth, init=init, replicas=replicas)
    optimizer = LabelNoiseSGD(
        model.parameters(), lr=lr, noise=GaussianNoise(std), seed=seed, momentum=momentum, weight_decay=weight_decay
    )
    taken = train(model, optimizer, problem, steps, snapshots=snapshots, **options)
    return [snapshot for snapshot in taken if snapshot.scheduled]


def end(problem: Problem, **options: Any) -> Tensor:
    """The last iterate of `run`, (d,) or (R, d)."""
    coef = run(problem, **options)[-1].coef
    assert coef is not None
    return coef


def over_seeds(rows: Sequence[Sequence[float]]) -> Array:
    """(S, R) from a row of S numbers for each of R seeds."""
    return np.asarray(rows, dtype=float).T


def squared_error(coef: Tensor, problem: Problem) -> Tensor:
    """||beta - beta*||^2, () or (R,)."""
    assert problem.coef is not None
    return (coef - problem.coef).square().sum(-1)


def relative(coef: Tensor, reference: Tensor) -> Tensor:
    """||beta - reference|| / ||reference||, () or (R,)."""
    apart: Tensor = (coef - reference).norm(dim=-1) / reference.norm(dim=-1)
    return apart


def unit_columns(problem: Problem) -> Problem:
    """The same problem with columns of mean square 1, and its truth in their units."""
    size = mean_squares(problem.X).sqrt()
    return Problem(problem.X / size, problem.y, None if problem.coef is None else problem.coef * size)


def planted(X: Any, coef: Any, *, noise: Any = 0.0, name: str = "planted") -> Problem:
    """A problem whose truth is any vector: y = X coef + noise."""
    X, coef = torch.as_tensor(X, dtype=torch.float64), torch.as_tensor(coef, dtype=torch.float64)
    return Problem(X, X @ coef + torch.as_tensor(noise, dtype=torch.float64), coef, name=name)
