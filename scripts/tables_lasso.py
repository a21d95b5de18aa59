"""Random tables of six kinds through `weighted_lasso`: what it refuses, whether its gaps are true, and its time.

    python scripts/tables_lasso.py --count 5000 --seed 0

On every tenth also celer, skglm and scikit-learn, on columns scaled to one penalty and asked for the same gap.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from lntrain.lasso.solve import GAP, duality_gap, lasso_objective, weighted_lasso

Array = NDArray[np.float64]
Solver = Callable[[Array, Array, float, float], Array]  # (scaled X, y, alpha, objective there) -> coef
EPOCHS = 1_000_000  # of coordinate descent from zero, where `weighted_lasso` raises
EACH = 10  # the others solve only one problem in so many: they take a hundred times as long
MOST = 1000  # most epochs on each working set of the others, ten times as many of scikit-learn; longer counts as missed


def gaussian(rng: np.random.Generator, n: int, d: int) -> Array:
    return rng.standard_normal((n, d))


def doubled(rng: np.random.Generator, n: int, d: int) -> Array:
    X = (rng.random((n, (d + 1) // 2)) < 0.4).astype(float)
    return np.hstack([X, X])[:, :d]


def genotypes(rng: np.random.Generator, n: int, d: int) -> Array:
    """0, 1 or 2 copies, in blocks of ten that mostly repeat their first column."""
    first = np.repeat(rng.binomial(2, 0.3, (n, d // 10 + 1)), 10, axis=1)[:, :d]
    return np.where(rng.random((n, d)) < 0.9, first, rng.binomial(2, 0.3, (n, d))).astype(float)


def records(rng: np.random.Generator, n: int, d: int) -> Array:
    """Categories one-hot, five to a field: the columns of each field sum to one."""
    fields = [np.eye(5)[rng.integers(0, 5, n)] for _ in range(d // 5 + 1)]
    return np.hstack(fields)[:, :d]


def autoregressive(rng: np.random.Generator, n: int, d: int) -> Array:
    X = rng.standard_normal((n, d))
    for j in range(1, d):
        X[:, j] = 0.99 * X[:, j - 1] + np.sqrt(1 - 0.99**2) * X[:, j]
    return X


def spectra(rng: np.random.Generator, n: int, d: int) -> Array:
    """Four broad peaks of random height, on d channels."""
    channel, centre = np.linspace(0, 1, d), rng.random(4)
    return np.asarray(rng.random((n, 4)) @ np.exp(-((channel - centre[:, None]) ** 2) / 0.08))


KINDS = (gaussian, doubled, genotypes, records, autoregressive, spectra)


def problem(index: int, seed: int) -> tuple[str, Array, Array, Array]:
    """(kind, X, y, penalty): sizes and penalty log-uniform, weights c_j = (1/n) sum_i x_ij^2."""
    rng = np.random.default_rng([seed, index])
    kind = KINDS[index % len(KINDS)]
    n, d = np.exp(rng.uniform(np.log(2), np.log(200), 2)).round().astype(int)
    X = kind(rng, int(n), int(d))
    X = X[:, X.any(0)] if X.any() else np.ones((int(n), 1))
    coef = np.where(rng.random(X.shape[1]) < 0.2, rng.standard_normal(X.shape[1]), 0.0)
    y = X @ coef + rng.choice([0.0, 0.1, 1.0]) * rng.standard_normal(len(X))
    y = y if y.any() else np.ones(len(X))
    c = (X**2).mean(0)
    top = float((np.abs(X.T @ y) / len(y) / c).max()) or 1.0
    return kind.__name__, X, y, np.exp(rng.uniform(np.log(1e-6), np.log(0.9))) * top * c


@nb.njit(error_model="numpy")
def descend(X, y, penalty, epochs):  # type: ignore[no-untyped-def]
    """Cyclic coordinate descent from zero, X in Fortran order: (coef, relative gap), stopped at the gap."""
    n, d = X.shape
    coef, residual, squares, gap = np.zeros(d), y.copy(), np.zeros(d), np.inf
    for j in range(d):
        squares[j] = (X[:, j] ** 2).sum() / n
    for epoch in range(epochs):
        for j in range(d):
            old = coef[j]
            slope = (X[:, j] * residual).sum() / n + squares[j] * old
            coef[j] = np.sign(slope) * max(abs(slope) - penalty[j], 0.0) / squares[j]
            if coef[j] != old:
                residual += (old - coef[j]) * X[:, j]
        if epoch % 10 == 9:
            slopes = X.T @ residual / n
            over = max(1.0, (np.abs(slopes) / penalty).max())
            square, norm = (residual**2).sum() / (2 * n), (penalty * np.abs(coef)).sum()
            gap = ((1 - 1 / over) ** 2 * square + norm - (slopes * coef).sum() / over) / (square + norm)
            if gap <= 1e-6:
                break
    return coef, gap


def with_celer(X: Array, y: Array, alpha: float, value: float) -> Array:
    from celer import Lasso

    tol = 0.1 * GAP * value * len(y) / float(y @ y)  # its own dual point is better than the residual
    return np.asarray(Lasso(alpha, fit_intercept=False, tol=tol, max_epochs=MOST).fit(X, y).coef_)


def with_skglm(X: Array, y: Array, alpha: float, value: float) -> Array:
    from skglm import Lasso

    tol = 1e-4 * alpha  # of the KKT conditions
    return np.asarray(Lasso(alpha, fit_intercept=False, tol=tol, max_epochs=MOST).fit(X, y).coef_)


def with_sklearn(X: Array, y: Array, alpha: float, value: float) -> Array:
    from sklearn.linear_model import Lasso

    tol = GAP * value * len(y) / float(y @ y)
    return np.asarray(Lasso(alpha=alpha, fit_intercept=False, tol=tol, max_iter=10 * MOST).fit(X, y).coef_)


def installed() -> dict[str, Solver]:
    others: dict[str, Solver] = {}
    for name, solver in (("celer", with_celer), ("skglm", with_skglm), ("sklearn", with_sklearn)):
        try:
            importlib.import_module(name)
            others[name] = solver
        except ImportError:
            print(f"{name} is not installed: skipped")
    return others


class Tally:
    """What a solver did: its times, and how often it missed the gap."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.missed = 0

    def line(self, name: str) -> str:
        middle, largest = 1e3 * np.median(self.times), 1e3 * max(self.times)
        return f"{name:16}{len(self.times):10d}{middle:11.2f}{largest:13.1f}{self.missed:10d}"


