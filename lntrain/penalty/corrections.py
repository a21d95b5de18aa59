"""What the penalty of `effective_penalty` leaves out: sampling, finite steps, depth.

Each function adds to, or scales, the one formula lambda_j = (1/2) a lr V_j (theory.md sections 3, 4 and 6).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lntrain._moved import renamed
from lntrain.data.design import Design
from lntrain.noise.labels import check_std
from lntrain.noise.philox import check_sampling
from lntrain.penalty.formula import (
    effective_lr,
    effective_penalty,
    finite_step_bias,
    gradient_kurtosis,
    mean_squares,
    step_factor,
)

STATISTICS = ("iid", "compensated", "antithetic")


def sampling_variance(X: Any, residuals: Any, *, batch_size: int | None = None, sampling: str | None = None) -> Tensor:
    """What the choice of rows adds to V_j, the variance of the noise in g_j.

    (f/b) ((1/n) sum_i r_i^2 x_ij^2 - g_j^2), g = X^T r / n; f = 1 with replacement, (n-b)/(n-1) without and
    with epoch reshuffling (which does more: `shuffle_shift`); 0 for "full" and "noisy_rows", which read all rows.

    Args:
        X: (n, d) design.
        residuals: (n,) X beta - y in the units of y, or (K, n) at K times: r^2 and g^2 are averaged over them.
        batch_size, sampling: as for `effective_penalty`.

    Returns:
        (d,) float64.

    Raises:
        ValueError: residuals of another length, a batch that does not fit.

    >>> sampling_variance([[1.0], [-1.0]], [1.0, 1.0], batch_size=1).tolist()
    [1.0]

    Source: theory.md section 3; exact for "replacement" and "without" (finite-population sampling).
    """
    X = Design.of(X).X
    r = torch.as_tensor(residuals, dtype=torch.float64).cpu()
    r = r[None] if r.ndim == 1 else r
    if r.ndim != 2 or r.shape[1] != len(X):
        raise ValueError(f"residuals have shape {tuple(r.shape)}: X has {len(X)} rows, give (n,) or (K, n)")
    b, sampling = check_sampling(len(X), batch_size, sampling)
    n = len(X)
    f = {"full": 0.0, "noisy_rows": 0.0, "replacement": 1.0}.get(sampling, (n - b) / (n - 1))
    within = r.square().mean(0) @ X.square() / n - (r @ X / n).square().mean(0)
    added: Tensor = f / b * within.clamp_min(0.0)
    return added


@renamed
def shuffle_shift(
    X: Any,
    y: Any,
    coef: Any,
    *,
    lr: float,
    batch_size: int,
    parametrisation: str = "difference",
    loss_constant: float = 0.5,
) -> Tensor:
    """What epoch reshuffling does beside its variance: training solves the Lasso for y - shift.

    shift = a lr ((n-b)/(n-1)/b) (r * (X^2 |beta|) - X (|beta| * g)), r = X beta - y, g = X^T r / n. A batch
    moves beta before the later batches of its epoch are read, and its gradient is correlated with their Hessians.

    Args:
        X: (n, d). y: (n,). coef: (d,) the solution, about which the shift is taken.
        lr, batch_size, parametrisation, loss_constant: as for `effective_penalty`, without momentum.

    Returns:
        (n,) float64, in the units of y: g_j + X_j.shift/n + lambda_j sign_j = 0 on the support.

    >>> shuffle_shift([[1.0], [-1.0]], [0.0, 0.0], [0.5], lr=0.01, batch_size=1).tolist()
    [0.0, 0.0]

    Source: derived here, to first order in lr * rows of an epoch: given a batch's noise, the mean
    noise over the rest of the epoch is -1/(n/b - 1) times it. In general the effect is not a factor on f ("about 2/3"
    holds in one setting).
    """
    X = Design.of(X).X
    y, beta = (torch.as_tensor(v, dtype=torch.float64).detach().cpu() for v in (y, coef))
    b, n = check_sampling(len(X), batch_size, "shuffle")[0], len(X)
    r, size = X @ beta - y, beta.abs()
    rate = step_factor(parametrisation, loss_constant) * lr * (n - b) / (n - 1) / b
    shift: Tensor = rate * (r * (X.square() @ size) - X @ (size * (X.T @ r / n)))
    return shift


@renamed
def sampling_penalty(
    X: Any,
    residuals: Any,
    *,
    lr: float,
    batch_size: int | None = None,
    sampling: str | None = None,
    parametrisation: str = "difference",
    loss_constant: float = 0.5,
    momentum: float = 0.0,
    dampening: float = 0.0,
) -> Tensor:
    """(1/2) a lr sampling_variance: what the choice of rows adds to `effective_penalty`, (d,).

    Args and Raises as `sampling_variance` and `effective_penalty`.

    >>> sampling_penalty([[1.0], [-1.0]], [1.0, 1.0], lr=0.01, batch_size=1).tolist()
    [0.01]

    Source: theory.md section 3.
    """
    rate = step_factor(parametrisation, loss_constant) * effective_lr(lr, momentum, dampening)
    variance = sampling_variance(X, residuals, batch_size=batch_size, sampling=sampling)
    return 0.5 * float(rate) * variance


def corrected_penalty(
    X: Any, coef: Any, *, lr: float, std: float, residuals: Any = None, noise_kurtosis: float = 3.0, **options: Any
) -> Tensor:
    """The lambda that training shows at this step size: (label noise + sampling) (1 + finite-step bias).

    Args:
        X: (n, d) design. coef: (d,) the Lasso's solution, where the bias is taken.
        lr, std, **options: `effective_penalty`'s.
        residuals: (n,) or (K, n), as for `sampling_variance`; None leaves sampling out.
        noise_kurtosis: of the label noise: 3 if Gaussian, 1 if Rademacher.

    Returns:
        (d,) float64.

    >>> ones = torch.ones(2, 1)
    >>> round(float(corrected_penalty(ones, [2.0], lr=0.0025, std=(2 / 0.0025) ** 0.5) - 1), 4)
    0.0175

    Source: theory.md sections 3 and 4; to first order in lr.
    """
    penalty = effective_penalty(X, lr=lr, std=std, **options)
    shared = ("parametrisation", "loss_constant", "momentum", "dampening")
    if residuals is not None:
        chosen = {k: options[k] for k in (*shared, "batch_size", "sampling") if k in options}
        penalty = penalty + sampling_penalty(X, residuals, lr=lr, **chosen)
    chosen = {k: options[k] for k in (*shared, "antithetic") if k in options}
    kurtosis = gradient_kurtosis(X, noise_kurtosis, options.get("batch_size"))
    return penalty * (1 + finite_step_bias(X, coef, penalty, lr=lr, kurtosis=kurtosis, **chosen))


@renamed
def depth_penalty(
    X: Any,
    *,
    lr: float,
    std: float,
    depth: int,
    batch_size: int | None = None,
    sampling: str | None = None,
    loss_constant: float = 0.5,
) -> Tensor:
    """The weights kappa_j of depth L's penalty sum_j kappa_j |beta_j|^(2 - 2/L).

    kappa_j = (loss_constant / 2) lr V_j L^2, V_j = std^2 c_j / b, for beta = w_plus^L - w_minus^L; the
    objective is (1/2n)||y - X beta||^2 + sum_j kappa_j |beta_j|^(2 - 2/L). L = 2 is `effective_penalty`.

    Args:
        depth: L >= 2. X, lr, std, batch_size, sampling, loss_constant: as for `effective_penalty`.

    Returns:
        (d,) float64.

    Raises:
        ValueError: depth below 2, or an argument out of range.

    >>> depth_penalty(torch.ones(4, 1), lr=0.01, std=2.0, depth=2).tolist()
    [0.01]

    Source: theory.md section 6: (loss_constant / 2) lr V f'(w)^2 for any beta = f(w); exact as lr -> 0.
    """
    if not isinstance(depth, int) or depth < 2:
        raise ValueError(f"depth={depth!r} must be a whole number, at least 2")
    single = effective_penalty(X, lr=lr, std=std, batch_size=batch_size, sampling=sampling, loss_constant=loss_constant)
    return single * (depth / 2) ** 2


def plan_steps(
    kkt_tol: float,
    X: Any,
    coef: Any,
    *,
    lr: float,
    std: float,
    statistic: str = "iid",
    init: float = 0.1,
    **options: Any,
) -> int:
    """Steps until the time average meets the KKT conditions within kkt_tol * lambda_j, j on the support.

    "iid": K = V_j / (lambda_j e)^2 (= 4 / (a^2 lr^2 V e^2) without momentum), the sd of the mean noise;
    "compensated", "antithetic": K = |log(|beta_j| / init^2)| / (2 a lr lambda_j e), the log distance from init.

    Args:
        kkt_tol: e, relative to lambda. X: (n, d). coef: (d,) the Lasso's solution.
        lr, std, **options: `effective_penalty`'s; statistic="antithetic" is for noise in pairs.
        init: the scale alpha of the initial weights.

    Returns:
        The largest K over the support; 1 where the Lasso is zero.

    Raises:
        ValueError: a tolerance that is not positive, an unknown statistic, std=0.

    >>> ones = torch.ones(1, 1)
    >>> [plan_steps(0.1, ones, [1.0], lr=0.01, std=10.0, statistic=name) for name in ("iid", "compensated")]
    [10000, 1152]

    Source: theory.md section 5. The finite-step bias is not included: no number of steps removes it.
    """
    if not (math.isfinite(kkt_tol) and kkt_tol > 0):
        raise ValueError(f"kkt_tol={kkt_tol} must be positive: it is relative to lambda")
    if statistic not in STATISTICS:
        raise ValueError(f"statistic={statistic!r} is unknown: choose one of {', '.join(STATISTICS)}")
    std = float(np.asarray(check_std(std)))
    if not std > 0:
        raise ValueError("std=0: without label noise there is no Lasso to meet")
    options = {**options, "antithetic": statistic == "antithetic" or options.get("antithetic", False)}
    beta = torch.as_tensor(coef, dtype=torch.float64).abs().cpu()
    on = beta > 0
    if not bool(on.any()):
        return 1
    penalty = effective_penalty(X, lr=lr, std=std, **options)[on]
    if statistic == "iid" and not options["antithetic"]:
        b, _ = check_sampling(np.shape(X)[0], options.get("batch_size"), options.get("sampling"))
        variance = std**2 * mean_squares(X)[on] / b
        needed = variance / (penalty * kkt_tol).square()
    else:
        chosen = {k: options[k] for k in ("parametrisation", "loss_constant") if k in options}
        slow = effective_lr(lr, options.get("momentum", 0.0), options.get("dampening", 0.0))
        way = (beta[on] / init**2).log().abs()
        needed = way / (2 * step_factor(**chosen) * float(slow) * penalty * kkt_tol)
    return max(1, math.ceil(float(needed.max()) * (1 - 1e-12)))
