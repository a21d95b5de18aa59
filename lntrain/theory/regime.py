"""Which theorem of the paper applies to a problem at a noise level, and how well its design is conditioned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from lntrain.data.design import Design
from lntrain.penalty.formula import alpha_max, mean_squares

Array = NDArray[np.float64]
FIT = 1e-8  # ||y - X coef|| / ||y|| below which the data count as noiseless


@dataclass(frozen=True)
class Regime:
    """Where the noise level lies among the paper's thresholds, delta_bar = 2 alpha, lambda_j = alpha c_j.

    delta_bar: the paper's lr * std^2 / n at its constants. delta_minus: below it Theorem 2's closed form
    holds (0 where the truth is unknown or domination fails). delta_plus: above it the Lasso is zero.
    margin_one_sided, margin_signed: of domination, nan without a truth. theorem: one of "Theorem 3",
    "Theorem 4", "open", "none". reason: why, in one line.
    """

    delta_bar: float
    delta_minus: float
    delta_plus: float
    margin_one_sided: float
    margin_signed: float
    theorem: str
    reason: str


def domination_margin(X: Any, coef: Any, *, signed: bool = False) -> float:
    """1 - max over j off the support of t_j, t = X_off^T X_S (X_S^T X_S)^-1 (h_S sign_S) / h_off.

    Positive: the domination condition h_off > X_off^T X_S (X_S^T X_S)^-1 h_S of Theorem 2 holds; it is
    the irrepresentability condition of the Lasso weighted by the mean squares.

    Args:
        X: (n, d). coef: (d,), whose support and signs count.
        signed: take |t_j|, as coefficients of either sign need; beta = w^2 needs t_j alone.

    Returns:
        A number, inf where nothing is off or on the support; nan where X_S has dependent columns.

    >>> round(domination_margin([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0]), 9)
    1.0
    >>> round(domination_margin([[1.0, 0.9], [0.0, 0.1]], [1.0, 0.0]), 4)
    -0.0976

    Source: Pillaud-Vivien et al., COLT 2022, Theorem 2; theory.md section 5.
    """
    return irrepresentability_margin(X, coef, mean_squares(X), signed=signed)


def irrepresentability_margin(X: Any, coef: Any, weights: Any = 1.0, *, signed: bool = True) -> float:
    """1 - max over j off the support of |x_j.X_S (X_S^T X_S)^-1 (weights_S sign_S)| / weights_j.

    Args:
        weights: (d,) or a number, the Lasso's weights up to a factor; 1 is the plain Lasso.
        X, coef, signed: as for `domination_margin`.

    Returns:
        A number, inf where nothing is off or on the support; nan where X_S has dependent columns.

    >>> round(irrepresentability_margin([[1.0, 0.5], [0.0, 1.0]], [1.0, 0.0]), 9)
    0.5

    Source: Zhao and Yu, JMLR 2006; Wainwright, IEEE Trans. Inf. Theory 2009.
    """
    X, beta = Design.of(X).X.numpy(), torch.as_tensor(coef, dtype=torch.float64).detach().cpu().numpy()
    h = np.broadcast_to(torch.as_tensor(weights, dtype=torch.float64).detach().cpu().numpy(), X.shape[1:])
    on = beta != 0
    if not on.any() or on.all():
        return math.inf
    if np.linalg.matrix_rank(X[:, on]) < on.sum():
        return math.nan
    direction = np.linalg.lstsq(X[:, on].T, h[on] * np.sign(beta[on]), rcond=None)[0]
    t = X[:, ~on].T @ direction / h[~on]
    return float(1 - (np.abs(t) if signed else t).max())


def delta_minus(X: Any, coef: Any) -> float:
    """sup{delta_bar: |beta_k| > delta_bar [(2 Xb_S^T Xb_S)^-1 (hb_S sign_S)]_k sign_k on S}.

    Below it Theorem 2's closed form keeps the truth's signs on S (off S the domination condition decides).

    Args:
        X: (n, d). coef: (d,) the truth.

    Returns:
        delta_bar = 2 alpha, lambda_j = alpha c_j; inf where nothing shrinks; nan where X_S has dependent columns.

    >>> round(delta_minus([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.5]), 9)
    1.0

    Source: Pillaud-Vivien et al., COLT 2022, Theorem 2; with sign_S = 1 it is the paper's.
    """
    X, beta = Design.of(X).X.numpy(), torch.as_tensor(coef, dtype=torch.float64).detach().cpu().numpy()
    on = beta != 0
    if not on.any():
        return math.inf
    if np.linalg.matrix_rank(X[:, on]) < on.sum():
        return math.nan
    c, sign = (X[:, on] ** 2).mean(0), np.sign(beta[on])
    shrink = sign * np.linalg.solve(2 * X[:, on].T @ X[:, on] / len(X), c * sign)
    falls = shrink > 0
    return float((np.abs(beta[on])[falls] / shrink[falls]).min()) if falls.any() else math.inf


def delta_plus(X: Any, y: Any, *, signed: bool = False) -> float:
    """inf{delta_bar: delta_bar hb_k > 2 [Xb^T yb]_k for all k}, at least 0; |.| if signed: twice `alpha_max`.

    >>> delta_plus([[1.0], [-1.0]], [-1.0, 1.0]), delta_plus([[1.0], [-1.0]], [-1.0, 1.0], signed=True)
    (0.0, 2.0)

    Source: Pillaud-Vivien et al., COLT 2022, Theorem 3.
    """
    if signed:
        return 2 * alpha_max(X, y)
    X = Design.of(X).X
    slope = X.T @ torch.as_tensor(y, dtype=torch.float64).cpu() / len(X) / mean_squares(X)
    return max(0.0, 2 * float(slope.max()))


def regime(X: Any, y: Any, alpha: float, coef: Any = None, *, parametrisation: str = "square") -> Regime:
    """Thresholds, margins, and the theorem that applies at lambda_j = alpha c_j.

    Theorem 3: delta_bar > delta_plus, all decays to 0. Theorem 4: noiseless truth, domination,
    delta_bar < delta_minus. Between them the paper leaves a band open.

    Args:
        X, y: the data. alpha: lambda_j / c_j, the paper's delta_bar / 2.
        coef: (d,) the truth with y = X coef, or None.
        parametrisation: "square" is the paper's (one-sided); the others are judged by the signed
            conditions, which the paper does not treat: there the theorems are analogues.

    Raises:
        ValueError: alpha not positive; a negative truth for "square"; an unknown parametrisation.

    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> [regime(eye, eye[0], a, [1.0, 0.0]).theorem for a in (0.5, 1.5)]
    ['Theorem 4', 'Theorem 3']

    Source: Pillaud-Vivien et al., COLT 2022, Theorems 2 to 4.
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha={alpha} must be positive: without label noise no theorem applies")
    if parametrisation not in ("square", "difference", "hadamard"):
        raise ValueError(f"parametrisation={parametrisation!r} is unknown: choose square, difference or hadamard")
    signed, level = parametrisation != "square", 2 * alpha
    upper, lower, margins = delta_plus(X, y, signed=signed), 0.0, (math.nan, math.nan)
    fits = False
    if coef is not None:
        beta = torch.as_tensor(coef, dtype=torch.float64).detach().cpu()
        if not signed and bool((beta < 0).any()):
            raise ValueError("coef has a negative entry: beta = w^2 cannot reach it, take parametrisation=difference")
        target = torch.as_tensor(y, dtype=torch.float64).detach().cpu()
        fits = float((Design.of(X).X @ beta - target).norm()) <= FIT * float(target.norm())
        margins = (domination_margin(X, beta), domination_margin(X, beta, signed=True))
        if fits and margins[signed] > 0:
            lower = delta_minus(X, beta)
    theorem, reason = _which(level, lower, upper, fits, margins[signed])
    if signed and theorem.startswith("Theorem"):
        reason += "; the paper proves it for beta = w^2, here by its signed analogue"
    return Regime(level, lower, upper, *margins, theorem, reason)


