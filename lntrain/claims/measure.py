"""What the rows share: runs whose seeds are replicas, and the statistics read from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain.data.problem import Problem
from lntrain.experiments.verdicts import At
from lntrain.lasso import solve as lassos
from lntrain.lasso.solve import LassoSolution
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.labels import Antithetic, GaussianNoise, RademacherNoise
from lntrain.optim.sgd import LabelNoiseSGD
from lntrain.penalty import formula as penalties
from lntrain.theory.choose import margins
from lntrain.theory.dynamics import Dynamics
from lntrain.theory.expectation import whole
from lntrain.training.loop import Snapshot, train

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A problem, the dynamics, the step and the noise, and the Lasso that is predicted of them."""

    problem: Problem
    dynamics: Dynamics
    lr: float
    std: float
    lasso: LassoSolution

    @property
    def rate(self) -> float:
        """a lr, with momentum's factor."""
        return self.dynamics.rate(self.lr)

    @property
    def bias(self) -> Array:
        """Section 4's finite-step bias of lambda, (d,)."""
        return self.dynamics.bias(self.problem, self.lasso, self.lr).numpy()

    @property
    def remainder(self) -> Array:
        """The size of the terms beyond first order in lr, (d,): the square of the first-order terms, taken positive."""
        X, on = self.problem.X, self.lasso.support
        S = X.T @ X[:, on] / self.problem.n
        curvature = S.square() @ self.lasso.coef[on].abs() / penalties.mean_squares(X)
        terms = (2 if self.dynamics.antithetic else 1) * curvature + (
            self.dynamics.noise_kurtosis + 1.5
        ) * self.lasso.penalty
        return np.square(np.asarray(self.rate * terms.numpy(), dtype=np.float64))

    def effective(self) -> LassoSolution:
        """The Lasso at lambda (1 + finite-step bias)."""
        penalty = self.lasso.penalty * (1 + torch.from_numpy(self.bias))
        return lassos.weighted_lasso(
            self.problem.X, self.problem.y, penalty, positive=self.lasso.positive, start=self.lasso.coef
        )


def predict(problem: Problem, dynamics: Dynamics, *, lr: float, std: float) -> Case:
    """The Lasso that effective_penalty predicts."""
    penalty = penalties.effective_penalty(problem.X, lr=lr, std=std, **dynamics.penalty_options())
    positive = dynamics.parametrisation == "square"
    return Case(problem, dynamics, lr, std, lassos.weighted_lasso(problem.X, problem.y, penalty, positive=positive))


def no_near_tie(at: At, make: Callable[[int], Problem], ratio: float, *, positive: bool = False) -> Problem:
    """The first problem of the row's data seeds whose Lasso at alpha = ratio * alpha_max is clear of near ties.

    On the support |beta_j| >= 0.2, off it |g_j| <= 0.9 lambda_j: known before training.
    """
    for seed in at.seeds(1000, "data"):
        problem = make(seed)
        penalty = ratio * penalties.alpha_max(problem.X, problem.y) * penalties.mean_squares(problem.X)
        lasso = lassos.weighted_lasso(problem.X, problem.y, penalty, positive=positive)
        if float(lasso.coef[lasso.support].abs().min()) >= 0.2 and float(margins(whole(problem, lasso)).min()) >= 0.1:
            return problem
    raise RuntimeError("1000 problems, each with a near tie: another ratio, n or d is needed")


def run(case: Case, seeds: list[int], steps: int, snapshots: Iterable[int] = (), **options: Any) -> Iterator[Snapshot]:
    """Train one replica per seed; yields the scheduled snapshots, the last one at `steps`."""
    dynamics = case.dynamics
    kind = {3.0: GaussianNoise, 1.0: RademacherNoise}[dynamics.noise_kurtosis]
    noise: Any = kind(case.std, options.pop("schedule", None))
    model = DiagonalLinear(
        case.problem.d,
        parametrisation=dynamics.parametrisation,
        depth=options.pop("depth", 2),
        init=options.pop("init", dynamics.init),
        replicas=len(seeds),
    )
    optimizer = LabelNoiseSGD(
        model.parameters(),
        lr=case.lr,
        noise=Antithetic(noise) if dynamics.antithetic else noise,
        seed=seeds,
        momentum=dynamics.momentum,
        dampening=dynamics.dampening,
        nesterov=dynamics.nesterov,
        weight_decay=dynamics.weight_decay,
    )
    taken = train(
        model,
        optimizer,
        case.problem,
        steps,
        batch_size=dynamics.batch_size,
        sampling=dynamics.sampling,
        loss_constant=dynamics.loss_constant,
        snapshots=snapshots,
    )
    return (snapshot for snapshot in taken if snapshot.scheduled)


