"""The rates of section 4 of theory.md: slopes by regression, and the steps that they ask for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from lntrain.claims.measure import (
    Case,
    distances,
    gradients,
    lambda_ratio,
    predict,
    run,
)
from lntrain.claims.section3 import case
from lntrain.claims.section4 import PAIRED, PLAIN, data
from lntrain.data.problem import Problem, sparse_regression
from lntrain.experiments.gallery.rules import slopes
from lntrain.experiments.verdicts import At, Check, Curve, Outcome, Picture
from lntrain.penalty import corrections
from lntrain.penalty import formula as penalties
from lntrain.theory import laws
from lntrain.theory.dynamics import Dynamics
from lntrain.training.evaluation import kkt_residual

RATES = {"raw": -0.5, "compensated": -1.0, "finite step": 1.0, "antithetic": 1.0}  # exponents of T, T, lr, lr


def rates_case(at: At, init: float, lr: float) -> tuple[Case, float]:
    """A small problem without near ties, and q^2 / K = 2 a lr lambda_0: after K steps the raw KKT error is 2 / q."""
    given = case(data(at, 0.4, 20, 40, 3), replace(PLAIN, init=init), lr, 0.4)
    return given, 2 * given.rate * float((given.lasso.penalty / penalties.mean_squares(given.problem.X)).mean())


def raw_rate(at: At) -> Outcome:
    """KKT error of the mean against the Lasso: T^-1/2, by the means over disjoint stretches of T steps of one run.

    The error is the largest |g_j + lambda_j sign_j| / lambda_j on the support, lambda with its finite-step bias.
    """
    given, unit = rates_case(at, 0.5, at.pick(0.01, 0.005))
    stretch, groups = int(80 / unit), at.pick(16, 32)
    shots = list(run(given, at.seeds(4 * groups), stretch * 129, [stretch * k for k in range(1, 130)]))
    means = torch.stack([shot.mean_coef for shot in shots if shot.mean_coef is not None])
    parts = laws.block_means([shot.step for shot in shots], means)  # (128, R, d), the start left out
    lasso = given.effective()
    on, sign, penalty = lasso.support.numpy(), np.sign(lasso.coef.numpy()), lasso.penalty.numpy()
    lengths, errors = [2**k for k in range(6)], []
    for length in lengths:
        joined = parts.reshape(-1, length, *parts.shape[1:]).mean(1)
        off = np.stack([gradients(given.problem, mean) for mean in joined]) / penalty + sign
        largest = np.abs(off[..., on]).max(-1).reshape(len(joined), groups, 4)
        errors.append(np.sqrt((largest**2).mean((0, 2))))
    steps = stretch * np.array(lengths)
    return Outcome(
        [Check("slope of log error on log T", RATES["raw"], slopes(steps, np.array(errors)), precision=0.08)],
        Picture([Curve("KKT error, rms", steps, np.array(errors))], "T / lr, steps", "relative KKT error", True, True),
    )


def compensated_rate(at: At) -> Outcome:
    """KKT error against the Lasso for y + mean realised noise: T^-1, from the start on."""
    # lr so small that fluctuations of the noise power, sqrt(2 / K) of lambda, stay below the term of the init
    given, unit = rates_case(at, 0.001, at.pick(0.00025, 0.0001))
    steps = (np.geomspace(40, 1000, 12) / unit).astype(int)
    lasso, errors = given.effective(), []
    for shot in run(given, at.seeds(16), int(steps[-1]), steps.tolist()):
        assert shot.mean_coef is not None
        pairs = zip(gradients(given.problem, shot.mean_coef, shot.mean_noise), shot.mean_coef, strict=True)
        errors.append([float(kkt_residual(torch.from_numpy(g), b, lasso.penalty, ~lasso.support)) for g, b in pairs])
    return Outcome(
        [Check("slope of log error on log T", RATES["compensated"], slopes(steps, np.array(errors)), precision=0.15)],
        Picture([Curve("KKT error, compensated", steps, np.array(errors))], "step", "relative KKT error", True, True),
    )


def steps_needed(at: At) -> Outcome:
    """A mean over K = 4 / (a^2 lr^2 V e^2) steps has a relative KKT error of e on the support (rms)."""
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
    """lambda_eff / lambda - 1 = a lr [sum S^2 |beta| / c + (kurtosis - 3/2) lambda]; pairs: twice the first term."""
    problem = Problem(torch.tensor([[math.sqrt(2)], [0.0]]).double(), torch.tensor([3 * math.sqrt(2), 0.0]).double())
    checks = []
    for name, dynamics in (
        ("Gaussian", PLAIN),
        ("Rademacher", replace(PLAIN, noise_kurtosis=1.0)),
        ("antithetic", PAIRED),
    ):
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
        *_, last = run(given, at.seeds(16, str(lr)), int(at.pick(12_000, 50_000) / lr))
        seen.append(lambda_ratio(given, last) - 1)
        formula.append(float(given.bias[on].mean()))
        rest.append(float(given.remainder[on].mean()))
    excess = np.array(seen)
    bend = (rest[0] / formula[0] - rest[-1] / formula[-1]) / math.log(rates[0] / rates[-1])  # second order in lr
    picture = Picture(
        [Curve("measured", rates, excess), Curve("formula", rates, formula, "--")],
        "lr",
        "lambda_eff / lambda - 1",
        True,
        True,
    )
    return Outcome(
        [
            Check(
                "slope of log excess on log lr",
                RATES["finite step"],
                slopes(rates, excess),
                allowance=bend,
                precision=0.18,
            ),
            Check(
                f"excess at lr {rates[-1]}", formula[-1], excess[-1], allowance=rest[-1], precision=0.18 * formula[-1]
            ),
        ],
        picture,
    )


def antithetic_order(at: At) -> Outcome:
    """Antithetic noise: the mean over the second half is O(lr) from the Lasso, slope 1."""
    problem, rates, far, rest = data(at), (0.02, 0.01, 0.005), [], []
    for lr in rates:
        given = case(problem, PAIRED, lr)
        steps = int(at.pick(6000, 15_000) / lr) // 4 * 4
        half, last = run(given, at.seeds(20, str(lr)), steps, [steps // 2])
        assert half.mean_coef is not None
        assert last.mean_coef is not None
        far.append(distances(2 * last.mean_coef - half.mean_coef, given.lasso.coef))
        on = given.lasso.support.numpy()
        rest.append(float((given.remainder / given.bias)[on].mean()))
    bend = (rest[0] - rest[-1]) / math.log(rates[0] / rates[-1])  # change of the slope by the second order in lr
    picture = Picture(
        [Curve("mean over the second half", rates, np.array(far))], "lr", "relative distance to the Lasso", True, True
    )
    slope = slopes(rates, np.array(far))
    check = Check("slope of log distance on log lr", RATES["antithetic"], slope, allowance=bend, precision=0.18)
    return Outcome([check], picture)
