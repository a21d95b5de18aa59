"""Section 5 of theory.md: the paper's theorems, the invariant law, the loss, the exponents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lntrain.claims.measure import Case, distances, falls, no_near_tie, run, stationary
from lntrain.claims.section3 import case
from lntrain.claims.section4 import PLAIN, data
from lntrain.claims.theorems import MARGIN
from lntrain.data.problem import Problem, sparse_regression
from lntrain.experiments.verdicts import At, Check, Curve, Outcome, Picture
from lntrain.lasso.solve import LassoSolution
from lntrain.penalty import formula as penalties
from lntrain.theory import gamma, laws, regime
from lntrain.theory.choose import margins
from lntrain.theory.expectation import whole
from lntrain.training.evaluation import support_scores

LAW_LEVEL = 1e-3  # family-wise, of the tests of the Gamma law


def correlated(at: At) -> tuple[Problem, Case]:
    """AR(.7) design, 10 support coordinates clear of near ties."""
    for part in range(1000):
        own = replace(at, row=f"{at.row} {part}")
        problem = no_near_tie(own, _autoregressive, 0.05)
        given = case(problem, PLAIN, 0.0025, 0.05)
        if int(given.lasso.support.sum()) == 10:
            return problem, given
    raise RuntimeError("1000 problems, none with 10 support coordinates")


def _autoregressive(seed: int) -> Problem:
    return sparse_regression(100, 40, 10, signs="random", design="correlated", rho=0.7, seed=seed)


def relaxation(given: Case) -> float:
    """Steps for the slowest fluctuation on the support to fall e-fold: 1 / (2 a lr min eig(D S D)), D = sqrt|beta|."""
    on = given.lasso.support
    X = given.problem.X[:, on] * given.lasso.coef[on].abs().sqrt()
    return 1 / (2 * given.rate * float(torch.linalg.eigvalsh(X.T @ X / given.problem.n)[0]))


def law_tests(at: At, law: gamma.GammaLaw, samples: np.ndarray) -> tuple[gamma.GammaTest, int]:
    """KS and variance tests of each support coordinate, and the smallest effective sample size."""
    size, _ = gamma.effective_size(samples)
    return gamma.gamma_test(samples, law), int(size[law.support].min())


def gamma_invariant(at: At) -> Outcome:
    """|beta_j| ~ independent Gamma(|beta*_j| / (2 lambda_0), 2 lambda_0) on the support, whatever the correlation."""
    problem, given = correlated(at)
    law = gamma.gamma_law(problem.X, given.lasso)
    start, records = 30_000, at.pick(240, 600)
    kept = stationary(given, at.seeds(64), start + int(records * relaxation(given)) + records, records, start)
    tests, size = law_tests(at, law, kept.coef)
    wrong, _ = law_tests(at, gamma.GammaLaw(law.coef, 1.3 * law.scale), kept.coef)
    count = len(tests.coordinates)
    both = torch.stack((tests.p_ks, tests.p_variance))
    on = law.support.numpy()
    first = np.sort(np.abs(kept.coef[:, :, on][:, :, 0]).ravel())
    grid = np.linspace(first[0], first[-1], 200)
    picture = Picture(
        [
            Curve("measured", grid, np.searchsorted(first, grid) / len(first), "-"),
            Curve("Gamma law", grid, law.cdf(int(np.flatnonzero(on)[0]), grid), "--"),
        ],
        "|beta_j|, the first support coordinate",
        "distribution function",
    )
    return Outcome(
        [
            Check("support coordinates", 10.0, float(count)),
            Check("smallest effective sample size", 8000.0, float(size), ">="),
            Check("KS and variance: smallest p x tests", LAW_LEVEL, float(both.min()) * both.numel(), ">="),
            Check(
                "scale x 1.3, same mean, variance test: largest p x tests",
                LAW_LEVEL,
                float(wrong.p_variance.max()) * count,
                "<=",
            ),
            Check("scale x 1.3, same mean, KS: smallest p x tests", LAW_LEVEL, float(wrong.p_ks.min()) * count, "<="),
        ],
        picture,
    )


def loss_identity(at: At) -> Outcome:
    """Time mean of (1/2n)||X beta_t - y||^2 = the optimal Lasso objective."""
    checks = []
    for name, noise in (("noiseless data", 0.0), ("noisy data", 0.5)):
        problem = sparse_regression(40, 60, 4, signs="random", noise=noise, seed=at.data)
        given = case(problem, PLAIN, 0.0025)
        steps = at.pick(500_000, 4_000_000)
        kept = stationary(given, at.seeds(8, name), steps, at.pick(800, 4000))
        bias = (given.bias * given.lasso.penalty.numpy() * given.lasso.coef.abs().numpy()).sum() / given.lasso.objective
        ratio = kept.loss.mean(0) / optimal_loss(given.lasso)
        checks.append(
            Check(f"mean loss / Lasso objective, {name}", 1.0, ratio, allowance=2 * float(bias), precision=0.13)
        )
    return Outcome(checks)


def optimal_loss(lasso: LassoSolution) -> float:
    """The predicted time mean of the loss: the Lasso's objective."""
    return lasso.objective


