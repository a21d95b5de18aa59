"""Section 3 of theory.md: which lambda, for each sampling, momentum, weight decay and parametrisation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lntrain import corrections
from lntrain import lasso as lassos
from lntrain import penalty as penalties
from lntrain.claims.measure import (
    At,
    Case,
    distances,
    lambda_ratio,
    lambda_seen,
    predict,
    run,
)
from lntrain.claims.verdict import Check, Outcome
from lntrain.plan import Dynamics
from lntrain.problem import Problem, sparse_regression

RATIO = 0.1  # the penalty of these rows, in units of alpha_max
SCALES = (0.5, 2.0)  # of the columns: a wrong weighting of the penalty would show


def data(at: At, parametrisation: str = "difference") -> Problem:
    """40 rows, 60 columns of sizes 0.5 to 2, 4 ones; of random signs where the model has signs."""
    signs = "positive" if parametrisation == "square" else "random"
    return sparse_regression(40, 60, 4, signs=signs, column_scales=SCALES, seed=at.data)


def case(problem: Problem, dynamics: Dynamics, lr: float, ratio: float = RATIO) -> Case:
    """The std that iid noise on the whole batch would need for alpha = ratio * alpha_max, then what is predicted of it."""
    alpha = ratio * penalties.alpha_max(problem.X, problem.y)
    size = dynamics.batch_size or problem.n
    return predict(problem, dynamics, lr=lr, std=float(np.sqrt(2 * alpha * size / dynamics.rate(lr))))


def ratio_check(at: At, name: str, given: Case, steps: int) -> Check:
    """lambda measured / lambda predicted, on the support, against 1 + finite-step bias."""
    *_, last = run(given, at.seeds(8, name), steps)
    bias = float(given.bias[given.lasso.support.numpy()].mean())
    return Check(name, 1 + bias, lambda_ratio(given, last), allowance=bias)


def table(at: At, settings: dict[str, tuple[Dynamics, float]]) -> Outcome:
    """A check a setting: (dynamics, lr)."""
    steps = at.pick(300_000, 2_000_000)
    return Outcome(
        [
            ratio_check(at, name, case(data(at, dynamics.parametrisation), dynamics, lr), steps)
            for name, (dynamics, lr) in settings.items()
        ]
    )


INIT = Dynamics(init=0.5)


def samplings(at: At) -> Outcome:
    """lambda_j = a lr s^2 c_j / (2 b) for whole batches and for b rows, however they are drawn."""
    batch = {name: replace(INIT, batch_size=8, sampling=name) for name in ("replacement", "without", "shuffle", "haochen")}
    settings = {"full": (INIT, 0.0025)} | {f"{name}, b=8": (dynamics, 0.0025) for name, dynamics in batch.items()}
    one = {f"{name}, b=1": (replace(batch[name], batch_size=1), 0.0005) for name in ("replacement", "haochen")}
    return table(at, settings | one)


def momentum(at: At) -> Outcome:
    """lr -> lr (1 - dampening) / (1 - momentum)."""
    heavy = replace(INIT, momentum=0.9)
    return table(
        at,
        {
            "heavy ball .5": (replace(INIT, momentum=0.5), 0.00125),
            "heavy ball .9": (heavy, 0.00025),
            "Nesterov .9": (replace(heavy, nesterov=True), 0.00025),
            "momentum .8, dampening .5": (replace(INIT, momentum=0.8, dampening=0.5), 0.001),
        },
    )


def weight_decay(at: At) -> Outcome:
    """Weight decay adds wd / a to every lambda_j: what is left after label noise's part, relative to wd / a."""
    checks = []
    steps = at.pick(300_000, 2_000_000)
    for name, wd, parametrisation in (("difference", 0.4, "difference"), ("hadamard", 0.2, "hadamard")):
        dynamics = replace(INIT, parametrisation=parametrisation)
        problem, lr = data(at), 0.0025 * (2 if parametrisation == "hadamard" else 1)
        label = case(problem, dynamics, lr)
        both = predict(problem, replace(dynamics, weight_decay=wd), lr=lr, std=label.std)
        added = both.lasso.penalty - label.lasso.penalty
        *_, last = run(both, at.seeds(8, name), steps)
        on = both.lasso.support.numpy()
        noise = (label.lasso.penalty.numpy() * (1 + both.bias))[on]
        rest = (lambda_seen(both, last) - noise).mean(1)
        allowance = float((label.lasso.penalty.numpy() * both.bias)[on].mean() / added.mean())
        checks.append(Check(f"{name}, wd={wd}: added / (wd / a)", 1.0, rest / float(added.mean()), allowance=allowance))
    return Outcome(checks)


def parametrisations(at: At) -> Outcome:
    """a = 4 c for squares and differences of squares, 2 c for u * v, c the loss constant."""
    return table(
        at,
        {
            "difference, half MSE": (INIT, 0.0025),
            "square, c=1/4 (the paper)": (replace(INIT, parametrisation="square", loss_scale=0.25), 0.005),
            "u * v, half MSE": (replace(INIT, parametrisation="hadamard"), 0.005),
            "difference, torch's MSELoss": (replace(INIT, loss_scale=1.0), 0.00125),
        },
    )


def half_step(lr: float) -> float:
    """The step at which a difference of squares follows u * v at `lr`."""
    return lr / 2


