"""Entries on plain least squares: stochastic gradient descent beside its stochastic differential equation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.optimize import brentq

from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import over_seeds
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.noise.compiled import compiled

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StochasticEquation:
    """SGD on least squares is its stochastic equation to first order in lr, with heavier tails at larger lr.

    SGD: eta' = eta - lr (x_i . eta - xi_i) x_i, i uniform. SDE: d eta = -H eta dt + sqrt(lr) dM, M with the
    covariance of the gradients. Step sizes are shares of the edge where SGD's mean square diverges.
    """

    n: int
    d: int
    noise: float
    start: float  # distance from the least squares solution, in each coordinate
    shares: list[float]  # step sizes of the comparison
    time: float  # lr times steps, over the slowest relaxation
    simulated: float  # the share at which chains check the computed moments
    chains: int
    substeps: int  # of the equation, a step of SGD
    tails: list[float]  # step sizes of the tails
    burn: float  # as time
    samples: int
    top: float  # share of the samples in Hill's estimator
    seeds: int

    def _data(self, seed: int) -> tuple[Array, Array]:
        """Rows, and residuals of least squares."""
        rng = np.random.default_rng(seed)
        X, xi = rng.standard_normal((self.n, self.d)), self.noise * rng.standard_normal(self.n)
        return X, xi - X @ np.linalg.lstsq(X, xi, rcond=None)[0]

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """Moments and simulated chains; tails."""
        return {"moments": partial(self._moments, at), "tails": partial(self._tails, at)}

    def _moments(self, at: At) -> dict[str, Array]:
        apart, checked = [], []
        for seed in at.seeds(self.seeds, "data"):
            X, xi = self._data(seed)
            edge, slow = mean_square_edge(X), np.linalg.eigvalsh(X.T @ X / self.n)[0]
            apart.append([self._apart(X, xi, share * edge, slow) for share in self.shares])
            lr, eta = self.simulated * edge, np.full(self.d, self.start)
            steps = int(self.time / (8 * slow * lr))
            both = moments(X, xi, lr, eta, steps)
            seen = [chains(X, xi, lr, eta, steps, self.chains, 0, seed)]
            seen.append(chains(X, xi, lr, eta, steps, self.chains, self.substeps, seed))
            checked.append([float((s**2).mean() / m[-1]) for s, m in zip(seen, both, strict=True)])
        return {"apart": over_seeds(apart), "checked": over_seeds(checked)}

    def _apart(self, X: Array, xi: Array, lr: float, slow: float) -> float:
        """The largest |E |SGD|^2 / E |SDE|^2 - 1| over time."""
        sgd, sde = moments(X, xi, lr, np.full(self.d, self.start), int(self.time / (slow * lr)))
        return float(np.abs(sgd / sde - 1).max())

    def _tails(self, at: At) -> dict[str, Array]:
        """Rows drawn anew at each step, so that every step size has a tail."""
        edge = 2 / (self.d + 2)
        rows = [[self._hill(share * edge, seed) for share in self.tails] for seed in at.seeds(self.seeds, "data")]
        theory = [tail_exponent(share * edge, self.d) for share in self.tails]
        return {"exponent": over_seeds(rows), "theory": np.tile(np.array(theory)[:, None], self.seeds)}

    def _hill(self, lr: float, seed: int) -> float:
        """Hill's estimator of the tail exponent of |eta| in the invariant law."""
        ends = gaussian_chains(self.d, self.noise, lr, int(self.burn / lr), self.samples, seed)
        largest = np.sort(ends)[-int(self.top * self.samples) :]
        return float(1 / np.log(largest[1:] / largest[0]).mean())

    def checks(self, arms: Any) -> list[Check]:
        """First order in lr; chains agree with the moments; exponents fall."""
        moment, exponents = arms["moments"], arms["tails"]["exponent"]
        slope = rules.slopes(self.shares, moment["apart"])
        return [
            rules.at_least("slope of sup |E|SGD|^2 / E|SDE|^2 - 1| on lr", slope, 0.8),
            *rules.within("SGD: E|eta|^2, simulated over computed", moment["checked"][0], 0.95, 1.05),
            *rules.within("SDE: E|eta|^2, simulated over computed", moment["checked"][1], 0.95, 1.05),
            *rules.ordered("tail exponent over lr", list(exponents), 1.0),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Both over lr."""
        apart, exponents = arms["moments"]["apart"], arms["tails"]["exponent"]
        line = np.exp(np.log(apart[0]).mean()) * np.array(self.shares) / self.shares[0]
        label = "lr, of the edge of mean squares"
        return [
            Panel("largest |E|SGD|^2 / E|SDE|^2 - 1|", {"computed from moments": (self.shares, apart)}, log=True,
                  xlabel=label, theory={"slope 1": (self.shares, line)}),
            Panel("tail exponent of SGD's invariant law", {"Hill's estimator": (self.tails, exponents)}, logx=False,
                  xlabel=label, theory={"theory": (self.tails, arms["tails"]["theory"].mean(1))}),
        ]  # fmt: skip


def gradients(X: Array, xi: Array) -> Array:
    """(n, d + 1, d + 1): row i's descent direction (xi_i - x_i . eta) x_i as a linear map of (eta, 1)."""
    maps = np.zeros((len(X), X.shape[1] + 1, X.shape[1] + 1))
    maps[:, :-1, :-1], maps[:, :-1, -1] = -X[:, :, None] * X[:, None, :], xi[:, None] * X
    return maps


def kron(maps: Array) -> Array:
    """The mean of D (x) D over maps D, which acts on second moments."""
    size = maps.shape[1] ** 2
    return np.asarray(np.einsum("nab,ncd->acbd", maps, maps).reshape(size, size) / len(maps))


def moments(X: Array, xi: Array, lr: float, eta: Array, steps: int) -> tuple[Array, Array]:
    """E |eta|^2 (steps + 1,) of SGD and of its stochastic differential equation at the same times, exactly."""
    maps, one = gradients(X, xi), np.eye(X.shape[1] + 1)
    mean = maps.mean(0)
    drift = np.kron(mean, one) + np.kron(one, mean)
    discrete = kron(one + lr * maps)
    continuous = expm(lr * (drift + lr * (kron(maps) - np.kron(mean, mean))))
    state = np.outer(np.r_[eta, 1.0], np.r_[eta, 1.0]).ravel()
    return _squares(discrete, state, steps), _squares(continuous, state, steps)


def _squares(step: Array, state: Array, steps: int) -> Array:
    size, found = int(len(state) ** 0.5), []
    for _ in range(steps + 1):
        found.append(np.trace(state.reshape(size, size)) - 1.0)
        state = step @ state
    return np.array(found)


def tail_exponent(lr: float, d: int) -> float:
    """alpha with E |(I - lr x x') u|^alpha = 1 for |u| = 1 and x ~ N(0, I): Kesten's, of SGD's invariant law.

    >>> abs(tail_exponent(2 / (3 + 2), 3) - 2) < 0.02  # the edge of mean squares
    True
    """
    rng = np.random.default_rng(0)
    along, across = rng.standard_normal(10**6) ** 2, rng.chisquare(d - 1, 10**6)
    logs = np.log(1 - 2 * lr * along + lr**2 * along * (along + across)) / 2
    return float(brentq(lambda alpha: np.log(np.exp(alpha * logs).mean()), 0.5, 60.0))


def mean_square_edge(X: Array) -> float:
    """The lr at which the mean square of SGD without label noise stops falling, by bisection."""
    maps, one = -X[:, :, None] * X[:, None, :], np.eye(X.shape[1])
    low, high = 0.0, 2 / np.linalg.eigvalsh(X.T @ X / len(X))[-1]
    for _ in range(60):
        lr = (low + high) / 2
        grows = np.abs(np.linalg.eigvals(kron(one + lr * maps))).max() > 1
        low, high = (low, lr) if grows else (lr, high)
    return float(low)


@compiled()
def chains(X, xi, lr, start, steps, count, substeps, seed):  # type: ignore[no-untyped-def]
    """|eta| (count,) after steps of SGD; or of the equation, by Euler and Maruyama, in `substeps` > 0 a step."""
    np.random.seed(seed % 2**32)  # noqa: NPY002 (numba knows no other)
    n, ends = len(X), np.empty(count)
    small = lr / max(1, substeps)
    for chain in range(count):
        eta = start.copy()
        for _ in range(steps * max(1, substeps)):
            if substeps == 0:
                i = np.random.randint(n)  # noqa: NPY002
                eta += lr * (xi[i] - X[i] @ eta) * X[i]
            else:
                force = xi - X @ eta
                mean = X.T @ force / n
                draws = np.random.standard_normal(n)  # noqa: NPY002
                eta += small * mean + np.sqrt(lr * small / n) * (X.T @ (force * draws) - mean * draws.sum())
        ends[chain] = np.sqrt(eta @ eta)
    return ends


@compiled()
def gaussian_chains(d, noise, lr, steps, count, seed):  # type: ignore[no-untyped-def]
    """|eta| (count,) after steps of SGD on a new Gaussian row each."""
    np.random.seed(seed % 2**32)  # noqa: NPY002 (numba knows no other)
    ends = np.empty(count)
    for chain in range(count):
        eta = np.zeros(d)
        for _ in range(steps):
            x = np.random.standard_normal(d)  # noqa: NPY002
            eta += lr * (noise * np.random.standard_normal() - x @ eta) * x  # noqa: NPY002
        ends[chain] = np.sqrt(eta @ eta)
    return ends
