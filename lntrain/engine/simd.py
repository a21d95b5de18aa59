"""Passes over rows of X and over weights in explicit vectors.

Left to itself LLVM takes half the vector width of this family of machines, checks eight rows
against one another for overlap at each step, and mixes widths, so that what one loop stored
another must wait for: a third of the speed at (40, 100).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

VECTOR_BYTES = 64  # one cache line; LLVM splits it where registers are narrower
INT = ir.IntType(64)


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros that begin on a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + VECTOR_BYTES, np.uint8)
    start = -memory.ctypes.data % VECTOR_BYTES
    out: NDArray[Any] = memory[start : start + size].view(dtype).reshape(shape)
    return out


@intrinsic
def widest(typing_context):  # type: ignore[no-untyped-def]
    """Let LLVM use the widest registers in the loops of the calling function."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite's own list lacks it
        return context.get_dummy_value()

    return types.none(), codegen


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def totals(builder: Any, vectors: list[Any]) -> Any:
    """One vector with the sum of each of the vectors (a power of two of them), by halving them together."""
    lanes = span = vectors[0].type.count
    while span > 1:
        half = span // 2
        low = [start + i for start in range(0, lanes, span) for i in range(half)]
        high = [lane + half for lane in low]
        if len(vectors) > 1:
            low, high = low + [lanes + lane for lane in low], high + [lanes + lane for lane in high]
        pairs = zip(vectors[::2], vectors[1::2], strict=True) if len(vectors) > 1 else [(vectors[0], vectors[0])]
        vectors = [builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high)) for a, b in pairs]
        lanes, span = vectors[0].type.count, half
    return vectors[0]


class Emitter:
    """Loads, stores and products of vectors at offsets of arrays."""

    def __init__(self, builder: Any, element: Any, width: Any) -> None:
        self.builder, self.width = builder, width
        self.size = 4 if isinstance(element, ir.FloatType) else 8
        self.lanes = VECTOR_BYTES // self.size
        self.element, self.vector = element, ir.VectorType(element, self.lanes)

    def at(self, base: Any, offset: Any, kind: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(base, [offset]), kind.as_pointer())

    def load(self, base: Any, offset: Any, kind: Any = None) -> Any:
        return self.builder.load(self.at(base, offset, kind or self.vector), align=self.size)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        self.builder.store(value, self.at(base, offset, value.type), align=self.size)

    def load_masked(self, base: Any, offset: Any, mask: Any) -> Any:
        """The lanes of the mask, 0 in the others."""
        pointer = self.at(base, offset, self.vector)
        signature = ir.FunctionType(self.vector, [pointer.type, ir.IntType(32), mask.type, self.vector])
        name = f"llvm.masked.load.v{self.lanes}f{8 * self.size}.p0"
        load = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.call(load, [pointer, ir.IntType(32)(self.size), mask, ir.Constant(self.vector, None)])

    def splat(self, scalar: Any, lanes: int) -> Any:
        empty = ir.Constant(ir.VectorType(self.element, lanes), ir.Undefined)
        return _shuffle(self.builder, self.builder.insert_element(empty, scalar, INT(0)), empty, [0] * lanes)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=("contract",))

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=("contract",))

    def fma(self, total: Any, a: Any, b: Any) -> Any:
        return self.builder.fadd(total, self.mul(a, b), flags=("contract",))

    def each_vector(self, body: Any, copies: int = 1) -> None:
        """body(offset, load of X) over the columns, unrolled; the last ones through a mask, for X has no padding."""
        begin, whole = INT(0), self.builder.and_(self.width, INT(-self.lanes))
        for many in sorted({copies, 1}, reverse=True):
            span = INT(many * self.lanes)
            end = self.builder.sub(whole, self.builder.urem(whole, span))
            with cgutils.for_range_slice(self.builder, begin, end, span, INT) as (j, _):
                for k in range(many):
                    body(self.builder.add(j, INT(k * self.lanes)), self.load)
            begin = end
        with self.builder.if_then(self.builder.icmp_signed("<", whole, self.width)):
            lane = ir.Constant(ir.VectorType(INT, self.lanes), list(range(self.lanes)))
            left = self.builder.sub(self.width, whole)
            empty = ir.Constant(lane.type, ir.Undefined)
            bound = _shuffle(self.builder, self.builder.insert_element(empty, left, INT(0)), empty, [0] * self.lanes)
            mask = self.builder.icmp_signed("<", lane, bound)
            body(whole, lambda base, offset: self.load_masked(base, offset, mask))


