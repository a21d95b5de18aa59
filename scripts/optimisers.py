"""Which problem do Adam, RMSprop and AdamW solve under label noise? `python scripts/optimisers.py [--quick]`.

For random problems (correlated columns of unequal sizes, more and fewer rows than columns) prints the gradient at the
time average, measured over predicted, on the support: over the formula alone, and over the formula with the factors of
theory.md section 9 (memory of v, finite step and beta1). A simulation in compiled code that is torch's optimiser step
for step (tests/scripts/test_optimisers.py). Exit code 0 if all are within 3 % with standard errors of at most 1 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import torch
from numpy.typing import NDArray

from lntrain import DiagonalLinear, Prediction, Problem, predict
from lntrain.lasso import Power

Array = NDArray[np.float64]
WITHIN, ERROR = 0.03, 0.01  # what passes, relative
BLOCKS, CHUNK, BURN = 20, 20_000, 0.2  # the start is left out
INIT = 0.5
OPTIMISERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Adam .999": (torch.optim.Adam, {"betas": (0.9, 0.999)}),
    "Adam .9999": (torch.optim.Adam, {"betas": (0.9, 0.9999)}),
    "RMSprop .999": (torch.optim.RMSprop, {"alpha": 0.999}),
    "RMSprop .9999": (torch.optim.RMSprop, {"alpha": 0.9999}),
    "AdamW .999": (torch.optim.AdamW, {"betas": (0.9, 0.999), "weight_decay": 0.01}),
    "AdamW .9999": (torch.optim.AdamW, {"betas": (0.9, 0.9999), "weight_decay": 0.01}),
}


@nb.njit(cache=True, error_model="numpy")
def advance(
    w: Array, m: Array, v: Array, rule: Any, S: Array, fit: Array, noise: Array, first: int, sums: Array
) -> None:
    """Steps first, first + 1, ... of beta = w[0]^2 - w[1]^2, in place, as torch.optim's Adam, AdamW and RMSprop.

    Args:
        w, m, v: (2, d). rule: (lr, beta1, beta2, eps, decoupled decay, whether the bias is corrected).
        S, fit: X^T X / n and X^T y / n. noise: (K, d), X^T (label noise) / n of each step.
        sums: (2, d), to which beta and the noise are added before each step.
    """
    lr, beta1, beta2, eps, decay, corrected = rule
    d = len(fit)
    for k in range(len(noise)):
        t = first + k + 1
        grow1 = 1 - beta1**t if corrected else 1.0
        grow2 = np.sqrt(1 - beta2**t) if corrected else 1.0
        beta = w[0] ** 2 - w[1] ** 2
        for j in range(d):
            sums[0, j] += beta[j]
            sums[1, j] += noise[k, j]
        g = S @ beta - fit - noise[k]
        for j in range(d):
            for i in range(2):
                slope = (2 - 4 * i) * w[i, j] * g[j]
                w[i, j] *= 1 - lr * decay
                m[i, j] = beta1 * m[i, j] + (1 - beta1) * slope
                v[i, j] = beta2 * v[i, j] + (1 - beta2) * slope * slope
                w[i, j] -= lr / grow1 * m[i, j] / (np.sqrt(v[i, j]) / grow2 + eps)


def rule_of(optimizer: torch.optim.Optimizer) -> tuple[float, float, float, float, float, bool]:
    """What `advance` needs of an optimiser of torch."""
    group = optimizer.param_groups[0]
    beta1, beta2 = group.get("betas", (0.0, group.get("alpha")))
    return group["lr"], beta1, beta2, group["eps"], float(group["weight_decay"]), "betas" in group


def simulate(problem: Problem, rule: Any, std: float, steps: int, *, init: float, seed: int) -> tuple[Array, Array]:
    """The means of beta and of X^T noise / n over each of BLOCKS blocks after the start, two (BLOCKS, d)."""
    X, y = problem.X.numpy(), problem.y.numpy()
    n, d = X.shape
    factor = np.linalg.qr(X)[1] if n > d else X  # X^T z and R^T z have one law
    w, m, v = np.full((2, d), init), np.zeros((2, d)), np.zeros((2, d))
    S, fit, rng, rows = X.T @ X / n, X.T @ y / n, np.random.default_rng(seed), list[Array]()
    chunk = max(1, min(CHUNK, steps // (2 * BLOCKS)))
    for first in range(0, steps, chunk):
        noise = rng.standard_normal((chunk, len(factor))) @ factor * (std / n)
        sums = np.zeros((2, d))
        advance(w, m, v, rule, S, fit, noise, first, sums)
        if first >= BURN * steps:
            rows.append(sums / chunk)
    kept = len(rows) // BLOCKS * BLOCKS
    blocks = np.array(rows[-kept:]).reshape(BLOCKS, -1, 2, d).mean(1)
    return blocks[:, 0], blocks[:, 1]


@dataclass(frozen=True)
class Measured:
    """On the support: measured over the formula, over the formula with its factors, and the standard error of this."""

    plain: Array
    full: Array
    error: Array
    memory: Array


def compare(problem: Problem, found: Prediction, beta: Array, noise: Array) -> Measured:
    """The gradient at the mean against compensated labels, over the penalty's slope there."""
    mean = torch.from_numpy(beta.mean(0))
    step = found._step
    assert step is not None
    on = step.on(mean).numpy()
    X, y = problem.X.numpy(), problem.y.numpy()
    each = ((beta @ X.T - y) @ X / len(y) - noise)[:, on]  # (BLOCKS, columns)

    def slope(powers: tuple[Power, ...]) -> Array:
        total: Array = torch.stack([power.slope(mean) for power in powers]).sum(0).numpy()[on]
        return total

    formula, full = slope((Power(found.weights, found.exponent), *found.terms)), slope(found.powers_at(mean))
    measured = -np.sign(mean.numpy())[on] * each.mean(0)
    error = each.std(0, ddof=1) / np.sqrt(BLOCKS) / full
    return Measured(measured / formula, measured / full, error, step.memory(mean).numpy()[on])


