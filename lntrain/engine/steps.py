"""A replica's steps in one compiled call: draw a stretch of noise, then step after step without Python.

Every loop runs in the same order wherever a chunk begins or ends, so that chunks leave no trace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from lntrain.engine import simd
from lntrain.engine.kernels import (
    DIFFERENCE,
    FULL,
    HAOCHEN,
    SQUARE,
    STRETCH,
    begin,
    by_weight,
    close_block,
    descend,
    draw,
    gradient,
    label,
    sgd,
)
from lntrain.engine.state import BLOCK
from lntrain.stream import fill_rows


class Drawn(NamedTuple):
    """Noise and rows of the steps from `start` on, flat, and room for a batch: its labels and residuals."""

    unit: Any
    rows: Any
    index: Any
    target: Any
    residual: Any


@nb.njit(error_model="numpy")
def empty(rule, n, dtype):  # type: ignore[no-untyped-def]
    """Room for a stretch of draws: (unit, rows) by step, and the same as a Drawn."""
    width = rule.batch_size
    size = max(8, min(BLOCK, STRETCH // width // 8 * 8))  # pairs of steps times the four of a Philox block
    every = 2 if rule.paired else 1  # steps that share their draws
    draws = np.zeros(size // every * width + simd.VECTOR_BYTES, np.float32)  # its last vector may reach beyond
    unit, rows = draws[: size // every * width].reshape(-1, width), np.empty((size, width), np.int64)
    index = np.arange(n) if rule.sampling == FULL or rule.sampling == HAOCHEN else rows.reshape(-1)
    room = np.empty((2, index.shape[0] + simd.VECTOR_BYTES), dtype)
    return unit, rows, Drawn(draws, rows.reshape(-1), index, room[0], room[1])


# no fastmath here or in draw: numba hands it down to what they call, and the stream's numbers would change
@nb.njit(error_model="numpy")
def refill(rule, unit, rows, n, start, key):  # type: ignore[no-untyped-def]
    """The draws of steps start.. (a multiple of 8)."""
    every = 2 if rule.paired else 1
    draw(rule, unit, start // every, key)
    if rule.sampling != FULL:
        fill_rows(rows, start, every, n, 1 if rule.sampling == HAOCHEN else rule.sampling, key)


@nb.njit(forceinline=True, error_model="numpy")
def extent(rule, n, t):  # type: ignore[no-untyped-def]
    """Where step t's rows begin in the index, and how many they are."""
    whole = rule.sampling == FULL or rule.sampling == HAOCHEN
    return (0, n) if whole else (t * rule.batch_size, rule.batch_size)


@nb.njit(forceinline=True, error_model="numpy")
def prepare(y, rule, w, beta, coef_block, grad, noise_block, unit, rows, target, t, std):  # type: ignore[no-untyped-def]
    """Step t's labels and coefficients; grad is 0."""
    shift = 1 if rule.paired else 0  # a shift, for division is slow
    if t & shift:
        std = -std  # the second of a pair
    width = rule.batch_size
    label(rule, y, unit, (t >> shift) * width, std, rows, t * width, width, target, noise_block)
    begin(rule, w, beta, coef_block, grad)


@nb.njit(forceinline=True, error_model="numpy")
def conclude(rule, w, beta, coef_block, grad, slopes, buffers, rate, first):  # type: ignore[no-untyped-def]
    """The weights move along grad, which bears the rate where the step is plain."""
    if plain(rule):
        descend(rule, w, beta, coef_block, grad)
    else:
        by_weight(rule, w, grad, slopes)
        sgd(rule, w, slopes, buffers, rate, first)


@nb.njit(forceinline=True, error_model="numpy")
def plain(rule):  # type: ignore[no-untyped-def]
    return rule.momentum == 0 and rule.decay == 0 and rule.depth == 2


# A function of its own: it takes the arrays out of their tuples once, where each time costs an atomic count
@nb.njit(nogil=True, error_model="numpy")
def _steps(X, y, rule, state, drawn, t, rates, stds, new):  # type: ignore[no-untyped-def]
    """len(rates) steps within a block; t counts steps from the first that `drawn` holds."""
    simd.widest()  # type: ignore[call-arg]
    w, buffers, coef_block, noise_block = state.weights, state.buffers, state.coef_block, state.noise_block
    beta, grad, slopes = state.room[0], state.room[1], state.room[2:]
    unit, rows, index, target, residual = drawn.unit, drawn.rows, drawn.index, drawn.target, drawn.residual
    for k in range(rates.shape[0]):
        prepare(y, rule, w, beta, coef_block, grad, noise_block, unit, rows, target, t + k, stds[k])
        scale = rule.scale * rates[k] if plain(rule) else rule.scale
        first, count = extent(rule, X.shape[0], t + k)
        gradient(X, index, first, count, beta, target, scale, residual, grad)
        conclude(rule, w, beta, coef_block, grad, slopes, buffers, rates[k], new and k == 0)


def _bare(begin: Any, descend: Any, onward: Any, single: Any) -> tuple[Any, Any]:
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
        begin(w, beta, coef_block, grad)
        for k in range(rates.shape[0]):
            std, first = -stds[k] if (t + k) & shift else stds[k], ((t + k) >> shift) * n
            simd.add_noise(y, unit, first, std, target, noise_block)
            gradient(X, index, 0, n, beta, target, rule.scale * rates[k], residual, grad)
            if k + 1 < rates.shape[0]:
                onward(w, beta, coef_block, grad)
            else:
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


_whole_difference, _one_difference = _bare(
    simd.begin_difference, simd.descend_difference, simd.onward_difference, simd.single_difference
)
_whole_square, _one_square = _bare(simd.begin_square, simd.descend_square, simd.onward_square, simd.single_square)
_whole_hadamard, _one_hadamard = _bare(
    simd.begin_hadamard, simd.descend_hadamard, simd.onward_hadamard, simd.single_hadamard
)


@nb.njit(nogil=True, error_model="numpy")
def _block(X, y, rule, state, drawn, t, rates, stds, new):  # type: ignore[no-untyped-def]
    """len(rates) steps within a block, by the leanest code that fits."""
    whole, one = rule.sampling == FULL, rule.batch_size == 1 and FULL < rule.sampling < HAOCHEN
    if not plain(rule) or not (whole or one):
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


@nb.njit(cache=True, nogil=True, error_model="numpy")
def run_steps(X, y, rule, state, key, step, drawn, rates, stds, new):  # type: ignore[no-untyped-def]
    """len(rates) steps from `step` on; `drawn` counts the optimiser's, by which noise and rows are drawn.

    rates, stds: lr and std of each step. new: no momentum buffer exists yet.
    """
    unit, rows, held = empty(rule, X.shape[0], state.weights.dtype)
    start, done, left = 0, 0, 0
    while done < rates.shape[0]:
        if left == 0:
            start = (drawn + done) // 8 * 8
            refill(rule, unit, rows, X.shape[0], start, key)
            left = start + rows.shape[0] - drawn - done
        count = min(left, BLOCK - (step + done) % BLOCK, rates.shape[0] - done)
        stop = done + count
        _block(X, y, rule, state, held, drawn + done - start, rates[done:stop], stds[done:stop], new and done == 0)
        done, left = stop, left - count
        if (step + done) % BLOCK == 0:
            close_block(rule, state)