def _sweep(rows: int, *, dot: bool, add: bool) -> Any:
    """An intrinsic that passes once over the columns of `rows` rows at a time.

    With `dot`: residual[i+r] = scale (X[index[i+r]] . beta - target[i+r]), for the rows r from i on.
    With `add`: grad += sum_r residual[k+r] X[index[k+r]]. With both, in one pass.
    """

    @intrinsic
    def sweep(typing_context, X, index, i, k, beta, target, scale, residual, grad):  # type: ignore[no-untyped-def]
        signature = types.none(X, index, types.intp, types.intp, beta, target, scale, residual, grad)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = {n: context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 1, 4, 5, 7, 8)}
            x, indices, beta, target, residual, grad = (arrays[n].data for n in (0, 1, 4, 5, 7, 8))
            width = builder.extract_value(arrays[0].shape, 1)
            e = Emitter(builder, args[6].type, width)

            def offsets(first: Any) -> list[Any]:
                places = [builder.add(first, INT(r)) for r in range(rows)]
                return [builder.mul(builder.load(builder.gep(indices, [place])), width) for place in places]

            new, old = offsets(args[2]) if dot else [], offsets(args[3]) if add else []
            zero = ir.Constant(e.vector, None)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in new]
            for total in sums:
                builder.store(zero, total)
            places = [builder.gep(residual, [builder.add(args[3], INT(r))]) for r in range(len(old))]
            factors = [e.splat(builder.load(place), e.lanes) for place in places]

            def body(j: Any, load: Any) -> None:
                if dot:
                    b = e.load(beta, j)
                    for total, row in zip(sums, new, strict=True):
                        builder.store(e.fma(builder.load(total), load(x, builder.add(row, j)), b), total)
                if add:
                    halves = [e.load(grad, j), zero]  # two chains of additions are faster than one
                    for r, (factor, row) in enumerate(zip(factors, old, strict=True)):
                        halves[r % 2] = e.fma(halves[r % 2], factor, load(x, builder.add(row, j)))
                    e.store(builder.fadd(*halves) if rows > 1 else halves[0], grad, j)

            e.each_vector(body)
            if dot:
                dots = totals(builder, [builder.load(total) for total in sums])
                error = builder.fsub(dots, e.load(target, args[2], dots.type))
                e.store(builder.fmul(error, e.splat(args[6], rows)), residual, args[2])
            return context.get_dummy_value()

        return signature, codegen

    return sweep


def _sweeps(rows: int) -> tuple[Any, Any, Any]:
    """(dot, add, both) of so many rows at a time."""
    return _sweep(rows, dot=True, add=False), _sweep(rows, dot=False, add=True), _sweep(rows, dot=True, add=True)


SWEEP_1, SWEEP_4, SWEEP_8 = _sweeps(1), _sweeps(4), _sweeps(8)


def _elementwise(compute: Any) -> Any:
    """An intrinsic f(w, beta, total, grad) over padded columns: compute(e, values) returns what is stored, by name."""

    @intrinsic
    def elementwise(typing_context, w, beta, total, grad):  # type: ignore[no-untyped-def]
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = [
                context.make_array(kind)(context, builder, a) for kind, a in zip(signature.args, args, strict=True)
            ]
            count, width = (builder.extract_value(arrays[0].shape, axis) for axis in (0, 1))
            element = context.get_value_type(signature.args[0].dtype)
            e = Emitter(builder, element, width)
            last = builder.mul(builder.sub(count, INT(1)), width)  # of the weights; the first where there is one
            bases = {"u": arrays[0].data, "v": builder.gep(arrays[0].data, [last])}
            bases |= {"beta": arrays[1].data, "total": arrays[2].data, "grad": arrays[3].data}
            with cgutils.for_range_slice(builder, INT(0), width, INT(e.lanes), INT) as (j, _):
                values = {name: e.load(base, j) for name, base in bases.items()}
                for name, value in compute(e, **values).items():
                    e.store(value, bases[name], j)
            return context.get_dummy_value()

        return types.none(w, beta, total, grad), codegen

    return elementwise


