"""The parts of a step, compiled: labels, gradient, weights, sums.

Weights, sums and X lie in arrays of their own, rows padded to whole vectors with zeros.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from lntrain.engine import simd

NONE, GAUSSIAN, RADEMACHER = 0, 1, 2
FULL, REPLACEMENT, WITHOUT, SHUFFLE, NOISY_ROWS = 0, 1, 2, 3, 4  # indices of philox.SAMPLINGS; 1 to 3 in fill_rows

STRETCH = 4096  # numbers of noise drawn at a time: they and X of (40, 100) stay in the first cache
L1_BYTES, L2_BYTES = 32_768, 1_500_000  # cache sizes, which decide how many rows are processed together

_REAL = {"contract", "reassoc", "nsz", "arcp"}  # not nnan, ninf: a diverged run must show it


class Rule(NamedTuple):
    """What a step does; floats in the model's dtype."""

    parametrisation: Any  # an empty tuple of formulas.py: each is compiled apart
    depth: int
    noise: int
    paired: int  # 1 for antithetic pairs: one draw for two steps, with opposite signs; else 0
    sampling: int
    rows: int  # of X
    batch_size: int
    scale: Any  # factor of the gradient: 2 loss_constant / rows, twice that in plain steps where d beta / dw = 2w
    spread: Any  # n / batch size: factor of a drawn label's noise in the mean noise
    momentum: Any
    undampened: Any  # 1 - dampening
    nesterov: bool
    decay: Any
    floor: Any  # smallest |weight|


class State(NamedTuple):
    """What a replica carries: weights, buffers (m, padded d); sums (padded d,), (padded n,).

    `room` (2 + m, padded d) is scratch memory.
    """

    weights: Any
    buffers: Any
    coef_block: Any
    coef_total: Any
    noise_block: Any
    noise_total: Any
    room: Any


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def power(w, depth):  # type: ignore[no-untyped-def]
    p = w
    for _ in range(depth - 1):
        p *= w
    return p


@nb.njit(forceinline=True, error_model="numpy")
def plain(rule):  # type: ignore[no-untyped-def]
    """A step is the multiplicative one."""
    return rule.momentum == 0 and rule.decay == 0 and rule.depth == 2


@nb.njit(forceinline=True, error_model="numpy")
def signed(rule, t, std):  # type: ignore[no-untyped-def]
    """std at step t, negated in the second step of an antithetic pair."""
    return -std if t & rule.paired else std


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def begin(rule, w, beta, total, grad):  # type: ignore[no-untyped-def]
    """beta of the weights, added to its sum; grad starts at 0."""
    if rule.depth == 2:
        simd.begin(rule.parametrisation, w, beta, total, grad)
    else:
        for j in range(beta.shape[0]):
            beta[j] = power(w[0, j], rule.depth) - power(w[1, j], rule.depth)
            total[j] += beta[j]
            grad[j] = 0


def _pass(height: int, sweeps: tuple[Any, Any, Any]) -> Any:
    """One pass over rows index[first:last], `height` at a time; `ahead`: read the next while adding the last."""
    dot, add, dot_add = sweeps

    @nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
    def run(X, index, first, last, ahead, beta, target, scale, residual, grad):  # type: ignore[no-untyped-def]
        split = max(first, last - height) if ahead else first  # up to there in one sweep
        if first < split:
            dot(X, index, first, 0, beta, target, scale, residual, grad)
        for i in range(first, split, height):
            dot_add(X, index, i + height, i, beta, target, scale, residual, grad)
        for i in range(split, last, height):
            if i == first or not ahead:
                dot(X, index, i, 0, beta, target, scale, residual, grad)
            add(X, index, 0, i, beta, target, scale, residual, grad)

    return run


