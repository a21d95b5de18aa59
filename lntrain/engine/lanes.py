"""Plain steps of several replicas on the whole batch: one replica per SIMD lane, X read once for all.

A replica alone loads a number of X for each product; here one number, broadcast over the lanes, serves them all.
Sums are taken in another order, so a replica equals the same run alone up to rounding, not bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba as nb
import numpy as np
from numba.core import cgutils
from numpy.typing import NDArray

from lntrain.engine import panels, simd
from lntrain.engine.drawing import Stream, draw
from lntrain.engine.formulas import formulas
from lntrain.engine.kernels import State, close_block, signed
from lntrain.engine.simd import INT, VECTOR_BYTES
from lntrain.engine.state import BLOCK
from lntrain.engine.steps import chunks, piece, stretch
from lntrain.noise.compiled import compiled

TOGETHER = 8  # columns of X whose gradients, and rows whose products, are summed in registers at a time


def count(itemsize: int) -> int:
    """How many replicas run together: one per lane."""
    return VECTOR_BYTES // itemsize


def pack(X: NDArray[Any]) -> NDArray[Any]:
    """X (n, d) as (panels, rows, TOGETHER columns), filled up with zeros."""
    n, d = X.shape
    rows, panels = -(-n // TOGETHER) * TOGETHER, -(-d // TOGETHER)
    filled = np.zeros((rows, panels * TOGETHER), X.dtype)
    filled[:n, :d] = X
    out = simd.aligned((panels, rows, TOGETHER), X.dtype)
    out[:] = filled.reshape(rows, panels, TOGETHER).swapaxes(0, 1)
    return out


@simd.emits
def _panel(e, parametrisation, X, p, w, total, beta, factor, moves, meets, residual) -> None:  # type: ignore[no-untyped-def]
    """End one step and begin the next for the columns of panel p.

    With `moves`, their weights step along factor X^T residual. With `meets`, their beta is stored and added to its sum.
    """
    builder, rows, own = e.builder, e.length(X, 1), formulas(parametrisation)
    x = builder.gep(X.data, [builder.mul(p, builder.mul(rows, INT(TOGETHER)))])
    left = builder.mul(p, INT(TOGETHER * e.lanes))
    at = e.weights(own.weights, w, left)
    with builder.if_then(moves):
        panels.step_weights(e, own, at, _grads(e, x, rows, residual.data), e.load(factor.data, INT(0)))
    with builder.if_then(meets):
        now = panels.coefficients(e, own, at, builder.gep(total.data, [left]), TOGETHER)
        for c, value in enumerate(now):
            e.store(value, beta.data, builder.add(left, INT(c * e.lanes)))


def _add(e: Any, sums: Sequence[Any], x: Any, places: Sequence[Any], vector: Any) -> None:
    """sums_k += x[place_k] vector."""
    for total, place in zip(sums, places, strict=True):
        number = e.splat(e.number(x, place))
        e.builder.store(e.fma(e.builder.load(total), number, vector), total)


def _grads(e: Any, x: Any, rows: Any, residual: Any) -> list[Any]:
    """X^T residual of a panel's columns."""
    builder, sums = e.builder, e.zeros(TOGETHER)
    with cgutils.for_range_slice(builder, INT(0), rows, INT(4), INT) as (first, _):
        for i in (builder.add(first, INT(k)) for k in range(4)):
            base = builder.mul(i, INT(TOGETHER))
            places = [builder.add(base, INT(c)) for c in range(TOGETHER)]
            _add(e, sums, x, places, e.load(residual, builder.mul(i, INT(e.lanes))))
    return [builder.load(total) for total in sums]


@simd.emits
def _products(e, X, i, beta, target, ahead) -> None:  # type: ignore[no-untyped-def]
    """ahead = X beta - target of the rows i.. of X."""
    builder, sums = e.builder, e.zeros(TOGETHER)
    with cgutils.for_range_slice(builder, INT(0), e.length(X, 0), INT(1), INT) as (p, _):
        base = builder.mul(builder.add(builder.mul(p, e.length(X, 1)), i), INT(TOGETHER))
        for c in range(TOGETHER):
            places = [builder.add(base, INT(r * TOGETHER + c)) for r in range(TOGETHER)]
            column = builder.add(builder.mul(p, INT(TOGETHER)), INT(c))
            _add(e, sums, X.data, places, e.load(beta.data, builder.mul(column, INT(e.lanes))))
    for r, total in enumerate(sums):
        row = builder.mul(builder.add(i, INT(r)), INT(e.lanes))
        e.store(builder.fsub(builder.load(total), e.load(target.data, row)), ahead.data, row)


