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
    if rule.parametrisation == HADAMARD:
        simd.begin_hadamard(w, beta, total, grad)
    elif rule.parametrisation == SQUARE:
        simd.begin_square(w, beta, total, grad)
    elif rule.depth == 2:
        simd.begin_difference(w, beta, total, grad)
    else:
        for j in range(beta.shape[0]):
            beta[j] = _power(w[0, j], rule.depth) - _power(w[1, j], rule.depth)
            total[j] += beta[j]
            grad[j] = 0


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _gradient(X, index, first, count, beta, target, scale, residual, grad):  # type: ignore[no-untyped-def]
    """grad += scale X_B^T (X_B beta - target), rows index[first:first+count], in one pass over them."""
    row, last = X.shape[1] * X.itemsize, first + count
    blocked = first if 16 * row > L2_BYTES else first + count // 8 * 8  # rows too long go one by one
    if X.size * X.itemsize > L2_BYTES and blocked > first:
        simd.dot_8(X, index, first, 0, beta, target, scale, residual, grad)
        for i in range(first + 8, blocked, 8):
            simd.dot_add_8(X, index, i, i - 8, beta, target, scale, residual, grad)
        simd.add_8(X, index, 0, blocked - 8, beta, target, scale, residual, grad)
    else:
        for i in range(first, blocked, 8):
            simd.dot_8(X, index, i, 0, beta, target, scale, residual, grad)
            simd.add_8(X, index, 0, i, beta, target, scale, residual, grad)
    if blocked < last:
        simd.dot_1(X, index, blocked, 0, beta, target, scale, residual, grad)
        for i in range(blocked + 1, last):
            simd.dot_add_1(X, index, i, i - 1, beta, target, scale, residual, grad)
        simd.add_1(X, index, 0, last - 1, beta, target, scale, residual, grad)


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _descend(rule, w, beta, total, grad):  # type: ignore[no-untyped-def]
    """Plain steps of the quadratic parametrisations; grad bears the learning rate."""
    if rule.parametrisation == HADAMARD:
        simd.descend_hadamard(w, beta, total, grad)
    elif rule.parametrisation == SQUARE:
        simd.descend_square(w, beta, total, grad)
    else:
        simd.descend_difference(w, beta, total, grad)


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _by_weight(rule, w, grad, slopes):  # type: ignore[no-untyped-def]
    """slopes (m, d): the gradient in each weight, from `grad` in beta."""
    if rule.parametrisation == HADAMARD:
        for j in range(grad.shape[0]):
            slopes[0, j] = grad[j] * w[1, j]
            slopes[1, j] = grad[j] * w[0, j]
        return
    for j in range(grad.shape[0]):
        slopes[0, j] = rule.depth * grad[j] * _power(w[0, j], rule.depth - 1)
    if rule.parametrisation == DIFFERENCE:
        for j in range(grad.shape[0]):
            slopes[1, j] = -rule.depth * grad[j] * _power(w[1, j], rule.depth - 1)


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _sgd(rule, w, slopes, buffers, rate, first):  # type: ignore[no-untyped-def]
    """torch.optim.SGD's step; the first momentum buffer is the gradient itself."""
    for m in range(w.shape[0]):
        if rule.momentum == 0:
            for j in range(w.shape[1]):
                w[m, j] -= rate * (slopes[m, j] + rule.decay * w[m, j])
            continue
        keep, take = rule.momentum, rule.damping
        if first:
            keep, take = 0 * keep, 0 * take + 1
        for j in range(w.shape[1]):
            d = slopes[m, j] + rule.decay * w[m, j]
            buffers[m, j] = keep * buffers[m, j] + take * d
            w[m, j] -= rate * (d + rule.momentum * buffers[m, j] if rule.nesterov else buffers[m, j])


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
def _add_noise(y, unit, std, target, total):  # type: ignore[no-untyped-def]
    """Every label's noisy target, and the noise added to its sum."""
    for i in range(y.shape[0]):
        noise = std * target.dtype.type(unit[i])
        total[i] += noise
        target[i] = y[i] + noise


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def _label(rule, y, unit, draw, std, rows, first, width, target, total):  # type: ignore[no-untyped-def]
    """One step's noisy targets from unit[draw:] and rows[first:], and its noise added to the sum over all labels."""
    if rule.sampling == FULL:
        _add_noise(y, unit[draw : draw + width], std, target, total)
        return
    if rule.sampling == HAOCHEN:
        for i in range(y.shape[0]):
            target[i] = y[i]
    for i in range(width):
        row, noise = rows[first + i], std * target.dtype.type(unit[draw + i])
        total[row] += rule.spread * noise
        if rule.sampling == HAOCHEN:
            target[row] += rule.spread * noise
        else:
            target[first + i] = y[row] + noise


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


