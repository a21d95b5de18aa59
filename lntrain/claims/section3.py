"""Section 3 of theory.md: which lambda, for each sampling, momentum, weight decay and parametrisation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lntrain.claims.measure import (
    Array,
    Case,
    distances,
    lambda_ratio,
    lambda_seen,
    no_near_tie,
    predict,
    run,
)
from lntrain.data.problem import Problem, sparse_regression
from lntrain.experiments.verdicts import At, Check, Outcome
from lntrain.lasso import solve as lassos
from lntrain.penalty import corrections
from lntrain.penalty import formula as penalties
from lntrain.theory.dynamics import Dynamics

RATIO = 0.1  # the penalty of these rows, in units of alpha_max
SCALES = (0.5, 2.0)  # of the columns: a wrong weighting of the penalty would show


def data(at: At, parametrisation: str = "difference") -> Problem:
    """40 rows, 60 columns of sizes 0.5 to 2, 4 true coefficients +/- 1, all + for beta = w^2."""
    signs = "positive" if parametrisation == "square" else "random"
    return sparse_regression(40, 60, 4, signs=signs, column_scales=SCALES, seed=at.data)


def case(problem: Problem, dynamics: Dynamics, lr: float, ratio: float = RATIO) -> Case:
    """The case with the std that gives alpha = ratio * alpha_max under iid noise, and its predicted Lasso."""
    alpha = ratio * penalties.alpha_max(problem.X, problem.y)
    size = dynamics.batch_size or problem.n
    return predict(problem, dynamics, lr=lr, std=float(np.sqrt(2 * alpha * size / dynamics.rate(lr))))


def ratio_check(at: At, name: str, given: Case, steps: int) -> Check:
    """lambda measured / lambda predicted, on the support, against 1 + finite-step bias."""
    *_, last = run(given, at.seeds(8, name), steps)
    bias = float(given.bias[given.lasso.support.numpy()].mean())
    return Check(name, 1 + bias, lambda_ratio(given, last), allowance=bias)


def table(at: At, settings: dict[str, tuple[Dynamics, float]]) -> Outcome:
    """One check per setting (dynamics, lr)."""
    steps = at.pick(200_000, 2_000_000)
    return Outcome(
        [
            ratio_check(at, name, case(data(at, dynamics.parametrisation), dynamics, lr), steps)
            for name, (dynamics, lr) in settings.items()
        ]
    )


INIT = Dynamics(init=0.5)


def samplings(at: At) -> Outcome:
    """lambda_j = a lr s^2 c_j / (2 b) for whole batches and for b rows, however they are drawn."""
    batch = {
        name: replace(INIT, batch_size=8, sampling=name) for name in ("replacement", "without", "shuffle", "noisy_rows")
    }
    settings = {"full": (INIT, 0.0025)} | {f"{name}, b=8": (dynamics, 0.0025) for name, dynamics in batch.items()}
    one = {f"{name}, b=1": (replace(batch[name], batch_size=1), 0.0005) for name in ("replacement", "noisy_rows")}
    return table(at, settings | one)


def extrapolated(
    at: At, name: str, given: Case, problem: Problem, steps: int, *, paired: bool = False
) -> tuple[Array, float]:
    """(R,) lambda seen / the iid prediction, extrapolated from lr and lr / 2 to lr 0; and the error left.

    With momentum the finite-step bias has no formula. The two runs differ by half its first order; the square
    of the first order is allowed as error.
    """
    found = []
    for part in (1, 2):
        plain = case(problem, given.dynamics, given.lr / part)
        run_as = replace(plain, dynamics=replace(plain.dynamics, antithetic=True)) if paired else plain
        *_, last = run(run_as, at.seeds(8, name), steps * part)
        found.append(lambda_ratio(plain, last))
    first = 2 * float(np.abs((found[0] - found[1]).mean()))
    return 2 * found[1] - found[0], first**2 / float(found[1].mean())


def momentum(at: At) -> Outcome:
    """lr -> lr (1 - dampening) / (1 - momentum)."""
    problem, checks = data(at), []
    for name, mu, dampening, nesterov, lr in (
        ("heavy ball .5", 0.5, 0.0, False, 0.00125),
        ("heavy ball .9", 0.9, 0.0, False, 0.00025),
        ("Nesterov .9", 0.9, 0.0, True, 0.00025),
        ("momentum .8, dampening .5", 0.8, 0.5, False, 0.001),
    ):
        given = case(problem, replace(INIT, momentum=mu, dampening=dampening, nesterov=nesterov), lr)
        seen, rest = extrapolated(at, name, given, problem, at.pick(80_000, 1_000_000))
        checks.append(Check(f"{name}: lambda / predicted", 1.0, seen, allowance=rest))
    return Outcome(checks)


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
            "square, c=1/4 (the paper)": (replace(INIT, parametrisation="square", loss_constant=0.25), 0.005),
            "u * v, half MSE": (replace(INIT, parametrisation="hadamard"), 0.005),
            "difference, torch's MSELoss": (replace(INIT, loss_constant=1.0), 0.00125),
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
            Check(
                "largest relative distance of the last iterates", 1e-11, distances(first.coef, second.coef).max(), "<="
            ),
            Check(
                "largest relative difference of lambda",
                1e-14,
                float((hadamard.lasso.penalty / squares.lasso.penalty - 1).abs().max()),
                "<=",
            ),
        ]
    )


def weighted(at: At) -> Outcome:
    """The penalty is weighted by the mean square of each column; uniform or root weights of the same mean are far."""
    problem = no_near_tie(
        at, lambda seed: sparse_regression(40, 60, 4, signs="random", column_scales=SCALES, seed=seed), RATIO
    )
    given = case(problem, INIT, 0.0025)
    *_, last = run(given, at.seeds(8), at.pick(1_000_000, 6_000_000))
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
        checks.append(Check(f"with weights {name}, over that with c_j", at.pick(1.5, 3.0), other / near, ">="))
    return Outcome(checks)


def antithetic_factor(mu: float, nesterov: bool) -> float:
    """lambda of antithetic pairs with momentum mu, over that of iid noise at the same lr / (1 - mu)."""
    paired, iid = (
        penalties.effective_penalty(torch.ones(2, 1), lr=1.0, std=1.0, momentum=mu, nesterov=nesterov, antithetic=each)
        for each in (True, False)
    )
    return float(paired / iid)


def antithetic_momentum(at: At) -> Outcome:
    """Antithetic pairs with momentum: (1 - mu) lambda for heavy ball, (1 - mu^2) lambda for Nesterov."""
    problem, checks = data(at), []
    for mu, nesterov, lr in ((0.5, False, 0.00125), (0.9, False, 0.00025), (0.5, True, 0.00125), (0.9, True, 0.00025)):
        name = f"{'Nesterov' if nesterov else 'heavy ball'} {mu}"
        given = case(problem, replace(INIT, momentum=mu, nesterov=nesterov), lr)
        seen, rest = extrapolated(at, name, given, problem, at.pick(80_000, 1_000_000), paired=True)
        checks.append(Check(f"{name}: lambda / iid's", antithetic_factor(mu, nesterov), seen, allowance=rest))
    return Outcome(checks)


def shuffle_term(problem: Problem, beta: Tensor, residual: Tensor, b: int) -> Tensor:
    """What epoch reshuffling adds to V_j beyond sampling without replacement, (d,).

    2 sign_j sum_l |beta_l| C_jl, C the covariance over batches of the Hessian's entry jl with the gradient's l:
    ((n-b)/(n-1)/b) (mean_i x_ij x_il^2 r_i - S_jl g_l). A batch's gradient moves beta before the rest of its
    epoch is read, and it is correlated with the rest's Hessian. Derived for this table: theory.md has "about 2/3 of f".
    """
    X, n = problem.X, problem.n
    g, S = X.T @ residual / n, X.T @ X / n
    covariance = (torch.einsum("ij,il,i->jl", X, X.square(), residual) / n - S * g) * (n - b) / (n - 1) / b
    return 2 * torch.sign(beta) * (covariance @ beta.abs())


def sampling_noise(at: At) -> Outcome:
    """Sampling itself adds (f/b) (mean r^2 x^2 - g^2) to V, f = 1 with replacement, (n-b)/(n-1) without."""
    problem = sparse_regression(40, 10, 10, signs="random", noise=3.0, seed=at.data)
    steps, std, b, checks, note = at.pick(1_200_000, 8_000_000), 1.0, 4, [], ""
    for name, lr in (("replacement", 0.005), ("without", 0.005), ("shuffle", 0.001)):
        given = predict(problem, replace(INIT, batch_size=b, sampling=name), lr=lr, std=std)
        shots = list(run(given, at.seeds(16, name), steps, range(steps // 10, steps, steps // 100)))
        coef = torch.cat([shot.coef for shot in shots if shot.coef is not None])
        residuals, on = coef @ problem.X.T - problem.y, given.lasso.support
        kind = "without" if name == "shuffle" else name
        one, wanted = (
            corrections.sampling_penalty(problem.X, residuals, lr=lr, batch_size=b, sampling=each)
            for each in ("replacement", kind)
        )
        if name == "shuffle":
            wanted = wanted + 0.5 * given.rate * shuffle_term(problem, coef.mean(0), residuals.mean(0), b)
        second = (given.lasso.penalty + wanted) * torch.from_numpy(given.bias)
        seen = (lambda_seen(given, shots[-1]) - (given.lasso.penalty + second)[on].numpy()) / one[on].numpy()
        f, allowance = float((wanted / one)[on].mean()), float((second / one)[on].mean())
        if name == "shuffle":
            allowance *= problem.n / b  # beta moves over an epoch, which is n / b steps
            note = f"shuffle: f seen {seen.mean():.3f}; 2/3 (n-b)/(n-1) would be {2 / 3 * 36 / 39:.3f}, here {f:.3f}"
        checks.append(Check(f"f, {name}", f, seen.mean(1), allowance=allowance, precision=0.19 * f))
    return Outcome(checks, note=note)