@intrinsic
def add_noise(typing_context, y, unit, first, std, target, total):  # type: ignore[no-untyped-def]
    """target = y + std unit[first:], total += std unit[first:], in whole vectors: what lies beyond n is nobody's."""
    signature = types.none(y, unit, types.intp, std, target, total)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = {n: context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 1, 4, 5)}
        y, unit, target, total = (array.data for array in arrays.values())
        e = Emitter(builder, args[3].type, builder.extract_value(arrays[0].shape, 0))
        scale, drawn = e.splat(args[3], e.lanes), ir.VectorType(ir.FloatType(), e.lanes)
        with cgutils.for_range_slice(builder, INT(0), e.width, INT(e.lanes), INT) as (i, _):
            eps = builder.load(e.at(unit, builder.add(args[2], i), drawn), align=4)
            noise = builder.fmul(scale, eps if e.size == 4 else builder.fpext(eps, e.vector))
            e.store(builder.fadd(e.load(total, i), noise), total, i)
            e.store(builder.fadd(e.load(y, i), noise), target, i)
        return context.get_dummy_value()

    return signature, codegen


class Formulas(NamedTuple):
    """A quadratic parametrisation: its weights' names, beta of them, and a step along grad, which bears the lr.

    Where d beta / dw = 2w, grad bears the 2 as well.
    """

    weights: tuple[str, ...]
    beta: Any
    step: Any


def _passes(formulas: Formulas) -> tuple[Any, Any, Any]:
    """(begin, descend, onward).

    begin: beta joins its sum and grad starts at 0. descend: a plain step along grad. onward: descend and
    the next step's begin, the weights loaded once.
    """

    def begin(e: Any, u: Any, v: Any, total: Any, **_: Any) -> dict[str, Any]:
        beta = formulas.beta(e, u, v)
        return {"beta": beta, "total": e.builder.fadd(total, beta), "grad": ir.Constant(e.vector, None)}

    def descend(e: Any, u: Any, v: Any, grad: Any, **_: Any) -> dict[str, Any]:
        return formulas.step(e, u, v, grad)  # type: ignore[no-any-return]

    def onward(e: Any, u: Any, v: Any, total: Any, grad: Any, **_: Any) -> dict[str, Any]:
        weights = formulas.step(e, u, v, grad)
        return weights | begin(e, weights["u"], weights.get("v", v), total)  # type: ignore[no-any-return]

    return _elementwise(begin), _elementwise(descend), _elementwise(onward)


def _difference(e: Any, u: Any, v: Any) -> Any:
    """u^2 - v^2 with both squares rounded: fused, two equal ones would leave a rounding error, often denormal."""
    return e.builder.fsub(e.builder.fmul(u, u), e.builder.fmul(v, v))


DIFFERENCE = Formulas(("u", "v"), _difference, lambda e, u, v, g: {"u": e.sub(u, e.mul(g, u)), "v": e.fma(v, g, v)})
SQUARE = Formulas(("u",), lambda e, u, v: e.mul(u, u), lambda e, u, v, g: {"u": e.sub(u, e.mul(g, u))})
HADAMARD = Formulas(
    ("u", "v"), lambda e, u, v: e.mul(u, v), lambda e, u, v, g: {"u": e.sub(u, e.mul(g, v)), "v": e.sub(v, e.mul(g, u))}
)

begin_difference, descend_difference, onward_difference = _passes(DIFFERENCE)
begin_square, descend_square, onward_square = _passes(SQUARE)
begin_hadamard, descend_hadamard, onward_hadamard = _passes(HADAMARD)