def problems() -> Iterator[tuple[str, Problem]]:
    """Random problems: correlated Gaussian columns of sizes .5 to 2, three of them in use."""
    for n, d, seeds in ((40, 8, 3), (20, 30, 3)):
        for seed in range(seeds):
            rng = np.random.default_rng([n, d, seed])
            X = (rng.standard_normal((n, d)) + rng.standard_normal((n, 1))) * rng.uniform(0.5, 2, d)
            coef = np.zeros(d)
            coef[:3] = rng.choice([-1, 1], 3) * rng.uniform(0.5, 2, 3)
            yield f"{n} x {d}, {seed}", Problem(torch.from_numpy(X), torch.from_numpy(X @ coef))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4_000_000)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--std", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true", help="the first problem of each shape")
    args = parser.parse_args()
    print("| problem | optimiser | on | memory | over the formula | with its factors | standard error | |")
    print("|---|---|---|---|---|---|---|---|")
    good = True
    for name, problem in problems():
        if args.quick and not name.endswith("0"):
            continue
        for label, (kind, options) in OPTIMISERS.items():
            model = DiagonalLinear(problem.d, init=INIT)
            optimizer = kind(model.parameters(), lr=args.lr, **options)
            found = predict(model, optimizer, problem, noise=args.std)
            means = simulate(problem, rule_of(optimizer), args.std, args.steps, init=INIT, seed=1)
            seen = compare(problem, found, *means)
            passed = bool((np.abs(seen.full - 1) <= WITHIN).all() and (seen.error <= ERROR).all())
            good &= passed
            spans = (f"{x.min():.3f} to {x.max():.3f}" for x in (seen.memory, seen.plain, seen.full))
            verdict = "" if passed else "outside"
            cells = (name, label, len(seen.full), *spans, f"{seen.error.max():.4f}", verdict)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