def _which(level: float, lower: float, upper: float, fits: bool, margin: float) -> tuple[str, str]:
    if level > upper:
        return "Theorem 3", f"delta_bar {level:.3g} > delta_plus {upper:.3g}: all coordinates decay to 0"
    if not fits:
        return "none", "no truth that fits the labels without noise is known: Theorem 4 does not speak"
    if not margin > 0:
        return "none", f"the domination condition fails (margin {margin:.3g}): Theorem 4 does not speak"
    if level < lower:
        return "Theorem 4", f"delta_bar {level:.3g} < delta_minus {lower:.3g}: the support is the truth's"
    return "open", f"delta_bar {level:.3g} lies between {lower:.3g} and {upper:.3g}: open in the paper"


def mutual_incoherence(X: Any) -> float:
    """mu = max over i != j of |x_i.x_j| / (||x_i|| ||x_j||); 0 for a single column.

    >>> mutual_incoherence([[3.0, 0.0], [0.0, 2.0]])
    0.0

    Source: Donoho and Huo, IEEE Trans. Inf. Theory 2001.
    """
    X = Design.of(X).X
    unit = X / X.norm(dim=0)
    return float((unit.T @ unit).abs().fill_diagonal_(0.0).max())


def incoherence_bound(X: Any, k: int) -> float:
    """A lower bound of the irrepresentability margin of every support of size k: 1 - k mu / (1 - (k-1) mu).

    For columns of one length (else of the Lasso weighted by the columns' norms); -inf where (k-1) mu >= 1.

    >>> incoherence_bound([[1.0, 0.0], [0.0, 1.0]], 1)
    1.0

    Source: Tropp, IEEE Trans. Inf. Theory 2004, Theorem 3.5.
    """
    mu = mutual_incoherence(X)
    return -math.inf if (k - 1) * mu >= 1 else 1 - k * mu / (1 - (k - 1) * mu)


