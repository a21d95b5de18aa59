"""Entries in continuous time: paths of gradient flow, and of other maps than the square."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.optimize import nnls

from lntrain.data.problem import sparse_regression
from lntrain.experiments.gallery import rules
from lntrain.experiments.gallery.diagonal import over_seeds
from lntrain.experiments.verdicts import At, Check, Panel
from lntrain.lasso.references import basis_pursuit, bridge
from lntrain.lasso.solve import weighted_lasso
from lntrain.theory.flow import gradient_flow

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LassoFlow:
    """The time average of gradient flow from a tiny start is a Lasso, with lambda = log(1/alpha) / (a t)."""

    n: int
    d: int
    k: int
    noise: float
    ratios: list[float]  # of lambda over alpha_max: lowest, highest, how many
    powers: list[float]  # alpha = e^-power
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A start an arm."""
        return {f"alpha e^-{power:g}": partial(self._one, at, power) for power in self.powers}

    def _one(self, at: At, power: float) -> dict[str, Array]:
        rows, low, high, many = [], *self.ratios
        for seed in at.seeds(self.seeds, "data"):
            problem = sparse_regression(self.n, self.d, self.k, signs="random", noise=self.noise, seed=seed)
            top = float((problem.X.T @ problem.y).abs().max() / self.n)
            lams = np.geomspace(high, low, int(many)) * top
            flow = gradient_flow(problem.X, problem.y, power / (2 * lams), init=float(np.exp(-power)))
            lassos = [weighted_lasso(problem.X, problem.y, float(lam)).coef for lam in lams]
            size = float(lassos[-1].norm())
            rows.append(
                [float((mean - lasso).norm()) / size for mean, lasso in zip(flow.mean_coef, lassos, strict=True)]
            )
        return {"distance": over_seeds(rows)}

    def checks(self, arms: Any) -> list[Check]:
        """The largest distance over the path falls with the start, about as 1 / log(1/alpha)."""
        far = np.stack([values["distance"].max(0) for values in arms.values()])
        return [
            rules.at_most(f"largest distance to the Lasso at e^-{self.powers[-1]:g}", far[-1], 0.01),
            rules.at_most("slope of log distance on log log(1/alpha)", rules.slopes(self.powers, far), -0.8),
        ]

    def panels(self, arms: Any) -> list[Panel]:
        """Distances over the path and over the start."""
        low, high, many = self.ratios
        x = np.geomspace(high, low, int(many))
        curves = {name: (x, np.maximum(values["distance"], 1e-12)) for name, values in arms.items()}
        far = np.stack([values["distance"].max(0) for values in arms.values()])
        guide = far[0].mean() * self.powers[0] / np.array(self.powers)
        return [
            Panel("distance of the time average", curves, log=True, xlabel="lambda / lambda_max"),
            Panel("largest over the path", {"gradient flow": (self.powers, far)}, log=True, xlabel="log(1/alpha)",
                  theory={"slope -1": (self.powers, guide)}),
        ]  # fmt: skip


@dataclass(frozen=True)
class Reparametrise:
    """Gradient flow on rho(w) = sign(w) |w|^(2/p) ends at the interpolator of least l_p norm."""

    n: int
    d: int
    k: int
    depths: list[int]  # L of `bridge`, whose p is 2 - 2/L
    time: float
    penalty: float
    seeds: int

    @property
    def ps(self) -> list[float]:
        """The exponents."""
        return [2 - 2 / depth for depth in self.depths]

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """A map an arm."""
        return {f"p {p:.3g}": partial(self._one, at, p) for p in self.ps}

    def _one(self, at: At, p: float) -> dict[str, Array]:
        rows = []
        for seed in at.seeds(self.seeds, "data"):
            problem = sparse_regression(self.n, self.d, self.k, signs="random", seed=seed)
            X, y = problem.X.numpy(), problem.y.numpy()
            beta = mirror_flow(X, y, p, self.time)
            ends = [bridge(X, y, self.penalty, depth).coef.numpy() for depth in self.depths]
            rows.append([float(np.linalg.norm(beta - end) / np.linalg.norm(end)) for end in ends])
        return {"distance": over_seeds(rows)}

    def checks(self, arms: Any) -> list[Check]:
        """Near its own, and nearer to it than to any other."""
        made = []
        for i, (name, values) in enumerate(arms.items()):
            own, others = values["distance"][i], np.delete(values["distance"], i, 0).min(0)
            made.append(rules.at_most(f"{name}: distance to its own minimiser", own, 1e-2))
            made.append(rules.ratio(f"{name}: to its own over to the nearest other", own, others, 0.2))
        return made

    def panels(self, arms: Any) -> list[Panel]:
        """Distances to each minimiser."""
        curves = {f"flow, {name}": (self.ps, values["distance"]) for name, values in arms.items()}
        return [Panel("distance to the least l_p interpolator", curves, log=True, xlabel="p of the norm", logx=False)]


