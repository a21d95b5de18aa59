"""Groups, beta_g = u_g v_g: the measured penalty over the predicted one as lr falls, by a simulation of its own.

python scripts/groups.py prints for random problems (groups of unequal sizes, correlated within a group) the ratio of
each active block's mean gradient to the predicted one, and the rate at which it goes to 1; then what iid noise leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from lntrain.lasso.groups import group_lasso
from lntrain.penalty.groups import group_penalty

Array = NDArray[np.float64]
LRS = (0.01, 0.005, 0.0025)
CHUNK = 2000  # steps for which noise is drawn at once
ALPHA = 0.03  # a lr std^2 / 2n, held fixed as lr falls


@nb.njit(cache=True, nogil=True)
def _gradient(X, y, noise, rows, beta, g):  # type: ignore[no-untyped-def]
    g[:] = 0.0
    for k in range(len(rows)):  # a row drawn twice has two noises
        i = rows[k]
        residual = -y[i] - noise[k]
        for j in range(len(g)):
            residual += X[i, j] * beta[j]
        for j in range(len(g)):
            g[j] += X[i, j] * residual / len(rows)


@nb.njit(cache=True, nogil=True)
def _descend(w, slope, velocity, lr, momentum, nesterov):  # type: ignore[no-untyped-def]
    for j in range(len(w)):
        velocity[j] = momentum * velocity[j] + slope[j]
        w[j] -= lr * (slope[j] + momentum * velocity[j] if nesterov else velocity[j])


@nb.njit(cache=True, nogil=True)
def _steps(X, y, labels, u, v, noise, rows, lr, momentum, nesterov, decay, fast, slow, total):  # type: ignore[no-untyped-def]
    """A step for each row of noise (m, n) and rows (m, b), in place; half the mean square loss."""
    beta, g, slope = np.zeros(len(v)), np.zeros(len(v)), np.zeros(len(u))
    for k in range(len(noise)):
        for j in range(len(v)):
            beta[j] = u[labels[j]] * v[j]
            total[j] += beta[j]
        _gradient(X, y, noise[k], rows[k], beta, g)
        slope[:] = decay * u
        for j in range(len(v)):
            slope[labels[j]] += v[j] * g[j]
            g[j] = u[labels[j]] * g[j] + decay * v[j]
        _descend(v, g, fast, lr, momentum, nesterov)
        _descend(u, slope, slow, lr, momentum, nesterov)


def simulate(
    X: Array,
    y: Array,
    labels: NDArray[np.int64],
    *,
    lr: float,
    std: float,
    steps: int,
    antithetic: bool = True,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Mean beta (d,) and mean noise (n,) over about the second half of `steps`, started at u = .6, v = 0."""
    n, rng, pairs, b = len(y), np.random.default_rng(seed), CHUNK // 2, batch_size or len(y)
    u, v = np.full(int(labels.max()) + 1, 0.6), np.zeros(X.shape[1])
    fast, slow, chunks = np.zeros_like(v), np.zeros_like(u), max(2, round(steps / CHUNK))
    mean, shift = np.zeros_like(v), np.zeros(n)
    for chunk in range(chunks):
        noise = std * rng.standard_normal((CHUNK, b))
        rows = np.tile(np.arange(n), (CHUNK, 1)) if batch_size is None else rng.integers(0, n, (CHUNK, b))
        if antithetic:
            noise, rows = np.stack([noise, -noise], 1)[:pairs].reshape(CHUNK, b), np.repeat(rows[:pairs], 2, 0)
        total = np.zeros_like(v)
        _steps(X, y, labels, u, v, noise, rows, lr, momentum, nesterov, weight_decay, fast, slow, total)
        if 2 * chunk >= chunks:
            mean += total
            np.add.at(shift, rows, noise * n / b)
    seen = CHUNK * (chunks - (chunks + 1) // 2)
    return mean / seen, shift / seen


def ratios(X: Array, y: Array, labels: NDArray[np.int64], mean: Array, noise: Array, penalty: Any) -> Array:
    """(G,) the block gradient at `mean`, labels compensated, along the predicted one, over it: 1 where they agree."""
    n, found = len(y), []
    h = X.T @ (X @ mean - y - noise) / n
    for g, weight in enumerate(penalty.weights.tolist()):
        own = labels == g
        K = X[:, own].T @ X[:, own] / n if penalty.metric is None else penalty.metric[g].numpy()
        predicted = -weight * K @ mean[own] / max(np.sqrt(mean[own] @ K @ mean[own]), 1e-300)
        found.append(h[own] @ predicted / max(predicted @ predicted, 1e-300))
    return np.array(found)


def random_problem(n: int, sizes: Sequence[int], seed: int, *, share: float = 0.7) -> tuple[Array, Array, Any]:
    """X (n, d), y and labels: columns of scales .5 to 1.5, correlated within a group; the last group has no effect."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    X = rng.standard_normal((n, len(labels))) + share * rng.standard_normal((n, len(sizes)))[:, labels]
    X *= rng.uniform(0.5, 1.5, len(labels))
    beta = rng.standard_normal(len(labels)) * (labels < len(sizes) - 1)
    return X, X @ beta + 0.1 * rng.standard_normal(n), labels


def _table(antithetic: bool, *, fixed_std: bool) -> None:
    for seed in range(3):
        X, y, labels = random_problem(40, (3, 1, 4, 2), seed)
        on, errors = np.zeros(4, dtype=bool), list[float]()
        for lr in LRS:
            alpha = ALPHA * lr / LRS[0] if fixed_std else ALPHA
            std = float(np.sqrt(2 * len(y) * alpha / lr))
            penalty = group_penalty(X, labels, lr=lr, std=std)
            solution = group_lasso(X, y, penalty.weights, labels)
            steps = int(200 / (lr * alpha)) if antithetic else 3_000_000
            mean, noise = simulate(X, y, labels, lr=lr, std=std, steps=steps, antithetic=antithetic, seed=1)
            on = on if on.any() else solution.active.numpy()  # those of the largest penalty
            found = ratios(X, y, labels, mean, noise, penalty)[on]
            away = np.linalg.norm(mean - solution.coef.numpy()) / np.linalg.norm(solution.coef.numpy())
            errors.append(float(np.abs(found - 1).max()))
            print(
                f"  problem {seed} lr {lr:<6} alpha {alpha:<7.3g} {np.round(found, 4)}  distance {away:.2e}", flush=True
            )
        rate = np.polyfit(np.log(LRS), np.log(errors), 1)[0]
        print(f"  problem {seed} largest error goes as lr^{rate:.2f}")


def _orthonormal() -> None:
    """A single orthonormal group under iid noise: 1 - kappa tau/|b|, tau = 2 alpha, extrapolated to lr = 0."""
    for p in (1, 4):
        X = np.linalg.qr(np.random.default_rng(0).standard_normal((8, p)))[0] * np.sqrt(8)
        y, labels, alpha, found = X[:, 0], np.zeros(p, dtype=np.int64), 0.025, []
        for lr in (0.02, 0.01):
            std = float(np.sqrt(2 * 8 * alpha / lr))
            runs = [
                simulate(X, y, labels, lr=lr, std=std, steps=int(60_000 / lr), antithetic=False, seed=s)
                for s in range(4)
            ]
            gradients = [(X.T @ (X @ mean - y - noise) / 8)[0] for mean, noise in runs]
            found.append(-np.array(gradients) / (alpha * np.sqrt(p)))
        at_zero = 2 * found[1] - found[0]
        said = 1 - (p - 1) * np.sqrt(p) / ((p + 1) * (p + 3)) * 2 * alpha
        print(f"  group of {p}: {at_zero.mean():.4f} +/- {at_zero.std(ddof=1) / 2:.4f}, said {said:.4f}", flush=True)


def main() -> None:
    """Print the tables."""
    print("antithetic noise, penalty fixed: measured over predicted block gradient of the active groups")
    _table(True, fixed_std=False)
    print("iid noise, std fixed: the penalty falls with lr, and with it what fluctuations change")
    _table(False, fixed_std=True)
    print("iid noise, penalty fixed, one orthonormal group, lr to 0")
    _orthonormal()


if __name__ == "__main__":
    main()
