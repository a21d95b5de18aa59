"""Plain steps on one row each: the move along a row and the product with the next in one pass over the weights.

Weights of few vectors stay in registers from step to step; others are loaded and stored once a step.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numba as nb
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from lntrain.engine import simd
from lntrain.engine.kernels import DIFFERENCE, SQUARE
from lntrain.engine.simd import INT, VECTOR_BYTES, Emitter

MOST = 9  # vectors of u, v and the sum of beta that 32 registers hold, with room to work
CHAINS = 2  # of additions in a product: one would wait for itself


def width(d: int, itemsize: int) -> int:
    """How many vectors of weights registers keep; 0 where they are too many."""
    vectors = -(-d * itemsize // VECTOR_BYTES)
    return vectors if vectors <= MOST else 0


class _Columns:
    """u, v and the sum of beta by vectors of columns: in registers from the beginning to `close`, or in memory."""

    def __init__(self, e: Emitter, bases: dict[str, Any], many: int) -> None:
        self.e, self.bases, self.many = e, bases, many
        empty = ir.Constant(e.vector, None)
        self.held = [{name: cgutils.alloca_once_value(e.builder, empty) for name in bases} for _ in range(many)]
        self._exchange(opening=True)

    def each(self, body: Any) -> None:
        """body(offset, load of X, places) for each vector of columns."""
        if self.many:
            for k, places in enumerate(self.held):
                body(INT(k * self.e.lanes), self.e.load, places)
        else:
            self.e.each_vector(lambda j, load: body(j, load, self._memory(j)), copies=CHAINS)

    def close(self) -> None:
        """What registers hold goes back to memory."""
        self._exchange(opening=False)

    def _memory(self, j: Any) -> dict[str, Any]:
        return {name: self.e.at(base, j, self.e.vector) for name, base in self.bases.items()}

    def _exchange(self, *, opening: bool) -> None:
        builder, size = self.e.builder, self.e.size
        for k, places in enumerate(self.held):
            for name, memory in self._memory(INT(k * self.e.lanes)).items():
                source, goal = (memory, places[name]) if opening else (places[name], memory)
                builder.store(builder.load(source, align=size), goal, align=size)


class _Walk:
    """From row to row: `X` and its `rows` by step, `targets`, and `factors` of their errors."""

    def __init__(self, e: Emitter, formulas: simd.Formulas, columns: _Columns, **arrays: Any) -> None:
        self.e, self.formulas, self.columns, self.arrays = e, formulas, columns, arrays
        self.zero = ir.Constant(e.vector, None)
        self.dots = [cgutils.alloca_once_value(e.builder, self.zero) for _ in range(CHAINS)]

    def sweep(self, old: Any = None, new: Any = None) -> None:
        """Move along the row of step `old`, then meet that of step `new`."""
        builder, e = self.e.builder, self.e
        along = None if old is None else self._slope(old)
        behind, ahead = (None if step is None else self._row(step) for step in (old, new))
        chain = cycle(self.dots)

        def body(j: Any, load: Any, places: dict[str, Any]) -> None:
            now = {name: builder.load(place, align=e.size) for name, place in places.items()}
            if along is not None:
                grad = builder.fmul(along, load(self.arrays["X"], builder.add(behind, j)))
                now |= self.formulas.step(e, now["u"], now.get("v"), grad)
            if ahead is not None:
                beta, dot = self.formulas.beta(e, now["u"], now.get("v")), next(chain)
                now["total"] = builder.fadd(now["total"], beta)
                row = load(self.arrays["X"], builder.add(ahead, j))
                builder.store(e.fma(builder.load(dot), row, beta), dot)
            for name, place in places.items():
                builder.store(now[name], place, align=e.size)

        self.columns.each(body)

    def _row(self, step: Any) -> Any:
        return self.e.builder.mul(self.e.builder.load(self.e.builder.gep(self.arrays["rows"], [step])), self.e.width)

    def _slope(self, step: Any) -> Any:
        """factor (product - target) in all lanes; the product starts anew."""
        builder, e = self.e.builder, self.e
        product = simd.totals(builder, [builder.fadd(*(builder.load(dot) for dot in self.dots))])
        target, factor = (e.load(self.arrays[name], step, product.type) for name in ("targets", "factors"))
        for dot in self.dots:
            builder.store(self.zero, dot)
        error = builder.fmul(builder.fsub(product, target), factor)
        return e.splat(builder.extract_element(error, INT(0)), e.lanes)


def _stretch(formulas: simd.Formulas) -> Any:
    """An intrinsic for the steps first..last-1, at least one, of a parametrisation."""

    @intrinsic
    def stretch(typing_context, vectors, w, total, X, rows, target, factor, first, last):  # type: ignore[no-untyped-def]
        signature = types.none(vectors, w, total, X, rows, target, factor, types.intp, types.intp)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            weights, sums, *rest = (
                context.make_array(signature.args[n])(context, builder, args[n]) for n in range(1, 7)
            )
            e = Emitter(builder, context.get_value_type(w.dtype), builder.extract_value(rest[0].shape, 1))
            count, wide = (builder.extract_value(weights.shape, axis) for axis in (0, 1))
            ends = weights.data, builder.gep(weights.data, [builder.mul(builder.sub(count, INT(1)), wide)])
            columns = _Columns(e, dict(zip(formulas.weights, ends, strict=False)) | {"total": sums.data}, len(vectors))
            names = ("X", "rows", "targets", "factors")
            walk = _Walk(e, formulas, columns, **{name: a.data for name, a in zip(names, rest, strict=True)})
            final = builder.sub(args[8], INT(1))
            walk.sweep(new=args[7])
            with cgutils.for_range_slice(builder, args[7], final, INT(1), INT) as (i, _):
                walk.sweep(i, builder.add(i, INT(1)))
            walk.sweep(final)
            columns.close()
            return context.get_dummy_value()

        return signature, codegen

    return stretch


_difference, _square, _hadamard = _stretch(simd.DIFFERENCE), _stretch(simd.SQUARE), _stretch(simd.HADAMARD)


@nb.njit(nogil=True, error_model="numpy")
def block(X, vectors, y, rule, state, drawn, t, rates, stds):  # type: ignore[no-untyped-def]
    """len(rates) steps within a block."""
    simd.widest()  # type: ignore[call-arg]
    w, coef_block, noise_block = state.weights, state.coef_block, state.noise_block
    unit, rows, target, factor, shift = drawn.unit, drawn.rows, drawn.target, drawn.residual, 1 if rule.paired else 0
    last = t + rates.shape[0]
    for k in range(rates.shape[0]):  # apart from the next loop, so that it vectorises
        std = -stds[k] if (t + k) & shift else stds[k]
        target[t + k], factor[t + k] = std * target.dtype.type(unit[(t + k) >> shift]), rule.scale * rates[k]
    for k in range(t, last):
        noise, row = target[k], rows[k]
        noise_block[row] += rule.spread * noise
        target[k] = y[row] + noise
    if rule.parametrisation == DIFFERENCE:
        _difference(vectors, w, coef_block, X, rows, target, factor, t, last)
    elif rule.parametrisation == SQUARE:
        _square(vectors, w, coef_block, X, rows, target, factor, t, last)
    else:
        _hadamard(vectors, w, coef_block, X, rows, target, factor, t, last)
