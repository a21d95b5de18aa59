"""From (lr, noise, batch, momentum, parametrisation) to the Lasso's penalty, and back.

The one home of these constants; theory.md's numbering is the paper's with std = sqrt(delta).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lntrain._checks import as_float64
from lntrain._moved import renamed
from lntrain.data.design import Design
from lntrain.noise.labels import check_std
from lntrain.noise.philox import check_sampling

# Multiplicative step w <- w (1 -/+ a lr g): a / loss_constant for each parametrisation with beta quadratic in w.
STEP_FACTOR = {"square": 4.0, "difference": 4.0, "hadamard": 2.0}


def mean_squares(X: Any) -> Tensor:
    """c_j = (1/n) sum_i x_ij^2, (d,)."""
    return Design.of(X).c


@renamed
def step_factor(parametrisation: str = "difference", loss_constant: float = 0.5) -> float:
    """a of the multiplicative step w <- w (1 -/+ a lr g).

    >>> step_factor("difference", 0.25), step_factor("hadamard", 0.5)
    (1.0, 1.0)
    """
    if parametrisation not in STEP_FACTOR:
        raise ValueError(f"parametrisation={parametrisation!r} is unknown: choose one of {', '.join(STEP_FACTOR)}")
    if not (math.isfinite(loss_constant) and loss_constant > 0):
        raise ValueError(
            f"loss_constant={loss_constant} must be positive: 0.5 is half the mean square, 0.25 the paper's"
        )
    return STEP_FACTOR[parametrisation] * loss_constant


def effective_lr(lr: Any, momentum: float = 0.0, dampening: float = 0.0) -> Any:
    """lr (1 - dampening) / (1 - momentum), the effective step size of heavy ball and Nesterov for slow drifts."""
    rates = np.atleast_1d(np.asarray(lr, dtype=float))
    if not (np.isfinite(rates).all() and (rates > 0).all()):
        raise ValueError(f"lr={lr} must be positive and finite")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum} must lie in [0, 1)")
    if not 0 <= dampening < 1:
        raise ValueError(f"dampening={dampening} must lie in [0, 1)")
    return lr * (1 - dampening) / (1 - momentum)


def _variance_to_penalty(
    lr: Any,
    parametrisation: str,
    loss_constant: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    antithetic: bool,
) -> Any:
    """lambda_j / V_j = a lr / 2, with the factors of momentum and of antithetic pairs (theory.md section 3)."""
    factor = step_factor(parametrisation, loss_constant) * effective_lr(lr, momentum, dampening) / 2
    if antithetic:
        factor = factor * ((1 - momentum**2) if nesterov else (1 - momentum))
    return factor


@renamed
def decay_penalty(weight_decay: float, parametrisation: str, loss_constant: float) -> float:
    """What weight decay adds to every lambda_j: weight_decay / a."""
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"weight_decay={weight_decay} must be finite and not negative")
    return weight_decay / step_factor(parametrisation, loss_constant)


@renamed
def effective_penalty(
    X: Any,
    *,
    lr: Any,
    std: Any,
    batch_size: int | None = None,
    parametrisation: str = "difference",
    loss_constant: float = 0.5,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    antithetic: bool = False,
    sampling: str | None = None,
) -> Tensor:
    """The weighted Lasso that label noise solves, before the first step.

    lambda_j = (1/2) a lr V_j + weight_decay / a, V_j = std^2 c_j / b, c_j = (1/n) sum_i x_ij^2.

    Args:
        X: (n, d) design, or a problem.
        lr: step size; or (R,), one per replica.
        std: standard deviation of the label noise, in the units of y; or (R,).
        batch_size: b; None reads all n rows.
        parametrisation: "difference", "square" (a = 4 loss_constant) or "hadamard" (a = 2 loss_constant).
        loss_constant: the loss is (loss_constant / b) sum (x.beta - y)^2; 0.5 here, 0.25 in the paper.
        momentum, dampening, nesterov, weight_decay: torch.optim.SGD's.
        antithetic: noise in pairs eps, -eps.
        sampling: "full", "replacement", "without", "shuffle" or "noisy_rows".

    Returns:
        (d,) float64 lambda in scikit-learn's units, (1/2n)||y - X beta||^2 + sum_j lambda_j |beta_j|;
        (R, d) where lr or std holds one per replica.

    Raises:
        ValueError: an argument out of range, by name.

    >>> effective_penalty(torch.ones(4, 1), lr=0.01, std=2.0).tolist()
    [0.01]

    Source: theory.md section 3; Pillaud-Vivien et al., COLT 2022, eq. (8) is a = 1, b = n.
    """
    design = Design.of(X)
    b, _ = check_sampling(design.shape[0], batch_size, sampling)
    factor = _variance_to_penalty(lr, parametrisation, loss_constant, momentum, dampening, nesterov, antithetic)
    if not bool(torch.as_tensor(mean_squares(design)).isfinite().all()):
        raise ValueError("X holds numbers that are not finite: drop or fill them first")
    power = torch.as_tensor(np.asarray(factor) * np.square(check_std(std)) / b, dtype=torch.float64)
    return power[..., None] * mean_squares(design) + decay_penalty(weight_decay, parametrisation, loss_constant)


@renamed
def noise_for_penalty(
    X: Any,
    penalty: Any,
    *,
    lr: Any,
    batch_size: int | None = None,
    parametrisation: str = "difference",
    loss_constant: float = 0.5,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    antithetic: bool = False,
    sampling: str | None = None,
) -> Any:
    """The std whose effective penalty is this one: the inverse of `effective_penalty`.

    std^2 = 2 b alpha / (a lr) where lambda_j = alpha c_j + weight_decay / a.

    Args:
        penalty: alpha, a number (or one per replica: a list of R floats), meaning lambda_j = alpha c_j
            + weight_decay / a; or a tensor or array (d,), which must have that form.
        X, lr, batch_size, ...: as for `effective_penalty`.

    Returns:
        std, a float; a list of floats for a list of alphas.

    Raises:
        ValueError: a penalty that label noise cannot give.

    >>> noise_for_penalty(torch.ones(4, 1), 0.01, lr=0.01)
    2.0
    """
    design = Design.of(X)
    b, _ = check_sampling(design.shape[0], batch_size, sampling)
    factor = _variance_to_penalty(lr, parametrisation, loss_constant, momentum, dampening, nesterov, antithetic)
    decay = decay_penalty(weight_decay, parametrisation, loss_constant)
    if isinstance(penalty, (Tensor, np.ndarray)) and np.ndim(penalty) > 0:
        wished, c = torch.as_tensor(penalty, dtype=torch.float64).cpu() - decay, mean_squares(design)
        if wished.shape != c.shape:
            raise ValueError(f"penalty has shape {tuple(wished.shape)}: X has {len(c)} columns")
        alphas = np.asarray(float((wished @ c) / (c @ c)))
        if not torch.allclose(float(alphas) * c, wished, rtol=1e-6, atol=1e-14 * decay):
            raise ValueError(
                "penalty is not proportional to the mean square of each column: no label noise gives it; "
                "scale the columns of X, or give a number"
            )
    else:
        alphas = np.asarray(penalty, dtype=float)
    if not (np.isfinite(alphas).all() and (alphas >= 0).all()):
        raise ValueError(f"penalty={penalty} is out of reach: it must be finite and at least weight decay's {decay:g}")
    stds = np.sqrt(alphas * b / np.asarray(factor))
    return stds.tolist() if stds.ndim else float(stds)


def alpha_max(X: Any, y: Any) -> float:
    """The smallest alpha at which the Lasso with lambda_j = alpha c_j is zero: max_j |x_j.y| / (n c_j)."""
    design = Design.of(X)
    y = torch.as_tensor(as_float64(y))
    return float(((design.X.T @ y).abs() / len(y) / mean_squares(design)).max())


@renamed
def stable_lr(
    X: Any,
    coef: Any,
    *,
    parametrisation: str = "difference",
    loss_constant: float = 0.5,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    batch_size: int | None = None,
) -> float:
    """The step above which training leaves a minimum at `coef`: (1 + mu) / (a h (1 - dampening)).

    Nesterov's is (1 + mu) / (a h (1 + 2 mu)), mu the momentum.

    h = max eig(D S D) for whole batches, D = diag(sqrt |coef|), S = X^T X / n (the Hessian in the
    weights is 2a D S D there); batches of b add (max_i |D x_i|^2 - max eig) / b, a bound on the
    mean-square growth.

    >>> round(stable_lr(torch.ones(4, 1), [2.0]), 9)
    0.25
    """
    X = Design.of(X).X
    root = torch.as_tensor(coef, dtype=torch.float64).abs().sqrt().cpu()
    on = root > 0
    if not bool(on.any()):
        return math.inf
    scaled = X[:, on] * root[on]
    top = float(torch.linalg.matrix_norm(scaled, ord=2)) ** 2 / len(X)
    if batch_size is not None and batch_size < len(X):
        top += max(0.0, float(scaled.square().sum(1).max()) - top) / batch_size
    slack = (1 + momentum) / (1 + 2 * momentum if nesterov else 1 - dampening if momentum else 1.0)
    return slack / (step_factor(parametrisation, loss_constant) * top)


def gradient_kurtosis(X: Any, noise_kurtosis: float = 3.0, batch_size: int | None = None) -> Tensor:
    """Kurtosis of the label-noise part of each g_j, (d,): 3 for Gaussian noise on the whole batch.

    Sums of independent terms: 3 + (kappa_1 - 3)/b with kappa_1 = kurtosis(eps) mean(x^4)/c^2 for draws
    of rows, 3 + (kurtosis(eps) - 3) sum x^4 / (sum x^2)^2 for the whole batch.
    """
    design = Design.of(X)
    n, _ = design.shape
    if batch_size is None or batch_size == n:
        return 3 + (noise_kurtosis - 3) * design.kurtosis / n
    return 3 + (noise_kurtosis * design.kurtosis - 3) / batch_size


@renamed
def finite_step_bias(
    X: Any,
    coef: Any,
    penalty: Any,
    *,
    lr: float,
    parametrisation: str = "difference",
    loss_constant: float = 0.5,
    momentum: float = 0.0,
    dampening: float = 0.0,
    antithetic: bool = False,
    kurtosis: Any = 3.0,
) -> Tensor:
    """lambda_eff / lambda - 1 to first order in the step, (d,).

    a lr [sum_k S_jk^2 |beta_k| / c_j + (kurtosis - 3/2) lambda_j]; antithetic: twice the first term.

    Args:
        coef: (d,) the Lasso's solution. penalty: (d,) lambda.
        kurtosis: of the noise in the gradient, 3 if Gaussian.

    Source: theory.md section 4 (1-D, lr .0025, lambda 1: .0175 for Gaussian noise).
    """
    design = Design.of(X)
    beta = torch.as_tensor(coef, dtype=torch.float64).abs().cpu()
    on = beta > 0
    curvature: Tensor = design.gram(on).square() @ beta[on] / mean_squares(design)
    moments: Tensor = (kurtosis - 1.5) * torch.as_tensor(penalty, dtype=torch.float64).cpu()
    rate = float(step_factor(parametrisation, loss_constant) * effective_lr(lr, momentum, dampening))
    return rate * ((2.0 if antithetic else 1.0) * curvature + moments)
