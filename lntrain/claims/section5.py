"""Section 5 of theory.md: the paper's theorems, the invariant law, the loss, the exponents."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from lntrain import gamma, laws, regime
from lntrain import lasso as lassos
from lntrain import penalty as penalties
from lntrain.claims.measure import Array, At, Case, distances, no_near_tie, predict, run, slopes, stationary
from lntrain.claims.section3 import case
from lntrain.claims.section4 import PLAIN, data
from lntrain.claims.verdict import Check, Curve, Outcome, Picture
from lntrain.diagnostics import support_scores
from lntrain.lasso import LassoSolution
from lntrain.plan import Dynamics, margins
from lntrain.problem import Problem, sparse_regression

PAPER = Dynamics(parametrisation="square", loss_scale=0.25, init=0.1)  # beta = w^2, loss constant 1/4: a = 1
LAW_LEVEL = 1e-3  # family-wise, of the tests of the Gamma law
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


def falls(given: Case, seeds: list[int], steps: int, parts: int = 2) -> np.ndarray:
    """(R, m, d) how much log w^2 moves a step over the run's last (parts - 1) / parts."""
    first, last = run(given, seeds, steps, [steps // parts])
    assert first.log_weights is not None
    assert last.log_weights is not None
    return ((last.log_weights - first.log_weights) / (last.step - first.step)).numpy()


def theorem_3(at: At) -> Outcome:
    """Above delta_plus every coordinate decays exponentially to 0, at the predicted rate."""
    problem, found = paper_problem(at)
    given = at_level(problem, 1.1 * found.delta_plus, 0.002)
    rate = laws.predicted_exponents(
        problem.X, problem.y, given.lasso, lr=given.lr, parametrisation="square", loss_scale=0.25
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
        Picture([Curve("coordinates", -rate, -seen.mean(0), "o"), Curve("y = x", -rate, -rate, "-")],
                "predicted decay a step", "seen", True, True),
    )  # fmt: skip


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
        problem.X, problem.y, given.effective(), lr=given.lr, parametrisation="square", loss_scale=0.25
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
        lasso = given.effective()
        labels = problem.y + last.mean_noise
        ends = [lassos.weighted_lasso(problem.X, y, lasso.penalty, positive=True).coef for y in labels]
        far.append((last.mean_coef - torch.stack(ends)).norm(dim=-1).numpy() / float(problem.coef.norm()))  # type: ignore[union-attr]
        sizes[0].append(last.mean_coef.abs().sum(-1).numpy())
        sizes[1].append(float(lasso.coef.abs().sum()))
    supports = [int(at_level(problem, float(level), 0.01).lasso.support.sum()) for level in levels]
    note = f"support of the Lasso from delta_minus {found.delta_minus:.3g} to delta_plus {found.delta_plus:.3g}: {supports} (truth: 3)"
    check = Check("largest distance to the Lasso (compensated), over the truth's norm", 0.02, np.max(far, 0), "<=")
    curves = [Curve("mean of training", levels, np.array(sizes[0])), Curve("Lasso", levels, sizes[1], "s--")]
    return Outcome([check], Picture(curves, "delta_bar", "l1 norm"), note)


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
    """Steps in which the slowest fluctuation on the support falls by e: 1 / (2 a lr min eig(D S D)), D = sqrt|beta|."""
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
        "|beta_j|, the first support coordinate", "distribution function",
    )  # fmt: skip
    return Outcome(
        [
            Check("support coordinates", 10.0, float(count)),
            Check("smallest effective sample size", 8000.0, float(size), ">="),
            Check("KS and variance: smallest p x tests", LAW_LEVEL, float(both.min()) * both.numel(), ">="),
            Check("scale x 1.3, same mean, variance test: largest p x tests", LAW_LEVEL, float(wrong.p_variance.max()) * count, "<="),
            Check("scale x 1.3, same mean, KS: smallest p x tests", LAW_LEVEL, float(wrong.p_ks.min()) * count, "<="),
        ],
        picture,
    )  # fmt: skip


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
    """The time mean of the loss."""
    return lasso.objective


def exponents(at: At) -> Outcome:
    """lim log w_pm^2 / t = -2a (lambda_j +/- g_j), every coordinate and sign: slope and correlation of seen on predicted."""
    problem = data(at)
    given = case(problem, PLAIN, 0.0025)
    rate = laws.predicted_exponents(problem.X, problem.y, given.effective(), lr=given.lr).numpy()
    steps = int(600 / float(np.abs(rate).max()))
    seen = falls(given, at.seeds(at.pick(64, 256)), steps, 6)
    slope = (seen * rate).sum((1, 2)) / (rate**2).sum()
    correlation = float(np.corrcoef(seen.mean(0).ravel(), rate.ravel())[0, 1])
    on = given.lasso.support.numpy()
    carrier = np.where(given.lasso.coef.numpy() > 0, seen[:, 0], seen[:, 1])[:, on] / np.abs(rate).mean()
    return Outcome(
        [
            Check("slope of seen on predicted", 1.0, slope, allowance=float(given.bias.mean())),
            Check("correlation, mean over seeds", 0.99, correlation, ">="),
            Check("exponent of the weights that carry the support / mean exponent", 0.0, carrier.mean(1), precision=0.05),
        ],
        Picture([Curve("weights", -rate.ravel(), -seen.mean(0).ravel(), "o"), Curve("y = x", -rate.ravel(), -rate.ravel(), "-")],
                "predicted fall of log w^2 a step", "seen"),
    )  # fmt: skip


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
        first, last = run(given, at.seeds(8), steps, [steps // 4])
        moved = laws.balancedness(first.log_weights) - laws.balancedness(last.log_weights)
        seen = moved.numpy() / (last.step - first.step) / fall
        bias = float(given.bias.mean())
        checks.append(
            Check(
                f"fall / (4 a lr lambda), init {init}", 1 + bias, seen.mean(1), allowance=float(given.remainder.mean())
            )
        )
        ends.append(last.coef)
    apart = distances(ends[0], ends[1])
    return Outcome([*checks, Check("distance of the last iterates, init .05 to init 1", 0.001, apart.max(), "<=")])


def supports(at: At) -> Outcome:
    """20 problems with a signed domination margin above 0.05: the support by exponents is the Lasso's, F1 = 1.

    The exponent of the slowest coordinate is below 0 for certain when R K = 200 / (a lr lambda m^2), m = 1 - |g|/lambda:
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
        power = given.rate * (given.lasso.penalty[~given.lasso.support] * margins(problem, given.lasso) ** 2).min()
        steps = int(at.pick(200, 300) / float(power) / replicas)
        records = [steps // 3 + steps * k // 24 for k in range(17)]
        shots = [shot.log_weights for shot in run(given, at.seeds(replicas, f"noise {seed}"), records[-1], records)]
        kept = torch.stack([logs for logs in shots if logs is not None])
        scores.append(support_scores(laws.lyapunov_support(kept, records), given.lasso.support)["support_f1"])
        used.append(found.margin_signed)
        rate = laws.predicted_exponents(problem.X, problem.y, given.effective(), lr=given.lr).numpy()
        moved = (kept[-1] - kept[0]).mean(0).numpy() / (records[-1] - records[0])
        slow = np.abs(rate) * records[-1] < 500  # the others have reached the least number by then
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
