"""Theorems 2, 3 and 4 of the paper, and the band that it leaves open."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from lntrain.claims.measure import Array, Case, compensated, distances, falls, predict, run, stationary
from lntrain.data.problem import Problem, sparse_regression
from lntrain.experiments.gallery.rules import slopes
from lntrain.experiments.verdicts import At, Check, Curve, Outcome, Picture
from lntrain.lasso import solve as lassos
from lntrain.lasso.solve import LassoSolution
from lntrain.penalty import formula as penalties
from lntrain.theory import laws, regime
from lntrain.theory.dynamics import Dynamics

PAPER = Dynamics(parametrisation="square", loss_constant=0.25, init=0.1)  # beta = w^2, loss constant 1/4: a = 1
MARGIN = 0.05


def paper_problem(at: At, n: int = 40, d: int = 60, k: int = 3) -> tuple[Problem, regime.Regime]:
    """Noiseless, beta >= 0, the domination condition with a margin of 0.05: the setting of Theorems 2 to 4."""
    for seed in at.seeds(1000, "data"):
        problem = sparse_regression(n, d, k, seed=seed)
        found = regime.regime(problem.X, problem.y, 1.0, problem.coef)
        if found.margin_one_sided > MARGIN:
            return problem, found
    raise RuntimeError("1000 problems, none with a domination margin of 0.05")


def at_level(problem: Problem, delta_bar: float, lr: float) -> Case:
    """The paper's dynamics at delta_bar = lr std^2 / n: lambda_j = delta_bar c_j / 2."""
    return predict(problem, PAPER, lr=lr, std=math.sqrt(delta_bar * problem.n / lr))


def theorem_2(at: At) -> Outcome:
    """Below delta_minus the Lasso is the closed form, with the truth's support; above delta_plus it is 0."""
    checks, errors, below, above, kept, dead = [], [], [], [], [], []
    for seed in at.seeds(at.pick(20, 100), "problems"):
        problem, found = paper_problem(replace(at, seed=seed))
        assert problem.coef is not None
        c, on = penalties.mean_squares(problem.X), problem.coef != 0

        def solve(delta_bar: float, problem: Problem = problem, c: torch.Tensor = c) -> LassoSolution:
            return lassos.weighted_lasso(problem.X, problem.y, delta_bar / 2 * c, positive=True)

        for share in (0.1, 0.5, 0.99):
            level = share * found.delta_minus
            try:
                closed = lassos.closed_form_lasso(problem.X, problem.y, level / 2 * c, problem.coef, positive=True)
                errors.append(float(distances(closed.coef[None], solve(level).coef)[0]))
            except ValueError:  # it does not solve the Lasso there
                errors.append(1.0)
        below.append(float((solve(0.99 * found.delta_minus).support == on).double().mean()))
        above.append(float((solve(1.01 * found.delta_minus).support == on).double().mean()))
        kept.append(float(solve(0.99 * found.delta_plus).coef.abs().max()))
        dead.append(float(solve(1.01 * found.delta_plus).coef.abs().max()))
    checks = [
        Check("largest distance of the closed form to scikit-learn's", 1e-6, max(errors), "<="),
        Check("at .99 delta_minus: share of coordinates with the truth's support", 1.0, min(below), ">="),
        Check("at 1.01 delta_minus: largest such share", 0.999, max(above), "<="),
        Check("at .99 delta_plus: smallest of the largest coefficients", 1e-6, min(kept), ">="),
        Check("at 1.01 delta_plus: largest coefficient", 0.0, max(dead), "<="),
    ]
    return Outcome(checks)


def theorem_3(at: At) -> Outcome:
    """Above delta_plus every coordinate decays exponentially to 0, at the predicted rate."""
    problem, found = paper_problem(at)
    given = at_level(problem, 1.1 * found.delta_plus, 0.002)
    rate = laws.predicted_exponents(
        problem.X, problem.y, given.lasso, lr=given.lr, parametrisation="square", loss_constant=0.25
    ).numpy()[0]
    steps = int(500 / float(np.abs(rate).max()))  # the fastest reaches e^-500, still a number
    seen = falls(given, at.seeds(at.pick(16, 64)), steps, 4)[:, 0]
    slope = (seen * rate).sum(1) / (rate**2).sum()
    bias = float(given.bias.max())
    return Outcome(
        [
            Check("slowest decay of log beta a step, mean over seeds", 0.0, float(seen.mean(0).max()), "<="),
            Check("decay, seen over predicted", 1.0, slope, allowance=bias),
        ],
        Picture(
            [Curve("coordinates", -rate, -seen.mean(0), "o"), Curve("y = x", -rate, -rate, "-")],
            "predicted decay a step",
            "seen",
            True,
            True,
        ),
    )