def exponents(at: At) -> Outcome:
    """lim log w_pm^2 / t = -2a (lambda_j +/- g_j), every coordinate and sign: slope and correlation."""
    problem = data(at)
    given = case(problem, PLAIN, 0.0025)
    rate = laws.predicted_exponents(problem.X, problem.y, given.effective(), lr=given.lr).numpy()
    steps = int(600 / float(np.abs(rate).max()))
    seen = falls(given, at.seeds(at.pick(32, 256)), steps, 6)
    slope = (seen * rate).sum((1, 2)) / (rate**2).sum()
    correlation = float(np.corrcoef(seen.mean(0).ravel(), rate.ravel())[0, 1])
    on = given.lasso.support.numpy()
    carrier = np.where(given.lasso.coef.numpy() > 0, seen[:, 0], seen[:, 1])[:, on] / np.abs(rate).mean()
    return Outcome(
        [
            Check("slope of seen on predicted", 1.0, slope, allowance=float(given.bias.mean())),
            Check("correlation, mean over seeds", 0.99, correlation, ">="),
            Check(
                "exponent of the weights that carry the support / mean exponent", 0.0, carrier.mean(1), precision=0.05
            ),
        ],
        Picture(
            [
                Curve("weights", -rate.ravel(), -seen.mean(0).ravel(), "o"),
                Curve("y = x", -rate.ravel(), -rate.ravel(), "-"),
            ],
            "predicted fall of log w^2 a step",
            "seen",
        ),
    )


def forgetting(lasso: LassoSolution, rate: float) -> np.ndarray:
    """How much log(beta_plus beta_minus) falls a step, (d,)."""
    return np.asarray(4 * rate * lasso.penalty.numpy())


def init_forgotten(at: At) -> Outcome:
    """log(beta_plus beta_minus) falls by 4 a lr lambda_j a step; runs from other inits meet, noise for noise."""
    problem = data(at)
    ends, checks = [], []
    for init in (0.05, 1.0):
        given = case(problem, replace(PLAIN, init=init), 0.0025)
        fall = forgetting(given.lasso, given.rate)
        steps = int(500 / float(fall.max()))
        first, last, end = run(given, at.seeds(8), 4 * steps, [steps // 4, steps])
        moved = laws.balancedness(first.log_weights) - laws.balancedness(last.log_weights)
        seen = moved.numpy() / (last.step - first.step) / fall
        bias = float(given.bias.mean())
        checks.append(
            Check(
                f"fall / (4 a lr lambda), init {init}", 1 + bias, seen.mean(1), allowance=float(given.remainder.mean())
            )
        )
        ends.append(end.coef)
    apart = distances(ends[0], ends[1])
    return Outcome([*checks, Check("distance of the last iterates, init .05 to init 1", 0.001, apart.max(), "<=")])


def supports(at: At) -> Outcome:
    """20 problems with a signed domination margin above 0.05: the support by exponents is the Lasso's, F1 = 1.

    The slowest coordinate's exponent is below 0 for certain when R K = 200 / (a lr lambda m^2), m = 1 - |g|/lambda:
    its fall, 2 a lr lambda m K, is then 10 standard deviations, 2 a lr sqrt(V K / R).
    """
    scores, used, falls_seen, ratio, replicas = [], [], [], 0.3, 8
    for seed in at.seeds(5000, "data"):
        problem = sparse_regression(30, 40, 2, signs="random", seed=seed)
        alpha = ratio * penalties.alpha_max(problem.X, problem.y)
        found = regime.regime(problem.X, problem.y, alpha, problem.coef, parametrisation="difference")
        if not (found.margin_signed > MARGIN and found.theorem == "Theorem 4"):
            continue
        given = case(problem, PLAIN, 0.01, ratio)
        power = (
            given.rate * (given.lasso.penalty[~given.lasso.support] * margins(whole(problem, given.lasso)) ** 2).min()
        )
        steps = int(at.pick(200, 300) / float(power) / replicas)
        records = [steps // 3 + steps * k // 24 for k in range(17)]
        shots = [shot.log_weights for shot in run(given, at.seeds(replicas, f"noise {seed}"), records[-1], records)]
        kept = torch.stack([logs for logs in shots if logs is not None])
        scores.append(float(support_scores(laws.lyapunov_support(kept, records), given.lasso.support)["support_f1"]))
        used.append(found.margin_signed)
        rate = laws.predicted_exponents(problem.X, problem.y, given.effective(), lr=given.lr).numpy()
        moved = (kept[4] - kept[0]).mean(0).numpy() / (records[4] - records[0])
        slow = (np.abs(rate) * records[4] < 600) & (
            rate < 0.02 * rate.min()
        )  # the others are at the smallest float, or do not decay
        if slow.any():
            falls_seen.append((moved * rate)[slow].sum() / (rate**2)[slow].sum())
        if len(scores) == 20:
            break
    return Outcome(
        [
            Check("problems", 20.0, float(len(scores)), ">="),
            Check("smallest F1 of the support by exponents against the Lasso's", 1.0, min(scores), ">="),
            Check(
                "exponents, slope of seen on predicted, a value a problem",
                1.0,
                falls_seen,
                allowance=float(given.bias.mean()),
                precision=0.19,
            ),
        ],
        Picture([Curve("F1", used, scores, "o")], "domination margin", "F1"),
    )