def restricted_eigenvalue(
    X: Any, support: Any, *, cone: float = 3.0, starts: int = 20, seed: int = 0
) -> tuple[float, float]:
    """(lower, upper) BOUNDS of min v^T S v / ||v_S||^2 over |v_off|_1 <= cone |v_S|_1, S = X^T X / n.

    The minimum itself is hard. Lower: the larger of the least eigenvalue of S and, of unit columns,
    1 + mu - (1 + cone)^2 k mu, never below 0. Upper: the best v found from the least eigenvector on
    the support by local search from `starts` random points.

    Args:
        X: (n, d). support: (d,) bool, or coefficients. cone: 3 is the usual one.

    Raises:
        ValueError: an empty support.

    >>> bounds = restricted_eigenvalue([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]], [1, 0, 0])
    >>> [round(bound, 9) for bound in bounds]
    [1.0, 1.0]

    Source: Bickel, Ritov, Tsybakov, Ann. Statist. 2009 (doi:10.1214/08-AOS620), Lemma 4.1 for the first bound.
    """
    X = Design.of(X).X.numpy()
    on = np.asarray(torch.as_tensor(support).cpu()).astype(bool)
    if not on.any():
        raise ValueError("support is empty: the restricted eigenvalue needs at least one coordinate")
    S, k = X.T @ X / len(X), int(on.sum())
    lower = max(0.0, float(np.linalg.eigvalsh(S)[0]))
    c = np.diag(S)
    if np.allclose(c, c[0]):
        mu = mutual_incoherence(X)
        lower = max(lower, float(c[0]) * (1 + mu - (1 + cone) ** 2 * k * mu))
    upper = _local_search(S, on, cone, starts, seed)
    return min(lower, upper), upper  # bounds that meet may cross by rounding


def _local_search(S: Array, on: NDArray[np.bool_], cone: float, starts: int, seed: int) -> float:
    """The least ratio found; v_off = cone |v_S|_1 u / max(1, |u|_1) keeps to the cone whatever u is."""
    k, rng = int(on.sum()), np.random.Generator(np.random.Philox(seed))
    values, vectors = np.linalg.eigh(S[np.ix_(on, on)])
    best = float(values[0])
    if on.all():
        return best

    def ratio(z: Array) -> float:
        v = np.empty(len(S))
        v[on], u = z[:k], z[k:]
        v[~on] = cone * np.abs(z[:k]).sum() * u / max(1.0, float(np.abs(u).sum()))
        return float(v @ S @ v) / max(float(z[:k] @ z[:k]), 1e-300)

    for i in range(starts):
        head = vectors[:, 0] if i == 0 else rng.standard_normal(k)
        pull = -np.linalg.pinv(S[np.ix_(~on, ~on)]) @ S[np.ix_(~on, on)] @ head / (cone * np.abs(head).sum())
        found = minimize(ratio, np.concatenate([head, pull]), method="L-BFGS-B", options={"maxiter": 200})
        best = min(best, float(found.fun))
    return max(best, 0.0)