@nb.njit(error_model="numpy")
def _label(y, units, first, std, target, total):  # type: ignore[no-untyped-def]
    """target = y + std units[:, first:], total += std units[:, first:], in lanes."""
    lanes = units.shape[0]
    for i in range(y.shape[0]):
        for r in range(lanes):
            noise = std[r] * std.dtype.type(units[r, first + i])
            total[i * lanes + r] += noise
            target[i * lanes + r] = y[i] + noise


@nb.njit(nogil=True, error_model="numpy")
def _block(X, y, rule, scales, state, units, room, t, rates, stds):  # type: ignore[no-untyped-def]
    """len(rates) steps within a block, from step t of the stretch whose noise is in units (lanes, draws)."""
    simd.widest()  # type: ignore[call-arg]
    w, total, noise_block, beta = state.weights, state.coef_block, state.noise_block, state.room[0]
    target, now, ahead, factor, std = room[0], room[1], room[2], np.empty_like(scales), np.empty_like(scales)
    steps = rates.shape[0]
    for k in range(steps + 1):  # step k - 1 ends and step k begins
        for r in range(scales.shape[0]):
            factor[r] = scales[r] * rates[max(k, 1) - 1]
            std[r] = signed(rule, t + k, stds[min(k, steps - 1), r])
        if k < steps:
            _label(y, units, ((t + k) >> rule.paired) * y.shape[0], std, target, noise_block)
        for p in range(X.shape[0]):
            _panel(rule.parametrisation, X, p, w, total, beta, factor, k > 0, k < steps, now)
        if k < steps:
            for i in range(0, X.shape[1], TOGETHER):
                _products(X, i, beta, target, ahead)
        now, ahead = ahead, now


@compiled(nogil=True, error_model="numpy")
def _run(X, y, rule, scales, keys, stream, state, step, drawn, total, rates, stds):  # type: ignore[no-untyped-def]
    """`total` steps from `step` on, as steps.run_steps; scales and keys (lanes,), stds (steps, lanes).

    stream: of the first of them, whose key is not read.
    """
    n, lanes, size = y.shape[0], keys.shape[0], stretch(y.shape[0])
    units = np.zeros((lanes, (size >> rule.paired) * n), np.float32)
    room = np.zeros((3, X.shape[1] * lanes), X.dtype)
    for done, count, t in chunks(step, drawn, total, size):
        if done == 0 or t == 0:
            for r in range(lanes):
                own = Stream(keys[r], stream.noise, stream.rows)
                draw(own, units[r], size >> rule.paired, n, (drawn + done - t) >> rule.paired)
        lr, std = piece(rates, done, count), piece(stds, done, count)
        _block(X, y, rule, scales, state, units, room, t, lr, std)
        if (step + done + count) % BLOCK == 0:
            close_block(rule, state)


def run_steps(
    X: Any, y: Any, replicas: Sequence[tuple[Any, Any, Any, Any]], step: int, drawn: int, total: int, rates: Any
) -> None:
    """As steps.run_steps for as many replicas (rule, state, stream, stds) as a vector has lanes, X packed."""
    rules, states, streams, stds = zip(*replicas, strict=True)
    columns, rows = X.shape[0] * TOGETHER, X.shape[1]
    sizes = {"weights": columns, "coef_block": columns, "coef_total": columns, "noise_block": rows, "noise_total": rows}
    held = {name: _interleaved([getattr(state, name)[..., :size] for state in states]) for name, size in sizes.items()}
    room = simd.aligned((1, columns * len(states)), X.dtype)
    scales = np.array([rule.scale for rule in rules], X.dtype)
    keys = np.array([stream.key for stream in streams])
    state = State(buffers=room, room=room, **held)
    _run(X, y, rules[0], scales, keys, streams[0], state, step, drawn, total, rates, np.stack(stds, -1))
    for name, size in sizes.items():
        parts = held[name].reshape(*held[name].shape[:-1], size, len(states))
        for r, own in enumerate(states):
            getattr(own, name)[..., :size] = parts[..., r]


def _interleaved(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """(..., size) each -> (..., size * lanes), the lane index varying fastest."""
    *outer, size = arrays[0].shape
    out = simd.aligned((*outer, size * len(arrays)), arrays[0].dtype)
    out[:] = np.stack(arrays, -1).reshape(out.shape)
    return out
