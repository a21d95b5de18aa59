"""How flat a minimum is, for any torch model, and what label noise penalises there.

Sums over rows run in chunks, random draws are a function of (seed, draw) alone, and the model is
only read: parameters, gradients, buffers and mode stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lntrain._moved import renamed
from lntrain.noise import philox
from lntrain.noise.labels import Draw, LabelFlips, Noise, as_noise
from lntrain.penalty.formula import effective_penalty
from lntrain.sharpness.curvature import Criterion, Curvature, add, estimate, flat
from lntrain.sharpness.curvature import Estimate as Estimate

CHUNK = 256  # rows in memory at once
SMALL = 32  # parameters up to which the whole Hessian is built for its eigenvalues


def hessian_trace(
    model: nn.Module,
    criterion: Criterion,
    inputs: Tensor,
    targets: Tensor,
    *,
    draws: int | None = 64,
    seed: int = 0,
    chunk: int = CHUNK,
) -> Estimate:
    """Trace of the Hessian of the loss in the trainable parameters: the mean of v.Hv over random signs v.

    Args:
        model: any module that does not mix rows, (n, ...) -> (n, ...), in training or eval mode.
        criterion: (output, target) -> scalar, a plain mean over rows, without label noise.
        inputs, targets: (n, ...).
        draws: sign vectors; None is exact, at one Hessian-vector product a parameter.
        seed: of the signs. chunk: rows in memory at once; the value does not depend on it.

    Returns:
        Estimate in units of the loss; its stderr^2 has mean 2 sum_(i != j) H_ij^2 / draws.

    Raises:
        ValueError: rows that do not fit, a loss that is not a finite mean over rows, no trainable
            parameter, batch norm or dropout in training mode, a single draw.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> hessian_trace(net, nn.MSELoss(), torch.full((4, 1), 3.0), torch.ones(4, 1), draws=None)
    Estimate(value=18.0, stderr=0.0)

    Source: Hutchinson, Commun. Stat. Simul. Comput. 19(2):433-450, 1990.
    """
    curvature = Curvature(model, criterion, inputs, targets, chunk)
    return curvature.trace(curvature.hessian_form, draws, seed)


def gauss_newton_trace(
    model: nn.Module,
    criterion: Criterion,
    inputs: Tensor,
    targets: Tensor,
    *,
    draws: int | None = 64,
    seed: int = 0,
    chunk: int = CHUNK,
) -> Estimate:
    """Trace of (1/n) sum_i J_i^T H_i J_i, H_i the criterion's Hessian in the output of row i.

    The Hessian's trace wherever the model fits every row, and what label noise penalises.

    Args:
        model, criterion, inputs, targets, seed, chunk: as for `hessian_trace`.
        draws: sign vectors; None is exact, from the Jacobian of each row.

    Returns:
        Estimate in units of the loss.

    Raises:
        ValueError: as for `hessian_trace`.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> gauss_newton_trace(net, nn.MSELoss(), torch.full((4, 1), 3.0), torch.ones(4, 1), draws=None)
    Estimate(value=18.0, stderr=0.0)

    Source: Schraudolph, Neural Comput. 14(7):1723-1738, 2002; Martens, JMLR 21(146), 2020 (arXiv 1412.1193).
    """
    curvature = Curvature(model, criterion, inputs, targets, chunk)
    return (
        curvature.exact_gauss_newton() if draws is None else curvature.trace(curvature.gauss_newton_form, draws, seed)
    )


def jacobian_norm(
    model: nn.Module, inputs: Tensor, *, draws: int | None = None, seed: int = 0, chunk: int = CHUNK
) -> Estimate:
    """Mean over rows of ||d output_i / d parameters||_F^2: what label noise penalises under the squared loss.

    Args:
        model, inputs, seed, chunk: as for `hessian_trace`.
        draws: None is exact, from the Jacobian of each row; else the number of sign vectors.

    Returns:
        Estimate in units of the output squared.

    Raises:
        ValueError: as for `hessian_trace`.

    >>> jacobian_norm(nn.Linear(3, 1), torch.ones(4, 3))
    Estimate(value=4.0, stderr=0.0)

    Source: theory.md section 6; Blanc et al., COLT 2020 (arXiv 1904.09080).
    """

    def half_square(output: Tensor, _: Tensor) -> Tensor:
        return output.square().sum() / (2 * len(output))  # its Hessian in each row is the identity

    return gauss_newton_trace(model, half_square, inputs, inputs, draws=draws, seed=seed, chunk=chunk)


def top_eigenvalue(
    model: nn.Module,
    criterion: Criterion,
    inputs: Tensor,
    targets: Tensor,
    *,
    tol: float = 1e-4,
    seed: int = 0,
    chunk: int = CHUNK,
) -> Estimate:
    """Largest eigenvalue of the Hessian of the loss, by Lanczos in float64 (scipy's eigsh).

    Args:
        model, criterion, inputs, targets, chunk: as for `hessian_trace`.
        tol: relative accuracy. seed: of the starting vector.

    Returns:
        Estimate: its stderr is the residual ||Hv - value v||, |v| = 1; some eigenvalue lies within it.

    Raises:
        ValueError: as for `hessian_trace`. RuntimeError: Lanczos did not converge.

    >>> net, x = nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> round(top_eigenvalue(net, nn.MSELoss(), x, torch.zeros(2, 1)).value, 9)
    9.0

    Source: Lehoucq, Sorensen, Yang, ARPACK Users' Guide, SIAM 1998.
    """
    curvature = Curvature(model, criterion, inputs, targets, chunk)

    def product(v: Any) -> Any:
        vector = torch.from_numpy(np.array(v, dtype=np.float64).reshape(-1))
        return add(weight * curvature.hessian(rows)(vector) for rows, weight in curvature.rows()).numpy()

    if curvature.width <= SMALL:
        values, vectors = np.linalg.eigh(np.stack([product(unit) for unit in np.eye(curvature.width)]))
        value, vector = values[-1], vectors[:, -1]
    else:
        start = philox.normals(seed, 0, 0, 1, curvature.width)[0].astype(np.float64)
        value, vector = _lanczos(product, start, tol)
    return Estimate(float(value), float(np.linalg.norm(product(vector) - value * vector)))


def gradient_covariance_trace(
    model: nn.Module,
    criterion: Criterion,
    inputs: Tensor,
    targets: Tensor,
    *,
    noise: Noise | float,
    batch_size: int | None = None,
    draws: int = 32,
    seed: int = 0,
    chunk: int = CHUNK,
) -> Estimate:
    """The part of label noise in the trace of the covariance of one step's gradient.

    (n / b) E ||g(y') - g(y'')||^2 / 2: y', y'' two independent draws of all n labels, g the mean
    gradient. Under the squared loss c (f - y)^2 it is (2c)^2 std^2 / b times `jacobian_norm`.

    Args:
        model, criterion, inputs, targets, chunk: as for `hessian_trace`.
        noise: a noise, or the std of a Gaussian one; a schedule is read at step 0.
        batch_size: b, rows drawn a step; None is all n. draws: pairs (y', y''). seed: of the noise.

    Returns:
        Estimate in units of the gradient squared.

    Raises:
        ValueError: as for `hessian_trace`; a batch size or a noise that does not fit.

    >>> gradient_covariance_trace(nn.Linear(1, 1), nn.MSELoss(), torch.ones(4, 1), torch.zeros(4, 1), noise=0.0)
    Estimate(value=0.0, stderr=0.0)

    Source: Damian, Ma, Lee, NeurIPS 2021 (arXiv 2106.06530), whose regulariser this covariance makes.
    """
    curvature, noise = Curvature(model, criterion, inputs, targets, chunk), as_noise(noise)
    b, _ = philox.check_sampling(len(targets), batch_size, None)

    def gradient(draw: int) -> Tensor:
        noisy = noise.perturb(targets, Draw(((seed, 0),), 0, draw))  # of all rows at once: chunks share one draw
        return add(weight * flat(curvature.gradient(rows, noisy)) for rows, weight in curvature.rows())

    changes = (gradient(2 * k) - gradient(2 * k + 1) for k in range(draws))
    return estimate([len(targets) / (2 * b) * float(change.square().sum()) for change in changes])


@renamed
def regulariser(
    lr: float,
    *,
    batch_size: int,
    std: float | None = None,
    p: float | None = None,
    loss_constant: float = 0.5,
    outputs: int = 1,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    antithetic: bool = False,
) -> float:
    """How strongly label noise penalises flatness: training minimises loss + coefficient * `gauss_newton_trace`.

    coefficient = effective lr * q / 4, where the noise of a gradient has covariance q * Gauss-Newton.
    Float labels: q = 2 loss_constant std^2 / (outputs b), for any model. Flipped classes under the cross
    entropy: q = 1 / b where the model fits the smoothed labels, since the covariance diag(m) - m m^T of
    a label of mean m is the cross entropy's Hessian at softmax = m (p (1 - p) for two classes and one
    logit). Take the trace of that smoothed objective (`label_smoothing`): p enters only through it.

    Args:
        lr: step size. batch_size: b, rows a step; n for the whole data.
        std: of the noise on float labels; or p: probability of a flipped class. One of them.
        loss_constant, outputs: a row's loss is (loss_constant / outputs) sum_k (f_k - y_k)^2; MSELoss
            has loss_constant 1.
        momentum, dampening, nesterov: torch.optim.SGD's. antithetic: noise in pairs eps, -eps.

    Returns:
        The coefficient, to first order in lr.

    Raises:
        ValueError: an argument out of range; std and p both or neither.

    >>> regulariser(0.01, batch_size=10, std=2.0), regulariser(0.1, batch_size=5, p=0.2, momentum=0.5)
    (0.001, 0.01)

    Source: Damian, Ma, Lee, NeurIPS 2021 (arXiv 2106.06530), whose lambda R is lr std^2 tr H / (4 b) at small lr;
    theory.md sections 3 and 6; the flips are derived above.
    """
    if (std is None) == (p is None):
        raise ValueError(f"std={std} and p={p}: give the noise of float labels or of class labels, one of the two")
    if p is not None and not 0 <= p <= 1:
        raise ValueError(f"p={p} must lie in [0, 1]")
    if outputs < 1:
        raise ValueError(f"outputs={outputs} must be at least 1")
    if p is not None:
        std, loss_constant, outputs = float(p > 0), 0.5, 1
    # Constants come from lntrain.penalty: beta = u v on a column of ones has trace 2 loss_constant (u^2 + v^2) >=
    # 4 loss_constant |beta|, and the Lasso's loss is ours over 2 loss_constant, so coefficient = lambda / 2.
    penalty = effective_penalty(
        [[1.0]],
        lr=lr,
        std=std,
        batch_size=batch_size,
        sampling="replacement",
        parametrisation="hadamard",
        loss_constant=loss_constant,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        antithetic=antithetic,
    )
    return float(penalty) / (2 * outputs)


def label_smoothing(p: float, num_classes: int, *, include_true: bool = False) -> float:
    """The `label_smoothing` of torch's CrossEntropyLoss that is the mean loss under LabelFlips: p K / (K - 1).

    It is p where the new label may be the true one. The objective to measure, and to train as the control.

    Args:
        p, num_classes, include_true: LabelFlips's.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: an argument out of range, or p above (K - 1) / K, which no smoothing reaches.

    >>> label_smoothing(0.2, 5)
    0.25
    """
    LabelFlips(p, num_classes)
    smoothing = p if include_true else p * num_classes / (num_classes - 1)
    if smoothing > 1:
        raise ValueError(f"p={p} exceeds (K-1)/K = {1 - 1 / num_classes:.3g}: no label smoothing has this mean loss")
    return smoothing


def _lanczos(product: Callable[[Any], Any], start: Any, tol: float) -> tuple[float, Any]:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    if not product(start).any():
        return 0.0, start / np.linalg.norm(start)  # a Hessian of 0, which ARPACK refuses
    operator = LinearOperator((len(start), len(start)), matvec=product, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=tol)
    except ArpackNoConvergence as error:
        raise RuntimeError(f"the largest eigenvalue did not converge to tol={tol:g}: take a larger tol") from error
    return values[0], vectors[:, 0]
