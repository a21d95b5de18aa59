"""Plain steps of several replicas on the whole batch: a network in each lane of a vector, X read once for all.

A network alone loads a number of X for each product; here one number, spread over the lanes, serves them all.
Sums run in an order of their own, so a replica equals the same run alone up to rounding, not bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba as nb
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from lntrain.engine import panels, simd
from lntrain.engine.kernels import DIFFERENCE, SQUARE, State, close_block, draw
from lntrain.engine.simd import INT, VECTOR_BYTES, Emitter
from lntrain.engine.state import BLOCK
from lntrain.engine.steps import piece, stretch
from lntrain.noise.compiled import compiled

TOGETHER = 8  # columns of X whose gradients, and rows whose products, are summed in registers at a time


def count(itemsize: int) -> int:
    """How many replicas run together: one a lane."""
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


def _panel(formulas: simd.Formulas) -> Any:
    """An intrinsic for the columns of one panel p.

    If `move`, their weights step along factor X^T residual. If `meet`, their beta is stored and joins its sum.
    """

    @intrinsic
    def panel(typing_context, X, p, w, total, beta, factor, move, meet, residual):  # type: ignore[no-untyped-def]
        signature = types.none(X, types.intp, w, total, beta, factor, types.boolean, types.boolean, residual)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = [context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 2, 3, 4, 5, 8)]
            whole, weights, sums, betas, factor, residual = arrays
            rows = builder.extract_value(whole.shape, 1)
            e = Emitter(builder, context.get_value_type(X.dtype), None)
            x = builder.gep(whole.data, [builder.mul(args[1], builder.mul(rows, INT(TOGETHER)))])
            left = builder.mul(args[1], INT(TOGETHER * e.lanes))
            starts = (left, builder.add(left, builder.extract_value(weights.shape, 1)))
            at = {name: builder.gep(weights.data, [k]) for name, k in zip(formulas.weights, starts, strict=False)}
            with builder.if_then(args[6]):
                panels.step_weights(e, formulas, at, _grads(e, x, rows, residual.data), e.load(factor.data, INT(0)))
            with builder.if_then(args[7]):
                now = panels.coefficients(e, formulas, at, builder.gep(sums.data, [left]), TOGETHER)
                for c, value in enumerate(now):
                    e.store(value, betas.data, builder.add(left, INT(c * e.lanes)))
            return context.get_dummy_value()

        return signature, codegen

    return panel


def _zeros(e: Any) -> list[Any]:
    """Places for sums that start at 0 here."""
    places = [cgutils.alloca_once(e.builder, e.vector) for _ in range(TOGETHER)]
    for place in places:
        e.builder.store(e.vector(None), place)
    return places


def _add(e: Any, sums: Sequence[Any], x: Any, places: Sequence[Any], vector: Any) -> None:
    """sums_k += x[place_k] vector."""
    for total, place in zip(sums, places, strict=True):
        number = e.splat(e.builder.load(e.builder.gep(x, [place])), e.lanes)
        e.builder.store(e.fma(e.builder.load(total), number, vector), total)


def _grads(e: Any, x: Any, rows: Any, residual: Any) -> list[Any]:
    """X^T residual of a panel's columns."""
    builder, sums = e.builder, _zeros(e)
    with cgutils.for_range_slice(builder, INT(0), rows, INT(4), INT) as (first, _):
        for i in (builder.add(first, INT(k)) for k in range(4)):
            base = builder.mul(i, INT(TOGETHER))
            places = [builder.add(base, INT(c)) for c in range(TOGETHER)]
            _add(e, sums, x, places, e.load(residual, builder.mul(i, INT(e.lanes))))
    return [builder.load(total) for total in sums]


@intrinsic
def _products(typing_context, X, i, beta, target, ahead):  # type: ignore[no-untyped-def]
    """ahead = X beta - target of the rows i.. of X."""
    signature = types.none(X, types.intp, beta, target, ahead)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = [context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 2, 3, 4)]
        whole, beta, target, ahead = arrays
        many, rows = (builder.extract_value(whole.shape, axis) for axis in (0, 1))
        e = Emitter(builder, context.get_value_type(X.dtype), None)
        sums = _zeros(e)
        with cgutils.for_range_slice(builder, INT(0), many, INT(1), INT) as (p, _):
            base = builder.mul(builder.add(builder.mul(p, rows), args[1]), INT(TOGETHER))
            for c in range(TOGETHER):
                places = [builder.add(base, INT(r * TOGETHER + c)) for r in range(TOGETHER)]
                column = builder.add(builder.mul(p, INT(TOGETHER)), INT(c))
                _add(e, sums, whole.data, places, e.load(beta.data, builder.mul(column, INT(e.lanes))))
        for r, total in enumerate(sums):
            row = builder.mul(builder.add(args[1], INT(r)), INT(e.lanes))
            error = builder.fsub(builder.load(total), e.load(target.data, row))
            e.store(error, ahead.data, row)
        return context.get_dummy_value()

    return signature, codegen


