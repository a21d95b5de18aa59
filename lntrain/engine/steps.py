"""A replica's steps in one compiled call: draw the noise of a stretch of steps, then run them without Python.

Every loop runs in the same order wherever a chunk begins or ends, so that chunks do not change results.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numba.extending import overload

from lntrain.engine import adaptive, panels, simd, single_row, sparse
from lntrain.engine.drawing import draw, draw_rows
from lntrain.engine.kernels import (
    FULL,
    NOISY_ROWS,
    STRETCH,
    by_weight,
    close_block,
    extent,
    gradient,
    plain,
    prepare,
    sgd,
    signed,
)
from lntrain.engine.state import BLOCK
from lntrain.noise.compiled import compiled


class General(NamedTuple):
    """X by rows, for every rule."""

    X: Any


class Whole(NamedTuple):
    """X by rows, for plain steps on all of them."""

    X: Any


class Drawn(NamedTuple):
    """Noise and rows of a stretch of steps, flat; memory for a batch's labels, its residuals and the next step's."""

    unit: Any
    rows: Any
    index: Any
    target: Any
    residual: Any
    ahead: Any


@nb.njit(error_model="numpy")
def stretch(width):  # type: ignore[no-untyped-def]
    """How many steps of `width` numbers are drawn at a time: a multiple of 8, four pairs to a Philox block."""
    return max(8, min(BLOCK, STRETCH // width // 8 * 8))


@nb.njit(error_model="numpy")
def chunks(step, drawn, total, size):  # type: ignore[no-untyped-def]
    """(done, count, t): the next `count` of `total` steps, within a block of sums and a stretch of `size` draws.

    They start at step t of their stretch, which must be drawn where `done` or `t` is 0.
    """
    done = np.int64(0)  # for a literal numba would compile what it is handed to once more
    while done < total:
        t = (drawn + done) % size
        count = min(size - t, BLOCK - (step + done) % BLOCK, total - done)
        yield done, count, t
        done += count


def empty(rule: Any, dtype: Any) -> Drawn:
    """Memory for a stretch of draws."""
    width = rule.batch_size
    size = stretch.py_func(width)
    index = np.arange(rule.rows) if rule.sampling in (FULL, NOISY_ROWS) else None
    rows = np.zeros(1 if rule.sampling == FULL else size * width, np.int64)
    room = np.zeros((3, (rows if index is None else index).shape[0] + simd.VECTOR_BYTES), dtype)
    unit = np.zeros((size >> rule.paired) * width + simd.VECTOR_BYTES, np.float32)  # its last vector may reach beyond
    return Drawn(unit, rows, rows if index is None else index, room[0], room[1], room[2])


@nb.njit(error_model="numpy")
def refill(rule, drawn, size, start, stream):  # type: ignore[no-untyped-def]
    """Draw the noise and rows of a stretch of `size` steps that begins at step `start` (a multiple of 8)."""
    width = rule.batch_size
    draw(stream, drawn.unit, size >> rule.paired, width, start >> rule.paired)
    draw_rows(stream, drawn.rows, size, width, start, rule.paired, rule.rows, rule.sampling)


@nb.njit(error_model="numpy")
def piece(values, first, count):  # type: ignore[no-untyped-def]
    """The values of steps first..first+count-1, from an array of all steps or from one block that serves for all."""
    first = first if first + count <= values.shape[0] else 0
    return values[first : first + count]


@nb.njit(forceinline=True, error_model="numpy")
def conclude(rule, w, beta, coef_block, grad, slopes, buffers, rate, first):  # type: ignore[no-untyped-def]
    """Move the weights along grad, which already contains the rate where the step is plain."""
    if plain(rule):
        simd.descend(rule.parametrisation, w, beta, coef_block, grad)
    else:
        by_weight(rule, w, grad, slopes)
        sgd(rule, w, slopes, buffers, rate, first)


# A separate function: it takes the arrays out of their tuples once, as each time costs an atomic reference count
@nb.njit(nogil=True, error_model="numpy")
def _general(read, y, rule, state, drawn, t, rates, stds, made):  # type: ignore[no-untyped-def]
    """len(rates) steps within a block; t counts steps from the first that `drawn` holds."""
    simd.widest()  # type: ignore[call-arg]
    w, buffers, coef_block, noise_block = state.weights, state.buffers, state.coef_block, state.noise_block
    beta, grad, slopes = state.room[0], state.room[1], state.room[2:]
    unit, rows, index, target, residual = drawn.unit, drawn.rows, drawn.index, drawn.target, drawn.residual
    X = read.X
    for k in range(rates.shape[0]):
        prepare(y, rule, w, beta, coef_block, grad, noise_block, unit, rows, target, t + k, stds[k])
        scale = rule.scale * rates[k] if plain(rule) else rule.scale
        first, count = extent(rule, t + k)
        gradient(X, index, first, count, beta, target, scale, residual, grad)
        conclude(rule, w, beta, coef_block, grad, slopes, buffers, rates[k], made + k == 0)


@nb.njit(nogil=True, error_model="numpy")
def _whole(read, y, rule, state, drawn, t, rates, stds, made):  # type: ignore[no-untyped-def]
    """As `_general`, for plain steps on the whole batch: its branches cost as much as a short step."""
    simd.widest()  # type: ignore[call-arg]
    w, coef_block, noise_block = state.weights, state.coef_block, state.noise_block
    beta, grad = state.room[0], state.room[1]
    unit, index, target, residual = drawn.unit, drawn.index, drawn.target, drawn.residual
    X, kind = read.X, rule.parametrisation
    n = rule.rows
    simd.begin(kind, w, beta, coef_block, grad)
    for k in range(rates.shape[0]):
        simd.add_noise(y, unit, ((t + k) >> rule.paired) * n, signed(rule, t + k, stds[k]), target, noise_block)
        gradient(X, index, 0, n, beta, target, rule.scale * rates[k], residual, grad)
        if k + 1 < rates.shape[0]:
            simd.onward(kind, w, beta, coef_block, grad)
        else:
            simd.descend(kind, w, beta, coef_block, grad)


BLOCKS = {
    General: _general,
    Whole: _whole,
    panels.Panels: panels.block,
    single_row.SingleRow: single_row.block,
    sparse.Sparse: sparse.block,
    adaptive.Adaptive: adaptive.block,
}


def _block(read: Any, y: Any, rule: Any, state: Any, drawn: Any, t: Any, rates: Any, stds: Any, made: Any) -> None:
    """len(rates) steps within a block, by the code for how X is read."""
    BLOCKS[type(read)](read, y, rule, state, drawn, t, rates, stds, made)


@overload(_block)
def _compiled_block(read, y, rule, state, drawn, t, rates, stds, made):  # type: ignore[no-untyped-def]
    chosen = BLOCKS[read.instance_class]
    return lambda read, y, rule, state, drawn, t, rates, stds, made: chosen(
        read, y, rule, state, drawn, t, rates, stds, made
    )


@compiled(nogil=True, error_model="numpy")
def run_steps(read, y, rule, state, held, stream, step, drawn, total, rates, stds, made):  # type: ignore[no-untyped-def]
    """Run `total` steps from `step` on; `drawn` is the optimiser's step count, which indexes noise and rows.

    read: X in the layout of a path, one of BLOCKS. held: memory of `empty`. stream: of drawing.stream_of.
    rates, stds: lr and std of each step, or of one block for all. made: steps of the optimiser before; 0 if its buffers
    do not exist yet.
    """
    size = stretch(rule.batch_size)
    for done, count, t in chunks(step, drawn, total, size):
        if done == 0 or t == 0:
            refill(rule, held, size, drawn + done - t, stream)
        lr, std = piece(rates, done, count), piece(stds, done, count)
        _block(read, y, rule, state, held, t, lr, std, made + done)
        if (step + done + count) % BLOCK == 0:
            close_block(rule, state)