class Drawn(NamedTuple):
    """Noise and rows of the steps from `start` on, flat, and room for a batch: its labels and residuals."""

    unit: Any
    rows: Any
    index: Any
    target: Any
    residual: Any


# A function of its own: it takes the arrays out of their tuples once, where each time costs an atomic count
@nb.njit(nogil=True, error_model="numpy")
def _steps(X, y, rule, state, drawn, t, rates, stds, new):  # type: ignore[no-untyped-def]
    """len(rates) steps within a block; t counts steps from the first that `drawn` holds."""
    simd.widest()  # type: ignore[call-arg]
    w, buffers, coef_block, noise_block = state.weights, state.buffers, state.coef_block, state.noise_block
    beta, grad, slopes = state.room[0], state.room[1], state.room[2:]
    unit, rows, index, target, residual = drawn.unit, drawn.rows, drawn.index, drawn.target, drawn.residual
    n, width, shift = X.shape[0], rule.batch_size, 1 if rule.paired else 0  # a shift, for division is slow
    plain = rule.momentum == 0 and rule.decay == 0 and rule.depth == 2
    whole = rule.sampling == FULL or rule.sampling == HAOCHEN
    for k in range(rates.shape[0]):
        std = -stds[k] if (t + k) & shift else stds[k]  # the second of a pair
        first, rate = (t + k) * width, rates[k]
        _label(rule, y, unit, ((t + k) >> shift) * width, std, rows, first, width, target, noise_block)
        _begin(rule, w, beta, coef_block, grad)
        scale = rule.scale * rate if plain else rule.scale
        _gradient(X, index, 0 if whole else first, n if whole else width, beta, target, scale, residual, grad)
        if plain:
            _descend(rule, w, beta, coef_block, grad)
        else:
            _by_weight(rule, w, grad, slopes)
            _sgd(rule, w, slopes, buffers, rate, new and k == 0)


def _bare(begin: Any, descend: Any, single: Any) -> tuple[Any, Any]:
    """(whole, one): plain steps of one parametrisation on the whole batch, and on one row.

    Compiled apart for each: the choices that `_steps` makes at each step cost as much as a step on one row.
    """

    @nb.njit(nogil=True, error_model="numpy")
    def whole(X, y, rule, state, drawn, t, rates, stds):  # type: ignore[no-untyped-def]
        simd.widest()  # type: ignore[call-arg]
        w, coef_block, noise_block, beta, grad = (
            state.weights,
            state.coef_block,
            state.noise_block,
            state.room[0],
            state.room[1],
        )
        unit, index, target, residual = drawn.unit, drawn.index, drawn.target, drawn.residual
        n, shift = X.shape[0], 1 if rule.paired else 0
        for k in range(rates.shape[0]):
            std, first = -stds[k] if (t + k) & shift else stds[k], ((t + k) >> shift) * n
            _add_noise(y, unit[first : first + n], std, target, noise_block)
            begin(w, beta, coef_block, grad)
            _gradient(X, index, 0, n, beta, target, rule.scale * rates[k], residual, grad)
            descend(w, beta, coef_block, grad)

    @nb.njit(nogil=True, error_model="numpy")
    def one(X, y, rule, state, drawn, t, rates, stds):  # type: ignore[no-untyped-def]
        simd.widest()  # type: ignore[call-arg]
        w, coef_block, noise_block = state.weights, state.coef_block, state.noise_block
        unit, rows, target, shift = drawn.unit, drawn.rows, drawn.target, 1 if rule.paired else 0
        for k in range(t, t + rates.shape[0]):
            std, row = -stds[k - t] if k & shift else stds[k - t], rows[k]
            noise = std * target.dtype.type(unit[k >> shift])
            noise_block[row] += rule.spread * noise
            target[k] = y[row] + noise
            single(w, coef_block, X, rows, k, target, rule.scale * rates[k - t])

    return whole, one