_ones, _fours, _eights = _pass(1, simd.SWEEP_1), _pass(4, simd.SWEEP_4), _pass(8, simd.SWEEP_8)


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def gradient(X, index, first, count, beta, target, scale, residual, grad):  # type: ignore[no-untyped-def]
    """grad += scale X_B^T (X_B beta - target), rows index[first:first+count], in blocks that the caches hold."""
    row, last = X.shape[1] * X.itemsize, first + count
    ahead = 8 * row <= L1_BYTES or 4 * row > L1_BYTES
    eights = first
    if 16 * row <= L1_BYTES or (4 * row > L1_BYTES and 16 * row <= L2_BYTES):
        eights += count // 8 * 8
    fours = eights + (last - eights) // 4 * 4
    _eights(X, index, first, eights, True, beta, target, scale, residual, grad)
    _fours(X, index, eights, fours, ahead, beta, target, scale, residual, grad)
    _ones(X, index, fours, last, True, beta, target, scale, residual, grad)


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def by_weight(rule, w, grad, slopes):  # type: ignore[no-untyped-def]
    """slopes (m, d): the gradient in each weight, from `grad` in beta."""
    if rule.depth == 2:
        simd.slopes(rule.parametrisation, w, grad, slopes)
    else:
        for j in range(grad.shape[0]):
            slopes[0, j] = rule.depth * grad[j] * power(w[0, j], rule.depth - 1)
            slopes[1, j] = -rule.depth * grad[j] * power(w[1, j], rule.depth - 1)


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def sgd(rule, w, slopes, buffers, rate, first):  # type: ignore[no-untyped-def]
    """torch.optim.SGD's step; the first momentum buffer is the gradient itself."""
    for m in range(w.shape[0]):
        if rule.momentum == 0:
            for j in range(w.shape[1]):
                w[m, j] -= rate * (slopes[m, j] + rule.decay * w[m, j])
            continue
        keep, take = rule.momentum, rule.undampened
        if first:
            keep, take = 0 * keep, 0 * take + 1
        for j in range(w.shape[1]):
            d = slopes[m, j] + rule.decay * w[m, j]
            buffers[m, j] = keep * buffers[m, j] + take * d
            w[m, j] -= rate * (d + rule.momentum * buffers[m, j] if rule.nesterov else buffers[m, j])


@nb.njit(forceinline=True, error_model="numpy", fastmath=_REAL)
def label(rule, y, unit, draw, std, rows, first, width, target, total):  # type: ignore[no-untyped-def]
    """One step's noisy targets from unit[draw:] and rows[first:], and its noise added to the sum over all labels."""
    if rule.sampling == FULL:
        simd.add_noise(y, unit, draw, std, target, total)
        return
    if rule.sampling == NOISY_ROWS:
        for i in range(total.shape[0]):
            target[i] = y[i]
    for i in range(width):
        row, noise = rows[first + i], std * target.dtype.type(unit[draw + i])
        total[row] += rule.spread * noise
        if rule.sampling == NOISY_ROWS:
            target[row] += rule.spread * noise
        else:
            target[first + i] = y[row] + noise


@nb.njit(forceinline=True, error_model="numpy")
def extent(rule, t):  # type: ignore[no-untyped-def]
    """Where step t's rows begin in the index, and how many they are."""
    whole = rule.sampling == FULL or rule.sampling == NOISY_ROWS
    return (0, rule.rows) if whole else (t * rule.batch_size, rule.batch_size)


@nb.njit(forceinline=True, error_model="numpy")
def prepare(y, rule, w, beta, coef_block, grad, noise_block, unit, rows, target, t, std):  # type: ignore[no-untyped-def]
    """Step t's labels and coefficients; grad is 0."""
    width = rule.batch_size
    first = (t >> rule.paired) * width
    label(rule, y, unit, first, signed(rule, t, std), rows, t * width, width, target, noise_block)
    begin(rule, w, beta, coef_block, grad)


@nb.njit(forceinline=True, error_model="numpy")
def close_block(rule, state):  # type: ignore[no-untyped-def]
    """Add the partial sums to the totals; clamp weights at the floor, since denormals are slow."""
    for part, total in ((state.coef_block, state.coef_total), (state.noise_block, state.noise_total)):
        for j in range(part.shape[0]):
            total[j] += part[j]
            part[j] = 0
    for m in range(state.weights.shape[0]):
        for j in range(state.weights.shape[1]):
            w = state.weights[m, j]
            if 0 < abs(w) < rule.floor:  # a weight at 0 stays there: its column was left out
                state.weights[m, j] = np.copysign(rule.floor, w)