def mirror_flow(X: Array, y: Array, p: float, time: float) -> Array:
    """beta at `time` of d z / dt = X^T (y - X beta) / n, beta = sign(z) |z|^(1/(p-1)), from 0: gradient flow on rho.

    Source: Chou, Maly, Stoger 2023: the flow of w is the mirror flow of |beta|^p / p (time scaled).
    """

    def beta(theta: Array) -> Array:
        z = X.T @ theta
        return np.asarray(np.sign(z) * np.abs(z) ** (1 / (p - 1)))

    def slope(_: float, theta: Array) -> Array:
        return np.asarray((y - X @ beta(theta)) / len(y))

    found = solve_ivp(slope, (0.0, time), np.zeros(len(y)), method="LSODA", rtol=1e-9, atol=1e-12)
    return beta(found.y[:, -1])


@dataclass(frozen=True)
class Saddles:
    """From a vanishing start gradient flow jumps from saddle to saddle, and the last one is basis pursuit's."""

    n: int
    d: int
    truth: list[float]
    powers: list[float]  # alpha = e^-power
    points: int
    seeds: int

    def arms(self, at: At) -> Mapping[str, Callable[[], Mapping[str, Array]]]:
        """The flow from each start against the process; its last saddle."""
        return {f"alpha e^-{power:g}": partial(self._one, at, power) for power in self.powers}

    def _one(self, at: At, power: float) -> dict[str, Array]:
        rows, kept = [], []
        for seed in at.seeds(self.seeds, "data"):
            rng, coef = np.random.default_rng(seed), np.zeros(self.d)
            X = rng.standard_normal((self.n, self.d))
            coef[: len(self.truth)] = self.truth
            y = X @ coef
            jumps, saddles = successive_saddles(X, y)
            times = jumps[-1] * 1.3 * (np.arange(self.points) + 0.5) / self.points
            flow = gradient_flow(X, y, times * power / 2, init=float(np.exp(-power))).coef.numpy()
            wished = saddles[np.searchsorted(jumps, times, side="right")]
            last = basis_pursuit(X, y).coef.numpy()
            rows.append([float(np.linalg.norm(flow - wished, axis=1).mean() / np.linalg.norm(last)),
                         float(np.linalg.norm(saddles[-1] - last) / np.linalg.norm(last))])  # fmt: skip
            kept.append(np.linalg.norm(flow, 1, axis=1).tolist())
        return dict(zip(("apart", "end"), over_seeds(rows), strict=True)) | {"norm": over_seeds(kept)}

    def checks(self, arms: Any) -> list[Check]:
        """The rate in log(1/alpha), and the end."""
        apart = np.stack([values["apart"] for values in arms.values()])
        slope = rules.slopes(self.powers, apart)
        end = next(iter(arms.values()))["end"]
        return [*rules.within("slope of log distance on log log(1/alpha)", slope, -1.3, -0.7),
                rules.at_most("last saddle to basis pursuit", np.maximum(end, 1e-16), 1e-6)]  # fmt: skip

    def panels(self, arms: Any) -> list[Panel]:
        """Distances over the start; norms over time."""
        apart = np.stack([values["apart"] for values in arms.values()])
        guide = apart[0].mean() * self.powers[0] / np.array(self.powers)
        share = 1.3 * (np.arange(self.points) + 0.5) / self.points
        norms = {name: (share, values["norm"][:, :1]) for name, values in arms.items()}
        return [
            Panel("l1 norm of the flow, one problem", norms, logx=False, xlabel="time, 1 at the last jump"),
            Panel("mean distance to the jump process", {"flow": (self.powers, apart)}, log=True, xlabel="log(1/alpha)",
                  theory={"slope -1": (self.powers, guide)}),
        ]  # fmt: skip


def successive_saddles(X: Array, y: Array) -> tuple[Array, Array]:
    """The jumps (J,) of gradient flow as alpha -> 0, in times a t / log(1/alpha), and the saddles between (J + 1, d).

    s_j = -integral of g_j rises to +/- 1, where log w_pm has grown by log(1/alpha): there coordinate j is free, and
    beta jumps to the least squares over the free coordinates with their signs.

    Source: Pesme and Flammarion, NeurIPS 2023 (arXiv 2304.00488), Algorithm 1.
    """
    n, d = X.shape
    beta, s, time = np.zeros(d), np.zeros(d), 0.0
    jumps, saddles = [], [beta]
    for _ in range(10 * d):
        pull = X.T @ (y - X @ beta) / n
        free = beta != 0
        moving = ~free & (np.abs(pull) > 1e-9 * np.abs(X.T @ y / n).max())
        wait = np.where(moving, (np.sign(pull) - s) / np.where(moving, pull, 1.0), np.inf)
        if not np.isfinite(wait.min()):
            break
        step = float(wait.min())
        time, s = time + step, np.where(moving, s + step * pull, s)
        signs = np.where(np.abs(np.abs(s) - 1) < 1e-9, np.sign(s), 0.0)
        on = signs != 0
        beta = np.zeros(d)
        beta[on] = signs[on] * nnls(X[:, on] * signs[on], y)[0]
        jumps.append(time)
        saddles.append(beta)
    return np.array(jumps), np.array(saddles)
