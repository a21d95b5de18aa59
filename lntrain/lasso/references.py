"""References that are no plain Lasso, each with its own certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from lntrain._checks import as_float64
from lntrain.lasso.dual import Reference as Reference
from lntrain.lasso.dual import certify, dual_newton
from lntrain.lasso.solve import LassoSolution, weighted_lasso
from lntrain.penalty.corrections import sampling_penalty, shuffle_shift
from lntrain.penalty.formula import effective_penalty

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SelfConsistent:
    """A Lasso whose penalty depends on its residuals: lasso, the penalty's relative fixed-point error, iterations.

    shift: (n,) what epoch reshuffling subtracts from the labels (lasso is then for y - shift), else None.
    """

    lasso: LassoSolution
    error: float
    iterations: int
    shift: Tensor | None = None


def _checked(X: Any, y: Any) -> tuple[Array, Array]:
    X, y = as_float64(X), as_float64(y)
    X = X.toarray() if hasattr(X, "toarray") else X
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"X {X.shape} and y {y.shape} do not fit: give (n, d) and (n,)")
    return X, y


def _positive(values: Any, d: int, name: str) -> Array:
    values = as_float64(values)
    if values.shape not in ((), (d,)):
        raise ValueError(f"{name} has shape {values.shape}: X has {d} columns")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"{name} must be positive and finite")
    return np.broadcast_to(values, (d,)).astype(float)


def basis_pursuit(X: Any, y: Any, weights: Any = 1.0, *, positive: bool = False) -> Reference:
    """min sum_j weights_j |beta_j| subject to X beta = y, by HiGHS: the limit of annealed label noise.

    Args:
        X: (n, d). y: (n,) in the range of X. weights: positive; `mean_squares(X)` for label noise.
        positive: impose beta >= 0.

    Returns:
        Reference; gap is (weights.|beta| - y.theta) / (weights.|beta|), theta scaled to |X^T theta| <= weights.

    Raises:
        ValueError: shapes or weights out of range, y out of reach. RuntimeError: no certificate.

    >>> [round(beta, 9) for beta in basis_pursuit([[1.0, 2.0]], [2.0]).coef.tolist()]
    [0.0, 1.0]

    Source: Chen, Donoho, Saunders, SIAM Review 2001; theory.md section 4.
    """
    X, y = _checked(X, y)
    w = _positive(weights, X.shape[1], "weights")
    size = float(np.linalg.norm(y)) or 1.0
    split = X if positive else np.hstack([X, -X])
    cost = w if positive else np.concatenate([w, w])
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    found = linprog(cost, A_eq=split, b_eq=y / size, method="highs", options=tight)
    if found.status == 2:
        raise ValueError("y is out of reach of X beta (with beta >= 0, where imposed): no interpolator exists")
    if found.x is None:
        raise RuntimeError(f"HiGHS found no solution: {found.message}")
    coef = found.x if positive else found.x[: X.shape[1]] - found.x[X.shape[1] :]
    coef = _polish(X, y / size, coef)
    theta = np.asarray(found.eqlin.marginals, dtype=float)
    slope = X.T @ theta / w
    theta = theta / max(1.0, float((slope if positive else np.abs(slope)).max()))
    objective = float(w @ np.abs(coef))
    gap = (objective - float(y @ theta) / size) / (objective or 1.0)
    infeasibility = float(np.linalg.norm(X @ coef - y / size))
    dual = torch.from_numpy(theta)
    return certify(
        "basis pursuit",
        Reference(torch.from_numpy(coef * size), objective * size, max(gap, 0.0), infeasibility, dual),
    )


def _polish(X: Array, y: Array, coef: Array) -> Array:
    """The basic solution solved again: HiGHS stops at its tolerance."""
    on = np.abs(coef) > 1e-9 * np.abs(coef).max(initial=0.0)
    exact = np.zeros_like(coef)
    exact[on] = np.linalg.lstsq(X[:, on], y, rcond=None)[0]
    better = float(np.linalg.norm(X @ exact - y)) <= max(float(np.linalg.norm(X @ coef - y)), 1e-12)
    return exact if better and (np.sign(exact[on]) == np.sign(coef[on])).all() else coef


def entropy_interpolator(X: Any, y: Any, init: Any, *, parametrisation: str = "difference") -> Reference:
    """The limit of gradient flow without noise from w = init: the hyperbolic-entropy interpolator.

    min sum_j phi_j(beta_j) subject to X beta = y, grad phi = z: beta_j = 2 alpha_j^2 sinh(z_j)
    ("difference", "hadamard"), beta_j = alpha_j^2 exp(z_j) ("square"), z = X^T theta.

    Args:
        X: (n, d). y: (n,) in the range of X. init: alpha, a number or (d,): `DiagonalLinear`'s init.

    Returns:
        Reference; objective sum_j phi_j(beta_j) (0 at the start); coef has exactly the form above,
        so that the infeasibility certifies it; gap is the duality gap.

    Raises:
        ValueError: arguments out of range. RuntimeError: no certificate, e.g. y out of reach.

    >>> round(float(entropy_interpolator([[1.0, 1.0]], [2.0], 0.1).coef[0]), 9)
    1.0

    Source: Woodworth et al., COLT 2020 (arXiv 2002.09277), Theorem 1; Gunasekar et al. 2018 for "square".
    """
    X, y = _checked(X, y)
    square = _positive(init, X.shape[1], "init") ** 2
    if not (square.min() >= 1e-300 and square.max() <= 1e300):
        raise ValueError(f"init={init}: its square leaves the numbers; below 1e-150 take basis_pursuit, the limit")
    if parametrisation not in ("difference", "hadamard", "square"):
        raise ValueError(f"parametrisation={parametrisation!r} is unknown: choose difference, hadamard or square")

    theta = None
    for factor in 4.0 ** np.arange(max(0, math.ceil(-math.log(square.min(), 16))), -1, -1):  # from a large init down
        grown = factor**2 * square

        def exponential(z: Array, grown: Array = grown) -> tuple[float, Array, Array]:
            beta = grown * np.exp(z)
            return float((grown * np.expm1(z)).sum()), beta, beta  # expm1, sinh: where z is small, no digit is lost

        def hyperbolic(z: Array, grown: Array = grown) -> tuple[float, Array, Array]:
            curve = 2 * grown * np.cosh(z)
            return float((4 * grown * np.sinh(z / 2) ** 2).sum()), 2 * grown * np.sinh(z), curve

        found = dual_newton(X, y, exponential if parametrisation == "square" else hyperbolic, 0.0, theta)
        theta = found.dual
    return certify("entropy interpolator", found)


def bridge(X: Any, y: Any, penalty: Any, depth: int) -> Reference:
    """min (1/2n)||y - X beta||^2 + sum_j kappa_j |beta_j|^q, q = 2 - 2/L: label noise at depth L > 2.

    Strictly convex (1 < q < 2); through its dual, beta_j = sign(z_j) (|z_j| / (q kappa_j))^(1/(q-1)),
    z = X^T theta, theta = (y - X beta)/n.

    Args:
        X: (n, d). y: (n,). penalty: kappa, a number or (d,), e.g. `depth_penalty`. depth: L >= 3.

    Returns:
        Reference; gap, of the dual, relative to the objective at beta = 0.

    Raises:
        ValueError: arguments out of range (L = 2 is `weighted_lasso`). RuntimeError: no certificate.

    >>> solved = bridge([[1.0]], [1.0], 1.0, 4)
    >>> round(float(solved.coef + 1.5 * solved.coef**0.5), 9)
    1.0

    Source: theory.md section 6; bridge regression: Frank and Friedman, Technometrics 1993.
    """
    X, y = _checked(X, y)
    kappa = _positive(penalty, X.shape[1], "penalty")
    if not isinstance(depth, int) or depth < 3:
        raise ValueError(f"depth={depth!r} must be a whole number, at least 3 (depth 2 is weighted_lasso)")
    q = 2 - 2 / depth
    power = 1 / (q - 1)

    def conjugate(z: Array) -> tuple[float, Array, Array]:
        share = np.abs(z) / (q * kappa)
        size = share**power
        return (
            float((q - 1) * (kappa * share ** (q * power)).sum()),
            np.sign(z) * size,
            power * share ** (power - 1) / (q * kappa),
        )

    return certify("bridge regression", dual_newton(X, y, conjugate, float(len(y))))


def oracle_least_squares(X: Any, y: Any, support: Any) -> Reference:
    """Least squares on the true support: what a statistician with an oracle would report.

    Args:
        X: (n, d). y: (n,). support: (d,) bool, or coefficients whose nonzero entries count.

    Returns:
        Reference; objective (1/2n)||y - X beta||^2; infeasibility ||X_S^T r|| / (||X_S|| ||y||), the normal equations'.

    Raises:
        ValueError: shapes that do not fit, or dependent columns on the support.

    >>> found = oracle_least_squares([[1.0, 0.0], [0.0, 1.0]], [2.0, 3.0], [True, False])
    >>> [round(beta, 9) for beta in found.coef.tolist()]
    [2.0, 0.0]
    """
    X, y = _checked(X, y)
    on = as_float64(support).astype(bool)
    if on.shape != X.shape[1:]:
        raise ValueError(f"support has shape {on.shape}: X has {X.shape[1]} columns")
    used, coef = X[:, on], np.zeros(X.shape[1])
    if np.linalg.matrix_rank(used) < on.sum():
        raise ValueError(f"the {int(on.sum())} columns on the support are dependent: least squares is not unique")
    coef[on] = np.linalg.lstsq(used, y, rcond=None)[0]
    residual = y - X @ coef
    size = float(np.linalg.norm(used) * np.linalg.norm(y)) or 1.0
    error = float(np.linalg.norm(used.T @ residual)) / size
    return certify(
        "oracle least squares",
        Reference(torch.from_numpy(coef), float(residual @ residual) / (2 * len(y)), 0.0, error),
    )


def self_consistent_lasso(
    X: Any, y: Any, *, lr: float, std: float = 0.0, tol: float = 1e-6, iterations: int = 500, **options: Any
) -> SelfConsistent:
    """The Lasso whose penalty follows from its residuals: that of SGD on noisy data, with or without label noise.

    lambda = effective_penalty + (1/2) a lr (f/b) ((1/n) sum_i r_i^2 x_ij^2 - g_j^2), with r^2 and g^2
    the time averages: r_i^2 at the solution + sum_k x_ik^2 v_k, v_k = 2 lambda_k |beta_k| / c_k (the
    Gamma law's variances; without them the loss identity would fail), g_j^2 + sum_k S_jk^2 v_k.
    With sampling="shuffle" the Lasso is for y - `shuffle_shift` (.shift; good where an epoch moves beta little).

    Args:
        X: (n, d). y: (n,). lr, std, **options: `effective_penalty`'s, batch_size among them.
        tol: of the fixed point, relative.

    Returns:
        SelfConsistent: .lasso carries the penalty and the duality gap.

    Raises:
        ValueError: nothing makes a penalty (std=0 and whole batches).
        RuntimeError: no fixed point: where X can fit y, plain SGD reaches an interpolator and no Lasso.

    >>> rng = torch.Generator().manual_seed(0)
    >>> X, y = torch.randn(60, 5, generator=rng), torch.randn(60, generator=rng)
    >>> self_consistent_lasso(X, y, lr=0.02, batch_size=2).error <= 1e-6
    True

    Source: theory.md section 3, last rows; the fluctuations from section 5's invariant law.
    """
    X, y = _checked(X, y)
    c = (X**2).mean(0)
    label = effective_penalty(X, lr=lr, std=std, **options).numpy()
    shared = {k: v for k, v in options.items() if k not in ("nesterov", "weight_decay", "antithetic")}

    def implied(coef: Array, penalty: Array) -> Array:
        on = coef != 0
        spread = np.sqrt(on.sum() * 2 * penalty[on] * np.abs(coef[on]) / c[on])  # times sqrt(rows averaged)
        moves = spread[:, None] * X[:, on].T if on.any() else np.zeros((1, len(y)))
        residuals = X @ coef - y + np.vstack([moves, -moves])  # their r^2 and g^2 have the wanted means
        return np.asarray(label + sampling_penalty(X, residuals, lr=lr, **shared).numpy(), dtype=float)

    penalty = implied(np.zeros(X.shape[1]), np.zeros(X.shape[1]))
    if not (penalty > 0).all():
        raise ValueError("nothing makes a penalty: give std > 0, or a batch_size below n")
    coef, error, shift = (
        None,
        math.inf,
        None if options.get("sampling") != "shuffle" else torch.zeros(len(y), dtype=torch.float64),
    )
    moved = {k: options[k] for k in ("batch_size", "parametrisation", "loss_constant") if k in options}
    for k in range(1, iterations + 1):
        try:
            lasso = weighted_lasso(X, y if shift is None else y - shift.numpy(), penalty, start=coef)
        except RuntimeError:
            break  # the penalty has shrunk to nothing
        coef = lasso.coef
        new = implied(coef.numpy(), penalty)
        error = float((np.abs(new - penalty) / penalty).max())
        if shift is not None:
            before, shift = shift, shuffle_shift(X, y, coef, lr=lr, **moved)
            error = max(error, float((shift - before).norm()) / float(np.linalg.norm(y)))
        if error <= tol:
            return SelfConsistent(lasso, error, k, shift)
        penalty = new
    raise RuntimeError(
        f"no penalty agrees with its own residuals (its mean is {penalty.mean():.1e}, relative error {error:.1e}): "
        "where X can fit y, SGD reaches an interpolator and no Lasso"
    )
