"""Section 4 of theory.md: which statistic converges to what, and how fast."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from lntrain.claims.measure import (
    Case,
    compensated,
    distances,
    no_near_tie,
    run,
    stationary,
)
from lntrain.claims.section3 import case
from lntrain.data.problem import Problem, sparse_regression
from lntrain.experiments.verdicts import At, Check, Curve, Outcome, Picture
from lntrain.lasso import references
from lntrain.lasso import solve as lassos
from lntrain.noise.schedules import PowerDecay
from lntrain.penalty import formula as penalties
from lntrain.theory import gamma, regime
from lntrain.theory.dynamics import Dynamics

CLOSE = 0.005  # relative distance to the Lasso, in the full mode
PLAIN = Dynamics(init=0.5)
PAIRED = Dynamics(init=0.5, antithetic=True, noise_kurtosis=3.0)


def data(at: At, ratio: float = 0.1, n: int = 40, d: int = 60, k: int = 4) -> Problem:
    """k coefficients of +/- 1, no noise in the data, no near tie at this penalty."""
    return no_near_tie(at, lambda seed: sparse_regression(n, d, k, signs="random", seed=seed), ratio)


def mean_converges(at: At) -> Outcome:
    """The time average of beta comes to the weighted Lasso."""
    given = case(data(at, 0.03), PLAIN, 0.005, 0.03)
    steps = at.pick(2_500_000, 12_000_000)
    shots = [s for s in run(given, at.seeds(8), steps, [steps >> k for k in range(12)]) if s.mean_coef is not None]
    far = np.stack([distances(s.mean_coef, given.lasso.coef) for s in shots if s.mean_coef is not None])
    last = shots[-1]
    assert last.coef is not None
    assert last.mean_coef is not None
    ends = compensated(given, last)
    return Outcome(
        [
            Check("distance of the mean to the Lasso", at.pick(0.01, CLOSE), far[-1], "<="),
            Check("to that for y + mean realised noise", at.pick(0.0015, 0.001), distances(last.mean_coef, ends), "<="),
            Check("distance of the last iterate", 0.02, distances(last.coef, given.lasso.coef), ">="),
        ],
        Picture(
            [Curve("mean, 8 seeds", [s.step for s in shots], far)], "step", "relative distance to the Lasso", True, True
        ),
    )


def antithetic_last(at: At) -> Outcome:
    """With noise in pairs (eps, -eps) the last iterate comes to the Lasso; read on even steps."""
    problem, lr, steps = data(at, 0.05), at.pick(0.0005, 0.00025), at.pick(1_000_000, 6_000_000)
    paired, plain = (case(problem, replace(dynamics, init=0.1), lr, 0.05) for dynamics in (PAIRED, PLAIN))
    reads = [steps - k * steps // 200 // 2 * 2 for k in range(16)]  # the last step, and others of the last tenth
    far = {}
    for name, given, at_steps in (
        ("even", paired, reads),
        ("odd", paired, [s - 1 for s in reads]),
        ("iid", plain, reads),
    ):
        shots = [s.coef for s in run(given, at.seeds(8), steps, at_steps) if s.step in at_steps and s.coef is not None]
        far[name] = np.mean([distances(coef, given.lasso.coef) for coef in shots], 0)
    return Outcome(
        [
            Check("distance of the last iterate, even steps", at.pick(0.01, CLOSE), far["even"], "<="),
            Check("odd steps", CLOSE, far["odd"], ">="),
            Check("iid noise", 10 * CLOSE, far["iid"], ">="),
        ]
    )


def weight_bias(level: float) -> float:
    """(time average of w)^2 - beta, a coordinate on the support."""
    return -level / 2


def averaged_weights(at: At) -> Outcome:
    """(time average of w)^2 is lambda_0 / 2 below the time average of beta: never average the weights."""
    problem = no_near_tie(at, lambda seed: sparse_regression(40, 60, 4, seed=seed), 0.1, positive=True)
    given = case(problem, replace(PLAIN, parametrisation="square"), 0.0025)
    kept = stationary(given, at.seeds(8), at.pick(500_000, 3_000_000), at.pick(1200, 4000))
    on = (given.lasso.coef > 0.3).numpy()  # a coordinate near 0 has a law far from Gaussian
    level = float((given.lasso.penalty / penalties.mean_squares(given.problem.X)).mean())
    w = np.exp(kept.logs[:, :, 0][:, :, on] / 2)
    gap = (w.mean(0) ** 2 - (w**2).mean(0)).mean(-1)
    law = gamma.gamma_law(given.problem.X, given.lasso)
    shape = law.coef.numpy()[on] / (2 * level)
    ratio = np.exp(2 * (np.vectorize(math.lgamma)(shape + 0.5) - np.vectorize(math.lgamma)(shape)))
    exact = float((2 * level * (ratio - shape)).mean())  # of the Gamma law; -lambda_0 / 2 for lambda_0 << beta
    allowance = abs(exact + level / 2) + 2 * float(given.bias[on].mean()) * level / 2
    return Outcome(
        [Check("(mean w)^2 - mean w^2", weight_bias(level), gap, allowance=allowance, precision=0.18 * level / 2)]
    )


def fluctuation(at: At) -> Outcome:
    """The last iterate does not converge: its relative sd is sqrt(2 lambda_0 / beta), at any time."""
    given = case(data(at), PLAIN, 0.0025)
    law = gamma.gamma_law(given.problem.X, given.lasso)
    on = (given.lasso.coef.abs() > 0.3).numpy()
    checks = []
    steps, records = at.pick(800_000, 3_000_000), at.pick(1200, 4000)
    kept = stationary(given, at.seeds(8), steps, records)
    for name, part in (("first half", kept.coef[: records // 2]), ("second half", kept.coef[records // 2 :])):
        sd = np.sqrt(part[:, :, on].var(0)) / law.sd.numpy()[on]
        bias = float(given.bias[on].mean())
        checks.append(Check(f"sd / (beta sqrt(2 lambda_0 / beta)), {name}", 1.0, sd.mean(-1), allowance=bias))
    return Outcome(checks)


def _pursuit_problem(at: At) -> tuple[Problem, torch.Tensor]:
    """The first problem without near ties whose l1 norms weighted by c_j and by 1 have minima far apart."""
    for seed in at.seeds(2000, "data"):
        X = sparse_regression(20, 40, 0, column_scales=(0.5, 2.0), seed=seed).X
        c = penalties.mean_squares(X)
        small = c.argsort()[:3]  # the l1 norm weighted by c_j finds them, the plain one takes larger columns
        problem = Problem(X, X[:, small] @ torch.tensor([1.0, -1.0, 1.0]).double())
        found = references.basis_pursuit(problem.X, problem.y, c).coef
        clear = regime.irrepresentability_margin(problem.X, found, c) > 0.1
        plain = references.basis_pursuit(problem.X, problem.y).coef
        if int((found != 0).sum()) == 3 and clear and float(distances(plain[None], found)[0]) > 0.3:
            return problem, plain
    raise RuntimeError("2000 problems, none of them clear")


def annealed(at: At) -> Outcome:
    """Noise annealed to 0 as 1/t: the last iterate comes to basis pursuit weighted by c_j, not to plain min l1."""
    problem, plain = _pursuit_problem(at)
    steps = at.pick(3_000_000, 20_000_000)
    given = case(problem, PLAIN, 0.01)
    shots = list(
        run(
            given,
            at.seeds(at.pick(8, 16)),
            steps,
            [steps >> k for k in range(10)],
            schedule=PowerDecay(1.0, steps / 100),
        )
    )
    weighted = references.basis_pursuit(problem.X, problem.y, penalties.mean_squares(problem.X)).coef
    far, other = (np.stack([distances(s.coef, end) for s in shots if s.coef is not None]) for end in (weighted, plain))
    return Outcome(
        [
            Check("distance of the last iterate to basis pursuit, weights c_j", at.pick(0.03, 0.01), far[-1], "<="),
            Check("to plain min l1", 0.2, other[-1], ">="),
        ],
        Picture([Curve("last iterate", [s.step for s in shots], far)], "step", "distance to basis pursuit", True, True),
    )


def _sparsest(at: At) -> Problem:
    """The first problem whose min l1 is sparse and clear of ties: a distance of init^(1 - tie) is then small."""
    for seed in at.seeds(1000, "data"):
        problem = sparse_regression(20, 40, 3, signs="random", seed=seed)
        found = references.basis_pursuit(problem.X, problem.y).coef
        if int((found != 0).sum()) == 3 and regime.irrepresentability_margin(problem.X, found) > 0.3:
            return problem
    raise RuntimeError("1000 problems, none of them clear")


def without_noise(at: At) -> Outcome:
    """GD without noise: the hyperbolic-entropy interpolator of its init; the smaller the init, the nearer to min l1."""
    problem, inits = _sparsest(at), (1.0, 0.1, 0.01, 0.001)
    l1 = references.basis_pursuit(problem.X, problem.y).coef
    far, near = [], []
    for init in inits:
        given = Case(problem, replace(PLAIN, init=init), 0.02, 0.0, lassos.weighted_lasso(problem.X, problem.y, 0.1))
        *_, last = run(given, at.seeds(1), at.pick(100_000, 400_000))
        assert last.coef is not None
        end = references.entropy_interpolator(problem.X, problem.y, interpolator_init(init)).coef
        far.append(float(distances(last.coef, end)[0]))
        near.append(float(distances(last.coef, l1)[0]))
    return Outcome(
        [
            Check("largest distance to the entropy interpolator", 0.01, max(far), "<="),
            Check("distance to min l1, init .001 over init 1", 0.3, near[-1] / near[0], "<="),
        ],
        Picture(
            [Curve("to min l1", inits, near), Curve("to the entropy interpolator", inits, far)],
            "init",
            "distance",
            True,
            True,
        ),
    )


def interpolator_init(init: float) -> float:
    """The scale of the entropy that GD from w = init minimises."""
    return init