def gradients(problem: Problem, mean: Tensor, noise: Tensor | None = None) -> Array:
    """g(mean beta) (R, d); with `noise`, the mean realised noise (R, n), for the labels plus this noise."""
    labels = problem.y if noise is None else problem.y + noise
    return ((mean @ problem.X.T - labels) @ problem.X / problem.n).numpy()


def compensated(given: Case, last: Snapshot) -> Tensor:
    """(R, d) the Lasso of each replica for labels plus mean realised noise, lambda with its finite-step bias."""
    lasso, labels = given.effective(), given.problem.y + last.mean_noise
    solved = [lassos.weighted_lasso(given.problem.X, y, lasso.penalty, positive=lasso.positive).coef for y in labels]
    return torch.stack(solved)


def lambda_seen(case: Case, snapshot: Snapshot) -> Array:
    """(R, k) lambda on the Lasso's support, by the identity of theory.md section 3, every term of it measured.

    lambda_j = -sign_j (g_j(mean beta) - mean noise_j) - (log |beta_j|(K) - log |beta_j|(0)) / (2 a lr K)
    """
    assert snapshot.mean_coef is not None
    assert snapshot.log_weights is not None
    on, sign = case.lasso.support.numpy(), np.sign(case.lasso.coef.numpy())
    slope = -sign * gradients(case.problem, snapshot.mean_coef, snapshot.mean_noise)
    logs = snapshot.log_weights.numpy()
    now = logs[:, 0] if logs.shape[1] == 1 else np.where(sign > 0, logs[:, 0], logs[:, 1])
    way = now - 2 * np.log(case.dynamics.init)
    return np.asarray((slope - way / (2 * case.rate * snapshot.step))[:, on])


def lambda_ratio(case: Case, snapshot: Snapshot) -> Array:
    """(R,) mean over the Lasso's support of lambda seen over lambda predicted."""
    return np.asarray((lambda_seen(case, snapshot) / case.lasso.penalty[case.lasso.support].numpy()).mean(1))


def distances(coef: Tensor | None, reference: Tensor | None) -> Array:
    """(R,) relative distances."""
    assert coef is not None
    assert reference is not None
    return np.asarray(((coef - reference).norm(dim=-1) / reference.norm()).numpy(), dtype=np.float64)


@dataclass(frozen=True)
class Stationary:
    """Records of a run after its start, coef (K, R, d), log w^2 (K, R, m, d), clean loss (K, R); the last snapshot."""

    coef: Array
    logs: Array
    loss: Array
    last: Snapshot


def stationary(case: Case, seeds: list[int], steps: int, records: int, start: int | None = None) -> Stationary:
    """`records` evenly spaced records from step `start` on, a tenth of the run unless told otherwise."""
    first = steps // 10 if start is None else start
    every = (steps - first) // records // 2 * 2  # even: antithetic noise is read between pairs
    rows = list(run(case, seeds, first + records * every, range(first + every, first + records * every, every)))
    coef, logs, loss = (
        torch.stack([getattr(row, name) for row in rows]).numpy() for name in ("coef", "log_weights", "loss")
    )
    return Stationary(coef, logs, loss, rows[-1])


def falls(given: Case, seeds: list[int], steps: int, parts: int = 2) -> Array:
    """(R, m, d) how much log w^2 moves per step over the run's last (parts - 1) / parts."""
    first, last = run(given, seeds, steps, [steps // parts])
    assert first.log_weights is not None
    assert last.log_weights is not None
    return ((last.log_weights - first.log_weights) / (last.step - first.step)).numpy()
