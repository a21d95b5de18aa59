"""Many steps of one replica, compiled: draw a stretch of noise, then step after step without Python.

Weights, sums and X lie in arrays of their own, rows padded to whole vectors with zeros. Every
loop runs in the same order wherever a chunk begins or ends, so that chunks leave no trace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from lntrain.engine import simd
from lntrain.engine.state import BLOCK
from lntrain.stream import fill_normals, fill_rows, fill_words

DIFFERENCE, SQUARE, HADAMARD = 0, 1, 2
NONE, GAUSSIAN, RADEMACHER = 0, 1, 2
FULL, REPLACEMENT, WITHOUT, SHUFFLE, HAOCHEN = 0, 1, 2, 3, 4  # as stream.SAMPLINGS counts; 1 to 3 as fill_rows does

STRETCH = 4096  # numbers of noise drawn at a time: they and X of (40, 100) stay in the first cache
L2_BYTES = 1_500_000  # X beyond it is streamed: the next rows are read while the last ones are added

_REAL = {"contract", "reassoc", "nsz", "arcp"}  # not nnan, ninf: a diverged run must show it


class Rule(NamedTuple):
    """What a step does; floats in the model's dtype."""

    parametrisation: int
    depth: int
    noise: int
    paired: bool
    sampling: int
    batch_size: int
    scale: Any  # 2 loss_scale / rows: of the gradient
    spread: Any  # n / batch size: of a label's noise in the mean
    momentum: Any
    damping: Any  # 1 - dampening
    nesterov: bool
    decay: Any
    floor: Any  # of |weight|


class State(NamedTuple):
    """What a replica carries: weights, buffers (m, padded d), sums (padded d,) and (n,); room (2 + m, padded d) to work in."""

    weights: Any
    buffers: Any
    coef_block: Any
    coef_total: Any
    noise_block: Any
    noise_total: Any
    room: Any


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _power(w, depth):  # type: ignore[no-untyped-def]
    p = w
    for _ in range(depth - 1):
        p *= w
    return p


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _begin(rule, w, beta, total, grad):  # type: ignore[no-untyped-def]
    """beta of the weights, added to its sum; grad starts at 0."""
    u, v = w[0], w[w.shape[0] - 1]
    if rule.parametrisation == HADAMARD:
        for j in range(beta.shape[0]):
            beta[j] = u[j] * v[j]
    elif rule.parametrisation == SQUARE:
        for j in range(beta.shape[0]):
            beta[j] = u[j] * u[j]
    elif rule.depth == 2:
        for j in range(beta.shape[0]):
            beta[j] = u[j] * u[j] - v[j] * v[j]
    else:
        for j in range(beta.shape[0]):
            beta[j] = _power(u[j], rule.depth) - _power(v[j], rule.depth)
    for j in range(beta.shape[0]):
        total[j] += beta[j]
        grad[j] = 0


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _gradient(X, index, beta, target, scale, residual, grad):  # type: ignore[no-untyped-def]
    """grad = scale X_B^T (X_B beta - target), in one pass over the rows of the batch."""
    count, eight = index.shape[0], 64 * X.shape[1] * X.itemsize
    blocked = 0 if 2 * eight > 8 * L2_BYTES else count // 8 * 8  # rows too long for eight of them to stay
    if X.size * X.itemsize > L2_BYTES and blocked:
        simd.dot_8(X, index, 0, 0, beta, target, scale, residual, grad)
        for i in range(8, blocked, 8):
            simd.dot_add_8(X, index, i, i - 8, beta, target, scale, residual, grad)
        simd.add_8(X, index, 0, blocked - 8, beta, target, scale, residual, grad)
    else:
        for i in range(0, blocked, 8):
            simd.dot_8(X, index, i, 0, beta, target, scale, residual, grad)
            simd.add_8(X, index, 0, i, beta, target, scale, residual, grad)
    if blocked < count:
        simd.dot_1(X, index, blocked, 0, beta, target, scale, residual, grad)
        for i in range(blocked + 1, count):
            simd.dot_add_1(X, index, i, i - 1, beta, target, scale, residual, grad)
        simd.add_1(X, index, 0, count - 1, beta, target, scale, residual, grad)


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _descend(rule, w, grad):  # type: ignore[no-untyped-def]
    """Plain steps of the quadratic parametrisations; grad bears the learning rate."""
    u, v = w[0], w[w.shape[0] - 1]
    if rule.parametrisation == HADAMARD:
        for j in range(grad.shape[0]):
            before = u[j]
            u[j] = before - grad[j] * v[j]
            v[j] = v[j] - grad[j] * before
    elif rule.parametrisation == SQUARE:
        for j in range(grad.shape[0]):
            u[j] = u[j] - 2 * grad[j] * u[j]
    else:
        for j in range(grad.shape[0]):
            u[j] = u[j] - 2 * grad[j] * u[j]
            v[j] = v[j] + 2 * grad[j] * v[j]


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _by_weight(rule, w, grad, slopes):  # type: ignore[no-untyped-def]
    """slopes (m, d): the gradient in each weight, from `grad` in beta."""
    u, v = w[0], w[w.shape[0] - 1]
    if rule.parametrisation == HADAMARD:
        for j in range(grad.shape[0]):
            slopes[0, j] = grad[j] * v[j]
            slopes[1, j] = grad[j] * u[j]
        return
    for j in range(grad.shape[0]):
        slopes[0, j] = rule.depth * grad[j] * _power(u[j], rule.depth - 1)
    if rule.parametrisation == DIFFERENCE:
        for j in range(grad.shape[0]):
            slopes[1, j] = -rule.depth * grad[j] * _power(v[j], rule.depth - 1)


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _sgd(rule, w, slopes, buffers, rate, first):  # type: ignore[no-untyped-def]
    """torch.optim.SGD's step; the first momentum buffer is the gradient itself."""
    for m in range(w.shape[0]):
        p, g, buffer = w[m], slopes[m], buffers[m]
        if rule.momentum == 0:
            for j in range(p.shape[0]):
                p[j] -= rate * (g[j] + rule.decay * p[j])
            continue
        keep, take = rule.momentum, rule.damping
        if first:
            keep, take = 0 * keep, 0 * take + 1
        for j in range(p.shape[0]):
            d = g[j] + rule.decay * p[j]
            buffer[j] = keep * buffer[j] + take * d
            p[j] -= rate * (d + rule.momentum * buffer[j] if rule.nesterov else buffer[j])


