"""Steps of torch.optim's Adam, AdamW and RMSprop: for each weight two moving means, a square root and a division.

RMSprop is Adam without the first mean (beta1 = 0) and without bias correction. Weights are not kept from decaying as
far as plain steps keep them: they come back by factors, from where they fell to. So the squares of the smallest ones
underflow, and the threads that run these steps flush denormals, which are slow: they are 0 beside eps.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba as nb
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils

from lntrain.engine import buffers, simd
from lntrain.engine.kernels import by_weight, extent, gradient, prepare
from lntrain.engine.simd import INT
from lntrain.engine.state import Run

# of eps: roots of flushed denormals are lost beside it
LEAST_EPS = {torch.float64: 1e-130, torch.float32: 1e-12}


class Adaptive(NamedTuple):
    """X by rows, and an adaptive optimiser's options, in float64; steps from `settled` on have no bias correction."""

    X: Any
    beta1: float
    beta2: float
    eps: float
    decoupled: float
    settled: int
    most: int  # where torch's own count of steps ends


def adaptive(run: Run, X: Any) -> Adaptive:
    """The options of the run's optimiser."""
    group = run.optimizer.param_groups[0]
    corrected = "betas" in group
    beta1, beta2 = group["betas"] if corrected else (0.0, group["alpha"])
    slowest = max(beta1, beta2)
    settled = math.ceil(math.log(2**-54) / math.log(slowest)) if corrected and slowest > 0 else 0
    decoupled = float(group["weight_decay"]) if group.get("decoupled_weight_decay") else 0.0
    return Adaptive(X, beta1, beta2, group["eps"], decoupled, settled, buffers.most(buffers.steps_made(run)))


FACTORS = ("decay", "keep1", "take1", "keep2", "take2", "eps", "floor", "root", "shrink", "rate")


@simd.emits
def adapt(e, w, slopes, means, factors) -> None:  # type: ignore[no-untyped-def]
    """All weights (m, columns) step; means (2m, columns): of the slopes and of their squares; factors: FACTORS."""
    builder = e.builder
    size = builder.mul(e.length(w, 0), e.length(w, 1))
    f = {name: e.splat(e.number(factors.data, INT(k))) for k, name in enumerate(FACTORS)}
    with cgutils.for_range_slice(builder, INT(0), size, INT(e.lanes), INT) as (j, _):
        at, second = e.load(w.data, j), builder.add(size, j)
        slope = e.fma(e.load(slopes.data, j), f["decay"], at)
        mean = e.fma(e.mul(f["keep1"], e.load(means.data, j)), f["take1"], slope)
        square = e.fma(e.mul(f["keep2"], e.load(means.data, second)), f["take2"], e.mul(slope, slope))
        e.store(mean, means.data, j)
        e.store(square, means.data, second)
        under = e.fma(f["eps"], _call(e, "sqrt", square), f["root"])
        moved = e.sub(e.mul(f["shrink"], at), builder.fdiv(e.mul(f["rate"], mean), under))
        low = builder.fcmp_ordered("<", _call(e, "fabs", moved), f["floor"])
        low = builder.and_(low, builder.fcmp_unordered("!=", at, e.zero))  # one at 0 has no floor
        e.store(builder.select(low, _call(e, "copysign", f["floor"], moved), moved), w.data, j)


def _call(e: Any, name: str, *vectors: Any) -> Any:
    """LLVM's own function of vectors."""
    kind = ir.FunctionType(e.vector, [e.vector] * len(vectors))
    function = cgutils.get_or_insert_function(e.builder.module, kind, f"llvm.{name}.v{e.lanes}f{8 * e.size}")
    return e.builder.call(function, vectors)


@nb.njit(nogil=True, error_model="numpy")
def block(read, y, rule, state, drawn, t, rates, stds, made):  # type: ignore[no-untyped-def]
    """len(rates) steps within a block; the optimiser made `made` before."""
    simd.widest()  # type: ignore[call-arg]
    w, means, coef_block, noise_block = state.weights, state.buffers, state.coef_block, state.noise_block
    beta, grad, slopes = state.room[0], state.room[1], state.room[2:]
    unit, rows, index, target, residual = drawn.unit, drawn.rows, drawn.index, drawn.target, drawn.residual
    X, beta1, beta2 = read.X, read.beta1, read.beta2
    constants = (rule.decay, beta1, 1 - beta1, beta2, 1 - beta2, read.eps, rule.floor, 1.0, 1.0, 0.0)
    factors = np.array(constants).astype(w.dtype)
    for k in range(rates.shape[0]):
        prepare(y, rule, w, beta, coef_block, grad, noise_block, unit, rows, target, t + k, stds[k])
        first, count = extent(rule, t + k)
        gradient(X, index, first, count, beta, target, rule.scale, residual, grad)
        by_weight(rule, w, grad, slopes)
        lr, step = np.float64(rates[k]), np.float64(min(made + k + 1, read.most))
        corrected = step < read.settled
        factors[-3] = 1 / np.sqrt(1 - beta2**step) if corrected else 1.0
        factors[-2] = 1 - lr * read.decoupled
        factors[-1] = lr / (1 - beta1**step) if corrected else lr
        adapt(w, slopes, means, factors)