def compare(X: Array, y: Array, penalty: Array, value: float, others: dict[str, Solver], tallies: Any) -> float:
    """The best objective that another solver finds; each one's time and gap on its tally."""
    alpha, best = float(penalty.mean()), np.inf
    scaled = np.asfortranarray(X * (alpha / penalty))
    for name, solver in others.items():
        start = time.perf_counter()
        coef = solver(scaled, y, alpha, value) * (alpha / penalty)
        tallies[name].times.append(time.perf_counter() - start)
        if np.isfinite(coef).all():
            tallies[name].missed += not duality_gap(X, y, penalty, coef) <= GAP
            best = min(best, lasso_objective(X, y, penalty, coef))
        else:
            tallies[name].missed += 1
    return best


def main(count: int, seed: int) -> int:
    """Print the table; the number of problems where `weighted_lasso` raised or its gap was untrue."""
    warnings.simplefilter("ignore")  # the others' gaps are judged here
    others = installed()
    tallies = {name: Tally() for name in ("weighted_lasso", *others)}
    for index in range(len(KINDS)):  # compiled before the clock starts
        _, X, y, penalty = problem(index + 4 * len(KINDS), seed + 1)
        compare(X, y, penalty, weighted_lasso(X, y, penalty).objective, others, {name: Tally() for name in others})
    raised, untrue = 0, 0
    for index in range(count):
        kind, X, y, penalty = problem(index, seed)
        start = time.perf_counter()
        try:
            solution = weighted_lasso(X, y, penalty)
        except RuntimeError as error:
            gap = descend(np.asfortranarray(X), y, penalty, EPOCHS)[1]
            raised += gap <= GAP
            tallies["weighted_lasso"].missed += 1
            print(f"problem {index} ({kind}, {X.shape}): {error}; coordinate descent from zero: {gap:.1e}")
            continue
        tallies["weighted_lasso"].times.append(time.perf_counter() - start)
        F = solution.objective
        twin = descend(np.asfortranarray(X), y, penalty, 1000)[0]
        best = compare(X, y, penalty, F, {} if index % EACH else others, tallies)
        best = min(best, lasso_objective(X, y, penalty, twin))
        if F - best > solution.gap * F + 1e-12 * F:  # rounding
            untrue += 1
            print(f"problem {index} ({kind}, {X.shape}): {F:.15g}, gap {solution.gap:.1e}, but {best:.15g} was found")
    print(
        f"{count} problems, seed {seed}: {raised} raised where coordinate descent from zero ends, {untrue} gaps untrue"
    )
    print(f"{'':16}{'problems':>10}{'median ms':>11}{'largest ms':>13}{'missed':>10}")
    print("\n".join(tally.line(name) for name, tally in tallies.items()))
    return raised + untrue


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    raise SystemExit(main(**vars(parser.parse_args())) > 0)