_whole_difference, _one_difference = _bare(simd.begin_difference, simd.descend_difference, simd.single_difference)
_whole_square, _one_square = _bare(simd.begin_square, simd.descend_square, simd.single_square)
_whole_hadamard, _one_hadamard = _bare(simd.begin_hadamard, simd.descend_hadamard, simd.single_hadamard)


@nb.njit(nogil=True, error_model="numpy")
def _block(X, y, rule, state, drawn, t, rates, stds, new):  # type: ignore[no-untyped-def]
    """len(rates) steps within a block, by the leanest code that fits."""
    plain = rule.momentum == 0 and rule.decay == 0 and rule.depth == 2
    whole, one = rule.sampling == FULL, rule.batch_size == 1 and FULL < rule.sampling < HAOCHEN
    if not plain or not (whole or one):
        _steps(X, y, rule, state, drawn, t, rates, stds, new)
    elif rule.parametrisation == DIFFERENCE and whole:
        _whole_difference(X, y, rule, state, drawn, t, rates, stds)
    elif rule.parametrisation == DIFFERENCE:
        _one_difference(X, y, rule, state, drawn, t, rates, stds)
    elif rule.parametrisation == SQUARE and whole:
        _whole_square(X, y, rule, state, drawn, t, rates, stds)
    elif rule.parametrisation == SQUARE:
        _one_square(X, y, rule, state, drawn, t, rates, stds)
    elif whole:
        _whole_hadamard(X, y, rule, state, drawn, t, rates, stds)
    else:
        _one_hadamard(X, y, rule, state, drawn, t, rates, stds)


# no fastmath here or in _draw: numba hands it down to what they call, and the stream's numbers would change
@nb.njit(cache=True, nogil=True, error_model="numpy")
def run_steps(X, y, rule, state, key, step, drawn, rates, stds, new):  # type: ignore[no-untyped-def]
    """len(rates) steps from `step` on; `drawn` counts the optimiser's, by which noise and rows are drawn.

    rates, stds: lr and std of each step. new: no momentum buffer exists yet.
    """
    n, width = X.shape[0], rule.batch_size
    size = max(8, min(BLOCK, STRETCH // width // 8 * 8))  # pairs of steps times the four of a Philox block
    every = 2 if rule.paired else 1  # steps that share their draws
    unit, rows = np.zeros((size // every, width), np.float32), np.empty((size, width), np.int64)
    index = np.arange(n) if rule.sampling == FULL or rule.sampling == HAOCHEN else rows.reshape(-1)
    room = np.empty((2, index.shape[0]), state.weights.dtype)
    held = Drawn(unit.reshape(-1), rows.reshape(-1), index, room[0], room[1])
    start, done, left = 0, 0, 0
    while done < rates.shape[0]:
        if left == 0:
            start = (drawn + done) // 8 * 8
            _draw(rule, unit, start // every, key)
            if rule.sampling != FULL:
                fill_rows(rows, start, every, n, 1 if rule.sampling == HAOCHEN else rule.sampling, key)
            left = start + size - drawn - done
        count = min(left, BLOCK - (step + done) % BLOCK, rates.shape[0] - done)
        stop = done + count
        _block(X, y, rule, state, held, drawn + done - start, rates[done:stop], stds[done:stop], new and done == 0)
        done, left = stop, left - count
        if (step + done) % BLOCK == 0:
            _close_block(rule, state)
