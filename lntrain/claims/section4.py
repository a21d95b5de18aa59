"""Section 4 of theory.md: which statistic converges to what, and how fast."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from lntrain import corrections, gamma, laws, references
from lntrain import lasso as lassos
from lntrain import penalty as penalties
from lntrain.claims.measure import (
    Array,
    At,
    Case,
    distances,
    gradients,
    lambda_ratio,
    no_near_tie,
    predict,
    run,
    slopes,
    stationary,
)
from lntrain.claims.section3 import case
from lntrain.claims.verdict import Check, Curve, Outcome, Picture
from lntrain.diagnostics import kkt_residual
from lntrain.plan import Dynamics
from lntrain.problem import Problem, sparse_regression
from lntrain.schedule import PowerDecay

RATES = {"raw": -0.5, "compensated": -1.0, "finite step": 1.0, "antithetic": 1.0}  # exponents of T, T, lr, lr
CLOSE = 0.005  # relative distance to the Lasso
PLAIN = Dynamics(init=0.5)
PAIRED = Dynamics(init=0.5, antithetic=True, noise_kurtosis=3.0)


def data(at: At, ratio: float = 0.1, n: int = 40, d: int = 60, k: int = 4) -> Problem:
    """k coefficients of +/- 1, no noise in the data, no near tie at this penalty."""
    return no_near_tie(at, lambda seed: sparse_regression(n, d, k, signs="random", seed=seed), ratio)


def mean_converges(at: At) -> Outcome:
    """The time average of beta comes to the weighted Lasso."""
    given = case(data(at, 0.03), PLAIN, 0.005, 0.03)
    steps = at.pick(2_000_000, 12_000_000)
    shots = [s for s in run(given, at.seeds(8), steps, [steps >> k for k in range(12)]) if s.mean_coef is not None]
    far = np.stack([distances(s.mean_coef, given.lasso.coef) for s in shots if s.mean_coef is not None])
    last = shots[-1]
    assert last.coef is not None
    return Outcome(
        [
            Check("distance of the mean to the Lasso", CLOSE, far[-1], "<="),
            Check("distance of the last iterate", 0.02, distances(last.coef, given.lasso.coef), ">="),
        ],
        Picture([Curve("mean, 8 seeds", [s.step for s in shots], far)], "step", "relative distance to the Lasso", True, True),
    )  # fmt: skip


def antithetic_last(at: At) -> Outcome:
    """With noise in pairs (eps, -eps) the last iterate comes to the Lasso; read on even steps."""
    problem, lr, steps = data(at, 0.05), 0.0005, at.pick(1_000_000, 4_000_000)
    paired, plain = (case(problem, replace(dynamics, init=0.1), lr, 0.05) for dynamics in (PAIRED, PLAIN))
    reads = [steps - k * steps // 200 // 2 * 2 for k in range(16)]  # the last step, and others of the last tenth
    far = {}
    for name, given, at_steps in (
        ("even", paired, reads), ("odd", paired, [s - 1 for s in reads]), ("iid", plain, reads),
    ):  # fmt: skip
        shots = [s.coef for s in run(given, at.seeds(8), steps, at_steps) if s.step in at_steps and s.coef is not None]
        far[name] = np.mean([distances(coef, given.lasso.coef) for coef in shots], 0)
    return Outcome(
        [
            Check("distance of the last iterate, even steps", CLOSE, far["even"], "<="),
            Check("odd steps", CLOSE, far["odd"], ">="),
            Check("iid noise", 10 * CLOSE, far["iid"], ">="),
        ]
    )


def kkt_errors(at: At, seeds: int, init: float, lr: float, times: Array) -> tuple[Case, Array, dict[str, Array]]:
    """KKT residuals (S, R) at the means after T steps, q^2 = 2 a lr lambda_0 T = `times`, raw and compensated.

    Against lambda (1 + finite-step bias), so that the step leaves no floor to first order.
    """
    given = case(data(at, 0.4, 20, 40, 3), replace(PLAIN, init=init), lr, 0.4)
    level = float((given.lasso.penalty / penalties.mean_squares(given.problem.X)).mean())
    steps = (times / (2 * given.rate * level)).astype(int) // 2 * 2
    lasso = given.effective()
    found: dict[str, list[list[float]]] = {"raw": [], "compensated": []}
    for shot in run(given, at.seeds(seeds), int(steps[-1]), steps.tolist()):
        assert shot.mean_coef is not None
        for name, noise in (("raw", None), ("compensated", shot.mean_noise)):
            slope = torch.from_numpy(gradients(given.problem, shot.mean_coef, noise))
            found[name].append(
                [kkt_residual(g, b, lasso.penalty, ~lasso.support) for g, b in zip(slope, shot.mean_coef, strict=True)]
            )
    return given, steps, {name: np.array(values) for name, values in found.items()}


def raw_rate(at: At) -> Outcome:
    """KKT error of the mean against the Lasso: T^-1/2."""
    times = np.geomspace(200, at.pick(10_000, 20_000), 12)
    _, steps, errors = kkt_errors(at, at.pick(64, 128), 0.5, at.pick(0.01, 0.005), times)
    return Outcome(
        [Check("slope of log error on log T", RATES["raw"], slopes(steps, errors["raw"]), precision=0.1)],
        Picture([Curve("KKT error", steps, errors["raw"])], "step", "relative KKT error", True, True),
    )


def compensated_rate(at: At) -> Outcome:
    """KKT error against the Lasso for y + mean realised noise: T^-1."""
    # lr so small that the luck of the noise's power, sqrt(2 / K) of lambda, stays below the way from the init
    times = np.geomspace(40, 1000, 12)
    _, steps, errors = kkt_errors(at, 8, 0.001, at.pick(0.00025, 0.0001), times)
    return Outcome(
        [Check("slope of log error on log T", RATES["compensated"], slopes(steps, errors["compensated"]), precision=0.15)],
        Picture([Curve("KKT error, compensated", steps, errors["compensated"])], "step", "relative KKT error", True, True),
    )  # fmt: skip


def steps_needed(at: At) -> Outcome:
    """A mean over K = 4 / (a^2 lr^2 V e^2) steps has a relative KKT error of e on the support, as a root mean square."""
    given = case(data(at, 0.4, 20, 40, 3), PLAIN, 0.01, 0.4)
    X, on, checks, blocks = given.problem.X, given.lasso.support.numpy(), [], at.pick(12, 24)
    c = penalties.mean_squares(X).numpy()[on]
    for e in at.pick((0.1,), (0.1, 0.05)):
        K = corrections.plan_steps(e, X, given.lasso.coef, lr=given.lr, std=given.std)
        shots = list(run(given, at.seeds(64, str(e)), K * blocks, [K * k for k in range(1, blocks + 1)]))
        means = [shot.mean_coef for shot in shots if shot.mean_coef is not None]
        means = list(laws.block_means([shot.step for shot in shots], torch.stack(means)))
        penalty = given.lasso.penalty.numpy() * (1 + given.bias)
        sign, unit = np.sign(given.lasso.coef.numpy()), given.lasso.penalty.numpy()
        errors = np.stack([(gradients(given.problem, mean) + penalty * sign) / unit for mean in means])
        squares = (errors[..., on] / e) ** 2 * (c / c.min())  # K is for the smallest column of the support
        checks.append(Check(f"mean square of error / e, e={e}, K={K}", 1.0, squares.mean((0, 2)), precision=0.19))
    return Outcome(checks)


def finite_step(at: At) -> Outcome:
    """lambda_eff / lambda - 1 = a lr [sum S^2 |beta| / c + (kurtosis - 3/2) lambda]; antithetic: twice the first term."""
    problem = Problem(torch.tensor([[math.sqrt(2)], [0.0]]).double(), torch.tensor([3 * math.sqrt(2), 0.0]).double())
    checks = []
    for name, dynamics in (
        ("Gaussian", PLAIN), ("Rademacher", replace(PLAIN, noise_kurtosis=1.0)), ("antithetic", PAIRED),
    ):  # fmt: skip
        given = case_at(problem, dynamics, 0.0025, alpha=1.0)
        *_, last = run(given, at.seeds(at.pick(16, 32)), at.pick(4_000_000, 12_000_000))
        bias = float(given.bias[0])
        name = f"1-D, lr .0025, lambda 1: {name}"
        checks.append(
            Check(name, bias, lambda_ratio(given, last) - 1, allowance=float(given.remainder[0]), precision=0.18 * bias)
        )
    return Outcome(checks)


def case_at(problem: Problem, dynamics: Dynamics, lr: float, alpha: float) -> Case:
    """The case of lambda_j = alpha c_j."""
    return predict(
        problem, dynamics, lr=lr, std=penalties.noise_for_penalty(problem.X, alpha, lr=lr, **dynamics.penalty_options())
    )


def finite_step_order(at: At) -> Outcome:
    """The excess of lambda is of order 1 in lr, and at the small end it is the formula."""
    problem, rates = sparse_regression(20, 40, 3, signs="random", seed=at.data), (0.02, 0.01, 0.005)
    seen, formula, rest = [], [], []
    for lr in rates:
        given = case_at(problem, PLAIN, lr, alpha=0.05)
        on = given.lasso.support.numpy()
        *_, last = run(given, at.seeds(8, str(lr)), int(at.pick(16_000, 60_000) / lr))
        seen.append(lambda_ratio(given, last) - 1)
        formula.append(float(given.bias[on].mean()))
        rest.append(float(given.remainder[on].mean()))
    excess = np.array(seen)
    bend = (rest[0] / formula[0] - rest[-1] / formula[-1]) / math.log(rates[0] / rates[-1])  # of the second order
    picture = Picture(
        [Curve("measured", rates, excess), Curve("formula", rates, formula, "--")], "lr", "lambda_eff / lambda - 1", True, True
    )  # fmt: skip
    return Outcome(
        [
            Check("slope of log excess on log lr", RATES["finite step"], slopes(rates, excess), allowance=bend, precision=0.18),
            Check(f"excess at lr {rates[-1]}", formula[-1], excess[-1], allowance=rest[-1], precision=0.18 * formula[-1]),
        ],
        picture,
    )  # fmt: skip


def antithetic_order(at: At) -> Outcome:
    """Antithetic noise: the mean over the second half is O(lr) from the Lasso, slope 1."""
    problem, rates, far, rest = data(at), (0.02, 0.01, 0.005), [], []
    for lr in rates:
        given = case(problem, PAIRED, lr)
        steps = int(at.pick(6000, 20_000) / lr) // 4 * 4
        half, last = run(given, at.seeds(8, str(lr)), steps, [steps // 2])
        assert half.mean_coef is not None
        assert last.mean_coef is not None
        far.append(distances(2 * last.mean_coef - half.mean_coef, given.lasso.coef))
        on = given.lasso.support.numpy()
        rest.append(float((given.remainder / given.bias)[on].mean()))
    bend = (rest[0] - rest[-1]) / math.log(rates[0] / rates[-1])  # of the second order
    picture = Picture(
        [Curve("mean over the second half", rates, np.array(far))], "lr", "relative distance to the Lasso", True, True
    )
    slope = slopes(rates, np.array(far))
    check = Check("slope of log distance on log lr", RATES["antithetic"], slope, allowance=bend, precision=0.18)
    return Outcome([check], picture)


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
    steps, records = at.pick(500_000, 3_000_000), at.pick(1200, 4000)
    kept = stationary(given, at.seeds(8), steps, records)
    for name, part in (("first half", kept.coef[: records // 2]), ("second half", kept.coef[records // 2 :])):
        sd = np.sqrt(part[:, :, on].var(0)) / law.sd.numpy()[on]
        bias = float(given.bias[on].mean())
        checks.append(Check(f"sd / (beta sqrt(2 lambda_0 / beta)), {name}", 1.0, sd.mean(-1), allowance=bias))
    return Outcome(checks)


def _pursuit_problem(at: At) -> tuple[Problem, torch.Tensor]:
    """A problem whose l1 norms with weights c_j and with weights 1 have minima far apart, the first clear of near ties."""
    for seed in at.seeds(2000, "data"):
        X = sparse_regression(20, 40, 0, column_scales=(0.5, 2.0), seed=seed).X
        c = penalties.mean_squares(X)
        small = c.argsort()[:3]  # the l1 norm weighted by c_j finds them, the plain one takes larger columns
        problem = Problem(X, X[:, small] @ torch.tensor([1.0, -1.0, 1.0]).double())
        found = references.basis_pursuit(problem.X, problem.y, c)
        on = found.coef.abs() > 1e-9
        assert found.dual is not None
        tie = float(((problem.X.T @ found.dual).abs() / c)[~on].max())
        plain = references.basis_pursuit(problem.X, problem.y).coef
        if int(on.sum()) == 3 and tie < 0.9 and float(distances(plain[None], found.coef)[0]) > 0.3:
            return problem, plain
    raise RuntimeError("2000 problems, none of them clear")


def annealed(at: At) -> Outcome:
    """Noise annealed to 0 as 1/t: the last iterate comes to basis pursuit weighted by c_j, not to plain min l1."""
    problem, plain = _pursuit_problem(at)
    steps = at.pick(3_000_000, 12_000_000)
    given = case(problem, PLAIN, 0.01)
    shots = list(run(given, at.seeds(8), steps, [steps >> k for k in range(10)], schedule=PowerDecay(1.0, steps / 100)))
    weighted = references.basis_pursuit(problem.X, problem.y, penalties.mean_squares(problem.X)).coef
    far, other = (np.stack([distances(s.coef, end) for s in shots if s.coef is not None]) for end in (weighted, plain))
    return Outcome(
        [
            Check("distance of the last iterate to basis pursuit, weights c_j", 0.01, far[-1], "<="),
            Check("to plain min l1", 0.2, other[-1], ">="),
        ],
        Picture([Curve("last iterate", [s.step for s in shots], far)], "step", "distance to basis pursuit", True, True),
    )


def without_noise(at: At) -> Outcome:
    """GD without noise: the hyperbolic-entropy interpolator of its init; the smaller the init, the nearer to min l1."""
    problem, inits = sparse_regression(20, 40, 3, signs="random", seed=at.data), (1.0, 0.1, 0.01, 0.001)
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
