"""A replica's steps in one compiled call: draw a stretch of noise, then step after step without Python.

Every loop runs in the same order wherever a chunk begins or ends, so that chunks leave no trace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from lntrain.engine import panels, simd, singles
from lntrain.engine.kernels import (
    DIFFERENCE,
    FULL,
    NOISY_ROWS,
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
from lntrain.noise.compiled import compiled
from lntrain.noise.philox import fill_rows


class Drawn(NamedTuple):
    """Noise and rows of the steps from `start` on, flat, and room for a batch: its labels, its residuals and the next step's."""

    unit: Any
    rows: Any
    index: Any
    target: Any
    residual: Any
    ahead: Any


@nb.njit(error_model="numpy")
def stretch(width):  # type: ignore[no-untyped-def]
    """How many steps of `width` numbers are drawn at a time: a multiple of pairs of steps times the four of a Philox block."""
    return max(8, min(BLOCK, STRETCH // width // 8 * 8))


@nb.njit(error_model="numpy")
def empty(rule, n, dtype):  # type: ignore[no-untyped-def]
    """Room for a stretch of draws: (unit, rows) by step, and the same as a Drawn."""
    width = rule.batch_size
    size = stretch(width)
    every = 2 if rule.paired else 1  # steps that share their draws
    draws = np.zeros(size // every * width + simd.VECTOR_BYTES, np.float32)  # its last vector may reach beyond
    unit, rows = draws[: size // every * width].reshape(-1, width), np.empty((size, width), np.int64)
    index = np.arange(n) if rule.sampling == FULL or rule.sampling == NOISY_ROWS else rows.reshape(-1)
    room = np.zeros((3, index.shape[0] + simd.VECTOR_BYTES), dtype)
    return unit, rows, Drawn(draws, rows.reshape(-1), index, room[0], room[1], room[2])


# no fastmath here or in draw: numba hands it down to what they call, and the stream's numbers would change
@nb.njit(error_model="numpy")
def refill(rule, unit, rows, n, start, key):  # type: ignore[no-untyped-def]
    """The draws of steps start.. (a multiple of 8)."""
    every = 2 if rule.paired else 1
    draw(rule, unit, start // every, key)
    if rule.sampling != FULL:
        fill_rows(rows, start, every, n, 1 if rule.sampling == NOISY_ROWS else rule.sampling, key)


@nb.njit(error_model="numpy")
def piece(values, first, count):  # type: ignore[no-untyped-def]
    """Those of the steps first..first+count-1, of an array of all steps or of one block that serves for all."""
    first = first if first + count <= values.shape[0] else 0
    return values[first : first + count]


@nb.njit(forceinline=True, error_model="numpy")
def extent(rule, n, t):  # type: ignore[no-untyped-def]
    """Where step t's rows begin in the index, and how many they are."""
    whole = rule.sampling == FULL or rule.sampling == NOISY_ROWS
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


def _bare(begin: Any, descend: Any, onward: Any) -> Any:
    """Plain steps of one parametrisation on the whole batch.

    Compiled apart for each: the choices that `_steps` makes at each step cost as much as a short step.
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

    return whole


_difference = _bare(simd.begin_difference, simd.descend_difference, simd.onward_difference)
_square = _bare(simd.begin_square, simd.descend_square, simd.onward_square)
_hadamard = _bare(simd.begin_hadamard, simd.descend_hadamard, simd.onward_hadamard)


@nb.njit(nogil=True, error_model="numpy")
def _block(X, vectors, y, rule, state, drawn, t, rates, stds, new):  # type: ignore[no-untyped-def]
    """len(rates) steps within a block, by the leanest code that fits."""
    if X.ndim == 3:
        panels.block(X, vectors, y, rule, state, drawn, t, rates, stds)
    elif rule.general:
        _steps(X, y, rule, state, drawn, t, rates, stds, new)
    elif len(vectors) > 0 or (plain(rule) and rule.batch_size == 1 and FULL < rule.sampling < NOISY_ROWS):
        singles.block(X, vectors, y, rule, state, drawn, t, rates, stds)
    elif not plain(rule) or rule.sampling != FULL:
        _steps(X, y, rule, state, drawn, t, rates, stds, new)
    elif rule.parametrisation == DIFFERENCE:
        _difference(X, y, rule, state, drawn, t, rates, stds)
    elif rule.parametrisation == SQUARE:
        _square(X, y, rule, state, drawn, t, rates, stds)
    else:
        _hadamard(X, y, rule, state, drawn, t, rates, stds)


@compiled(nogil=True, error_model="numpy")
def run_steps(X, vectors, y, rule, state, key, step, drawn, total, rates, stds, new):  # type: ignore[no-untyped-def]
    """`total` steps from `step` on; `drawn` counts the optimiser's, by which noise and rows are drawn.

    vectors: as many zeros as a panel has vectors where X is one of panels, or as registers keep on single rows.
    rates, stds: lr and std of each step, or of one block for all. new: no momentum buffer exists yet.
    """
    n = rule.batch_size if X.ndim == 3 else X.shape[0]
    unit, rows, held = empty(rule, n, state.weights.dtype)
    start, done, left = 0, 0, 0
    while done < total:
        if left == 0:
            start = (drawn + done) // 8 * 8
            refill(rule, unit, rows, n, start, key)
            left = start + rows.shape[0] - drawn - done
        count = min(left, BLOCK - (step + done) % BLOCK, total - done)
        lr, std, fresh = piece(rates, done, count), piece(stds, done, count), new and done == 0
        _block(X, vectors, y, rule, state, held, drawn + done - start, lr, std, fresh)
        done, left = done + count, left - count
        if (step + done) % BLOCK == 0:
            close_block(rule, state)