@nb.njit(forceinline=True, error_model="numpy")
def _draw(rule, unit, first, key):  # type: ignore[no-untyped-def]
    """unit: draws of mean 0 and variance 1 from step (or pair) `first` on, a multiple of 4."""
    if rule.noise == GAUSSIAN:
        fill_normals(unit, first // 4, 0, key)
    elif rule.noise == RADEMACHER:
        bits = unit.view(np.uint32)
        fill_words(bits, first // 4, 0, 0, key)
        for k in range(unit.shape[0]):
            for i in range(unit.shape[1]):
                unit[k, i] = 1 - 2 * np.int32(bits[k, i] >> np.uint32(31))


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _label(rule, y, eps, std, rows, target, total):  # type: ignore[no-untyped-def]
    """One step's noisy targets, and its noise added to the sum over all labels."""
    if rule.sampling == FULL:
        for i in range(eps.shape[0]):
            noise = std * target.dtype.type(eps[i])
            total[i] += noise
            target[i] = y[i] + noise
        return
    if rule.sampling == HAOCHEN:
        target[:] = y
    for i in range(eps.shape[0]):
        noise = std * target.dtype.type(eps[i])
        total[rows[i]] += rule.spread * noise
        if rule.sampling == HAOCHEN:
            target[rows[i]] += rule.spread * noise
        else:
            target[i] = y[rows[i]] + noise


@nb.njit(forceinline=True, error_model="numpy")
def _close_block(rule, state):  # type: ignore[no-untyped-def]
    """The partial sums join the totals; weights on their way to denormals, which are slow, stop at the floor."""
    for part, total in ((state.coef_block, state.coef_total), (state.noise_block, state.noise_total)):
        for j in range(part.shape[0]):
            total[j] += part[j]
            part[j] = 0
    for m in range(state.weights.shape[0]):
        for j in range(state.weights.shape[1]):
            w = state.weights[m, j]
            if abs(w) < rule.floor:
                state.weights[m, j] = np.copysign(rule.floor, w)


# no fastmath here or in _draw: numba hands it down to what they call, and the stream's numbers would change
@nb.njit(cache=True, nogil=True, error_model="numpy")
def run_steps(X, y, rule, state, key, step, drawn, rates, stds, first):  # type: ignore[no-untyped-def]
    """len(rates) steps from `step` on; `drawn` counts the optimiser's, by which noise and rows are drawn.

    rates, stds: lr and std of each step. first: no momentum buffer exists yet.
    """
    simd.widest()
    w, width = state.weights, rule.batch_size
    plain = rule.momentum == 0 and rule.decay == 0 and rule.depth == 2
    beta, grad, slopes = state.room[0], state.room[1], state.room[2:]
    whole = rule.sampling in (FULL, HAOCHEN)
    residual, target = np.empty(X.shape[0] if whole else width, w.dtype), np.empty(X.shape[0] if whole else width, w.dtype)
    size = max(8, min(BLOCK, STRETCH // width // 8 * 8))  # pairs of steps times the four of a Philox block
    unit, rows, every = np.zeros((size, width), np.float32), np.empty((size, width), np.int64), 2 if rule.paired else 1
    all_rows = np.arange(X.shape[0])
    done, left = 0, 0
    while done < rates.shape[0]:
        if left == 0:
            start = (drawn + done) // 8 * 8
            _draw(rule, unit[: size // every], start // every, key)
            if rule.sampling != FULL:
                fill_rows(rows, start, every, X.shape[0], 1 if rule.sampling == HAOCHEN else rule.sampling, key)
            left = start + size - drawn - done
        count = min(left, BLOCK - (step + done) % BLOCK, rates.shape[0] - done)
        for k in range(done, done + count):
            t = drawn + k - start
            sign = 1 - 2 * (t % 2) if rule.paired else 1
            _label(rule, y, unit[t // every], sign * stds[k], rows[t], target, state.noise_block)
            _begin(rule, w, beta, state.coef_block, grad)
            scale = rule.scale * rates[k] if plain else rule.scale
            _gradient(X, all_rows if whole else rows[t], beta, target, scale, residual, grad)
            if plain:
                _descend(rule, w, grad)
            else:
                _by_weight(rule, w, grad, slopes)
                _sgd(rule, w, slopes, state.buffers, rates[k], first and k == 0)
        done, left = done + count, left - count
        if (step + done) % BLOCK == 0:
            _close_block(rule, state)