def twin(at: At) -> Outcome:
    """u * v at step lr is the difference of squares at lr / 2, exactly: one trajectory."""
    problem, lr, std = data(at), 0.005, 5.0
    hadamard = predict(problem, replace(INIT, parametrisation="hadamard"), lr=lr, std=std)
    squares = predict(problem, INIT, lr=half_step(lr), std=std)
    seeds, steps = at.seeds(4), at.pick(200_000, 1_000_000)
    (*_, first), (*_, second) = run(hadamard, seeds, steps), run(squares, seeds, steps)
    assert first.coef is not None
    assert second.coef is not None
    return Outcome(
        [
            Check("largest relative distance of the last iterates", 1e-11, distances(first.coef, second.coef).max(), "<="),
            Check("largest relative difference of lambda", 1e-14,
                  float((hadamard.lasso.penalty / squares.lasso.penalty - 1).abs().max()), "<="),
        ]
    )  # fmt: skip


def weighted(at: At) -> Outcome:
    """The penalty is weighted by the mean square of each column; uniform or root weights of the same mean are far."""
    problem = data(at)
    given = case(problem, INIT, 0.001)
    *_, last = run(given, at.seeds(8), at.pick(600_000, 4_000_000))
    assert last.mean_coef is not None
    c = penalties.mean_squares(problem.X)
    lam = given.lasso.penalty

    def miss(penalty: torch.Tensor) -> np.ndarray:
        labels = problem.y + last.mean_noise
        found = [lassos.weighted_lasso(problem.X, y, penalty).coef for y in labels]
        assert last.mean_coef is not None
        return distances(last.mean_coef, torch.stack(found))

    near = miss(lam * (1 + torch.from_numpy(given.bias)))
    checks = [Check("distance to the Lasso with weights c_j", 0.01, near, "<=")]
    for name, weights in (("1", torch.ones_like(c)), ("sqrt(c_j)", c.sqrt())):
        other = miss(lam.mean() * weights / weights.mean())
        checks.append(Check(f"with weights {name}, over that with c_j", 3.0, other / near, ">="))
    return Outcome(checks)


def antithetic_factor(mu: float, nesterov: bool) -> float:
    """What momentum makes of an antithetic pair's lambda, over that of iid noise at the same lr / (1 - mu)."""
    one = {"lr": 1.0, "std": 1.0, "momentum": mu, "nesterov": nesterov}
    X = torch.ones(2, 1)
    return float(penalties.effective_penalty(X, antithetic=True, **one) / penalties.effective_penalty(X, **one))


def antithetic_momentum(at: At) -> Outcome:
    """Antithetic pairs with momentum: (1 - mu) lambda for heavy ball, (1 - mu^2) lambda for Nesterov.

    The finite-step bias here has no formula: it is removed by extrapolating from lr and lr / 2.
    """
    problem, steps = data(at), at.pick(200_000, 1_500_000)
    checks = []
    for mu, nesterov, lr in ((0.5, False, 0.00125), (0.9, False, 0.00025), (0.5, True, 0.00125), (0.9, True, 0.00025)):
        name, found = f"{'Nesterov' if nesterov else 'heavy ball'} {mu}", []
        for part in (1, 2):
            plain = case(problem, replace(INIT, momentum=mu, nesterov=nesterov), lr / part)
            paired = replace(plain, dynamics=replace(plain.dynamics, antithetic=True))
            *_, last = run(paired, at.seeds(8, name), steps * part)
            found.append(lambda_ratio(plain, last))
        factor = antithetic_factor(mu, nesterov)
        first = float(np.abs(found[0] - found[1]).mean())  # half the first-order bias: its square bounds what is left
        checks.append(Check(f"{name}: lambda / iid's", factor, 2 * found[1] - found[0], allowance=4 * first**2 / factor))
    return Outcome(checks)


def sampling_noise(at: At) -> Outcome:
    """Sampling itself adds (f/b) (mean r^2 x^2 - g^2) to V: f measured on noisy data, where it outweighs label noise."""
    problem = sparse_regression(40, 10, 10, signs="random", noise=3.0, seed=at.data)
    steps, lr, std, b = at.pick(1_000_000, 8_000_000), 0.005, 1.0, 4
    checks = []
    for name in ("replacement", "without", "shuffle"):
        given = predict(problem, replace(INIT, batch_size=b, sampling=name), lr=lr, std=std)
        residuals, last = [], None
        for last in run(given, at.seeds(8, name), steps, range(steps // 10, steps, steps // 400)):
            assert last.coef is not None
            residuals.append(last.coef @ problem.X.T - problem.y)
        assert last is not None
        one = corrections.sampling_penalty(problem.X, torch.cat(residuals), lr=lr, batch_size=b, sampling="replacement")
        wanted = corrections.sampling_penalty(problem.X, torch.cat(residuals), lr=lr, batch_size=b, sampling=name)
        total = given.lasso.penalty + wanted
        bias = given.dynamics.bias(problem, given.lasso, lr).numpy()
        on = given.lasso.support
        label, extra, unit = (v[on].numpy() for v in (given.lasso.penalty, total * torch.from_numpy(bias), one))
        seen = (lambda_seen(given, last) - label - extra) / unit
        f = float((wanted / one)[on].mean())
        allowance = float((extra / unit).mean())
        checks.append(Check(f"f, {name}", f, seen.mean(1), allowance=allowance, precision=0.15 * f))
    return Outcome(checks)