@nb.njit(error_model="numpy")
def _label(y, units, first, std, target, total):  # type: ignore[no-untyped-def]
    """target = y + std units[:, first:], total += std units[:, first:], in lanes."""
    lanes = units.shape[0]
    for i in range(y.shape[0]):
        for r in range(lanes):
            noise = std[r] * std.dtype.type(units[r, first + i])
            total[i * lanes + r] += noise
            target[i * lanes + r] = y[i] + noise


def _steps(formulas: simd.Formulas) -> Any:
    """Plain steps of one parametrisation."""
    panel = _panel(formulas)

    @nb.njit(nogil=True, error_model="numpy")
    def run(X, y, rule, scales, state, units, room, t, rates, stds):  # type: ignore[no-untyped-def]
        simd.widest()  # type: ignore[call-arg]
        w, total, noise_block, beta = state.weights, state.coef_block, state.noise_block, state.room[0]
        target, now, ahead, factor, std = room[0], room[1], room[2], np.empty_like(scales), np.empty_like(scales)
        shift, steps = 1 if rule.paired else 0, rates.shape[0]
        for k in range(steps + 1):  # step k - 1 ends and step k begins
            for r in range(scales.shape[0]):
                factor[r] = scales[r] * rates[max(k, 1) - 1]
                std[r] = stds[min(k, steps - 1), r] * (1 - 2 * ((t + k) & shift))
            if k < steps:
                _label(y, units, ((t + k) >> shift) * y.shape[0], std, target, noise_block)
            for p in range(X.shape[0]):
                panel(X, p, w, total, beta, factor, k > 0, k < steps, now)
            if k < steps:
                for i in range(0, X.shape[1], TOGETHER):
                    _products(X, i, beta, target, ahead)
            now, ahead = ahead, now

    return run


_difference, _square, _hadamard = _steps(simd.DIFFERENCE), _steps(simd.SQUARE), _steps(simd.HADAMARD)


@compiled(nogil=True, error_model="numpy")
def _run(X, y, rule, scales, keys, state, step, drawn, total, rates, stds):  # type: ignore[no-untyped-def]
    """`total` steps from `step` on, as steps.run_steps; scales and keys (lanes,), stds (steps, lanes)."""
    n, lanes, every = y.shape[0], keys.shape[0], 2 if rule.paired else 1
    size = stretch(n)
    units = np.zeros((lanes, size // every * n), np.float32)
    room = np.zeros((3, X.shape[1] * lanes), X.dtype)
    start, done, left = 0, 0, 0
    while done < total:
        if left == 0:
            start = (drawn + done) // 8 * 8
            for r in range(lanes):
                draw(rule, units[r].reshape(-1, n), start // every, keys[r])
            left = start + size - drawn - done
        count = min(left, BLOCK - (step + done) % BLOCK, total - done)
        lr, std = piece(rates, done, count), piece(stds, done, count)
        if rule.parametrisation == DIFFERENCE:
            _difference(X, y, rule, scales, state, units, room, drawn + done - start, lr, std)
        elif rule.parametrisation == SQUARE:
            _square(X, y, rule, scales, state, units, room, drawn + done - start, lr, std)
        else:
            _hadamard(X, y, rule, scales, state, units, room, drawn + done - start, lr, std)
        done, left = done + count, left - count
        if (step + done) % BLOCK == 0:
            close_block(rule, state)


def run_steps(
    X: Any, y: Any, replicas: Sequence[tuple[Any, Any, Any, Any]], step: int, drawn: int, total: int, rates: Any
) -> None:
    """As steps.run_steps for as many replicas (rule, state, key, stds) as a vector has lanes, X packed."""
    rules, states, keys, stds = zip(*replicas, strict=True)
    columns, rows = X.shape[0] * TOGETHER, X.shape[1]
    sizes = {"weights": columns, "coef_block": columns, "coef_total": columns, "noise_block": rows, "noise_total": rows}
    held = {name: _interleaved([getattr(state, name)[..., :size] for state in states]) for name, size in sizes.items()}
    room = simd.aligned((1, columns * len(states)), X.dtype)
    scales = np.array([rule.scale for rule in rules], X.dtype)
    state = State(buffers=room, room=room, **held)
    _run(X, y, rules[0], scales, np.array(keys), state, step, drawn, total, rates, np.stack(stds, -1))
    for name, size in sizes.items():
        parts = held[name].reshape(*held[name].shape[:-1], size, len(states))
        for r, own in enumerate(states):
            getattr(own, name)[..., :size] = parts[..., r]


def _interleaved(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """(..., size) each -> (..., size * lanes), that of the first lane first."""
    *outer, size = arrays[0].shape
    out = simd.aligned((*outer, size * len(arrays)), arrays[0].dtype)
    out[:] = np.stack(arrays, -1).reshape(out.shape)
    return out