def spread_exponent() -> float:
    """Theorem 4: on the support the last iterate moves about the Lasso with an sd of delta_bar to this power."""
    return 0.5


def theorem_4(at: At) -> Outcome:
    """Below delta_minus: off the support exponential decay, on it fluctuations O(sqrt(delta_bar)) about the Lasso."""
    problem, found = paper_problem(at)
    assert problem.coef is not None
    on = (problem.coef != 0).numpy()
    levels, sds, means = np.array([0.05, 0.1, 0.2]) * found.delta_minus, [], []  # sds: over sqrt(mean beta*)
    steps = at.pick(200_000, 1_500_000)
    for level in levels:
        given = at_level(problem, float(level), 0.01)
        kept = stationary(given, at.seeds(16, str(level)), steps, 300, steps // 4)
        around = kept.coef[:, :, on] - given.lasso.coef.numpy()[on]
        sds.append(np.sqrt((around**2).mean((0, 2)) / float(given.lasso.coef[on].mean())))
        means.append(distances(torch.from_numpy(kept.coef.mean(0)), given.lasso.coef))
    rate = laws.predicted_exponents(
        problem.X, problem.y, given.effective(), lr=given.lr, parametrisation="square", loss_constant=0.25
    )
    off = rate[0].numpy()[~on]
    seen = falls(given, at.seeds(64, "decay"), int(500 / float(np.abs(off).max())), 3)[:, 0][:, ~on]
    decay = (seen * off).sum(1) / (off**2).sum()
    curve = Picture(
        [Curve("rms about the Lasso", levels, np.array(sds))],
        "delta_bar",
        "rms / sqrt(mean beta*) on the support",
        True,
        True,
    )
    return Outcome(
        [
            Check(
                "slope of log (rms / sqrt(mean beta*)) on log delta_bar",
                spread_exponent(),
                slopes(levels, np.array(sds)),
                precision=0.09,
            ),
            Check(
                "decay off the support, largest level, seen over predicted",
                1.0,
                decay,
                allowance=float(given.bias.mean()),
            ),
            Check("mean to the Lasso, relative distance, largest level", 0.1, means[-1], "<="),
        ],
        curve,
    )


def open_band(at: At) -> Outcome:
    """Between delta_minus and delta_plus (open in the paper): the mean is still the Lasso, mapped over the band."""
    problem, found = paper_problem(at)
    shares = np.linspace(0.1, 0.9, at.pick(5, 9))
    levels = found.delta_minus + shares * (found.delta_plus - found.delta_minus)
    sizes: tuple[list[Array], list[float]] = [], []
    far, steps = [], at.pick(600_000, 3_000_000)
    for level in levels:
        given = at_level(problem, float(level), 0.01)
        *_, last = run(given, at.seeds(8, str(level)), steps)
        assert last.mean_coef is not None
        far.append((last.mean_coef - compensated(given, last)).norm(dim=-1).numpy() / float(problem.coef.norm()))  # type: ignore[union-attr]
        sizes[0].append(last.mean_coef.abs().sum(-1).numpy())
        sizes[1].append(float(given.effective().coef.abs().sum()))
    supports = [int(at_level(problem, float(level), 0.01).lasso.support.sum()) for level in levels]
    note = (
        f"support of the Lasso from delta_minus {found.delta_minus:.3g} "
        f"to delta_plus {found.delta_plus:.3g}: {supports} (truth: 3)"
    )
    check = Check(
        "largest distance to the Lasso (compensated), over the truth's norm", at.pick(0.03, 0.02), np.max(far, 0), "<="
    )
    curves = [Curve("mean of training", levels, np.array(sizes[0])), Curve("Lasso", levels, sizes[1], "s--")]
    return Outcome([check], Picture(curves, "delta_bar", "l1 norm"), note)
