"""Plain steps on one row each: the update along a row and the product with the next in one pass over the weights.

Weights that fit in registers stay there from step to step; others are loaded and stored once per step.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any, NamedTuple

import numba as nb
from numba.core import cgutils

from lntrain.engine import simd
from lntrain.engine.formulas import Formulas, formulas
from lntrain.engine.kernels import signed
from lntrain.engine.simd import INT, VECTOR_BYTES, Emitter

MOST = 9  # vectors each of u, v and the sum of beta that 32 registers hold, with some left to work in
CHAINS = 2  # accumulators of a dot product: in a single one each addition would wait for the last


class SingleRow(NamedTuple):
    """X by rows, and a tuple of as many zeros as vectors of weights stay in registers: its type fixes that number."""

    X: Any
    vectors: Any


def width(d: int, itemsize: int) -> int:
    """How many vectors of weights registers keep; 0 where they are too many."""
    vectors = -(-d * itemsize // VECTOR_BYTES)
    return vectors if vectors <= MOST else 0


class _Columns:
    """u, v and the sum of beta by vectors of columns: in registers from the beginning to `close`, or in memory."""

    def __init__(self, e: Emitter, bases: dict[str, Any], many: int) -> None:
        self.e, self.bases = e, bases
        self.held = [{name: cgutils.alloca_once(e.builder, e.vector) for name in bases} for _ in range(many)]
        self._exchange(opening=True)

    def each(self, width: Any, body: Any) -> None:
        """body(offset, load of X, places) for each vector of `width` columns."""
        if self.held:
            for k, places in enumerate(self.held):
                body(INT(k * self.e.lanes), self.e.load, places)
        else:
            self.e.each_vector(width, lambda j, load: body(j, load, self._memory(j)), copies=CHAINS)

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
    """Steps from row to row: X of `width` columns, and by step its rows, targets and factors of the error."""

    def __init__(self, e: Emitter, own: Formulas, columns: _Columns, width: Any, **arrays: Any) -> None:
        self.e, self.formulas, self.columns, self.width, self.arrays = e, own, columns, width, arrays
        self.dots = e.zeros(CHAINS)

    def sweep(self, old: Any = None, new: Any = None) -> None:
        """Update the weights along the row of step `old`, then multiply them with the row of step `new`."""
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

        self.columns.each(self.width, body)

    def _row(self, step: Any) -> Any:
        return self.e.builder.mul(self.e.number(self.arrays["rows"], step), self.width)

    def _slope(self, step: Any) -> Any:
        """factor (product - target) in all lanes; the product starts anew."""
        builder, e = self.e.builder, self.e
        product = simd.totals(builder, [builder.fadd(*(builder.load(dot) for dot in self.dots))])
        target, factor = (e.load(self.arrays[name], step, product.type) for name in ("targets", "factors"))
        for dot in self.dots:
            builder.store(e.zero, dot)
        error = builder.fmul(builder.fsub(product, target), factor)
        return e.splat(builder.extract_element(error, INT(0)))


@simd.emits
def _stretch(e, parametrisation, vectors, w, total, X, rows, target, factor, first, last) -> None:  # type: ignore[no-untyped-def]
    """The steps first..last-1, at least one."""
    own = formulas(parametrisation)
    columns = _Columns(e, e.weights(own.weights, w) | {"total": total.data}, len(vectors))
    arrays = {"X": X.data, "rows": rows.data, "targets": target.data, "factors": factor.data}
    walk, final = _Walk(e, own, columns, e.length(X, 1), **arrays), e.builder.sub(last, INT(1))
    walk.sweep(new=first)
    with cgutils.for_range_slice(e.builder, first, final, INT(1), INT) as (i, _):
        walk.sweep(i, e.builder.add(i, INT(1)))
    walk.sweep(final)
    columns.close()


@nb.njit(nogil=True, error_model="numpy")
def block(read, y, rule, state, drawn, t, rates, stds, made):  # type: ignore[no-untyped-def]
    """len(rates) plain steps on one row each, within a block."""
    simd.widest()  # type: ignore[call-arg]
    w, coef_block, noise_block = state.weights, state.coef_block, state.noise_block
    unit, rows, target, factor = drawn.unit, drawn.rows, drawn.target, drawn.residual
    last = t + rates.shape[0]
    for k in range(rates.shape[0]):  # apart from the next loop, so that it vectorises
        unsigned = target.dtype.type(unit[(t + k) >> rule.paired])
        target[t + k], factor[t + k] = signed(rule, t + k, stds[k]) * unsigned, rule.scale * rates[k]
    for k in range(t, last):
        noise, row = target[k], rows[k]
        noise_block[row] += rule.spread * noise
        target[k] = y[row] + noise
    _stretch(rule.parametrisation, read.vectors, w, coef_block, read.X, rows, target, factor, t, last)
