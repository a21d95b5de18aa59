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
    add_noise,
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
        label(rule, y, unit, ((t + k) >> shift) * width, std, rows, first, width, target, noise_block)
        begin(rule, w, beta, coef_block, grad)
        scale = rule.scale * rate if plain else rule.scale
        gradient(X, index, 0 if whole else first, n if whole else width, beta, target, scale, residual, grad)
        if plain:
            descend(rule, w, beta, coef_block, grad)
        else:
            by_weight(rule, w, grad, slopes)
            sgd(rule, w, slopes, buffers, rate, new and k == 0)


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
            add_noise(y, unit[first : first + n], std, target, noise_block)
            begin(w, beta, coef_block, grad)
            gradient(X, index, 0, n, beta, target, rule.scale * rates[k], residual, grad)
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


# no fastmath here or in draw: numba hands it down to what they call, and the stream's numbers would change
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
            draw(rule, unit, start // every, key)
            if rule.sampling != FULL:
                fill_rows(rows, start, every, n, 1 if rule.sampling == HAOCHEN else rule.sampling, key)
            left = start + size - drawn - done
        count = min(left, BLOCK - (step + done) % BLOCK, rates.shape[0] - done)
        stop = done + count
        _block(X, y, rule, state, held, drawn + done - start, rates[done:stop], stds[done:stop], new and done == 0)
        done, left = stop, left - count
        if (step + done) % BLOCK == 0:
            close_block(rule, state)
