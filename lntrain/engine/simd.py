"""Passes over rows of X and over weights in explicit SIMD vectors.

LLVM's own vectorisation takes half the vector width of this family of machines, checks eight
rows against one another for overlap at each step, and mixes widths, so that loads in one loop
wait for the stores of another: a third of the speed at (40, 100).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from lntrain.engine.formulas import Formulas, formulas

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


def emits(body: Callable[..., Any]) -> Any:
    """An intrinsic whose code body(e, *arguments) emits; it returns nothing, or a number of the first array's dtype.

    `body` receives arrays as numba's structures (data, shape), numbers as values, tuples as their types; `e` works in
    the first array's dtype.
    """
    names = list(inspect.signature(body).parameters)[1:]

    def typing(typing_context, *given):  # type: ignore[no-untyped-def]
        kinds = [types.unliteral(kind) for kind in given]
        element = next(kind.dtype for kind in kinds if isinstance(kind, types.Array))

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def read(kind: Any, value: Any) -> Any:
                if isinstance(kind, types.Array):
                    return context.make_array(kind)(context, builder, value)
                return kind if isinstance(kind, types.BaseTuple) else value

            e = Emitter(builder, context.get_value_type(element))
            value = body(e, *(read(*pair) for pair in zip(kinds, args, strict=True)))
            return context.get_dummy_value() if value is None else value

        return (element if returns else types.none)(*kinds), codegen

    returns = inspect.signature(body).return_annotation not in (None, "None")
    one = inspect.Parameter.POSITIONAL_OR_KEYWORD
    typing.__signature__ = inspect.Signature([inspect.Parameter(n, one) for n in ("typing_context", *names)])  # type: ignore[attr-defined]
    typing.__name__ = body.__name__
    return intrinsic(typing)


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def totals(builder: Any, vectors: list[Any]) -> Any:
    """One vector holding the sum of each of the vectors (a power of two of them), by adding their halves."""
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

    def __init__(self, builder: Any, element: Any) -> None:
        self.builder = builder
        self.size = 4 if isinstance(element, ir.FloatType) else 8
        self.lanes = VECTOR_BYTES // self.size
        self.element, self.vector = element, ir.VectorType(element, self.lanes)
        self.zero = ir.Constant(self.vector, None)

    def at(self, base: Any, offset: Any, kind: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(base, [offset]), kind.as_pointer())

    def load(self, base: Any, offset: Any, kind: Any = None) -> Any:
        return self.builder.load(self.at(base, offset, kind or self.vector), align=self.size)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        self.builder.store(value, self.at(base, offset, value.type), align=self.size)

    def number(self, base: Any, offset: Any) -> Any:
        return self.builder.load(self.builder.gep(base, [offset]))

    def length(self, array: Any, axis: int) -> Any:
        return self.builder.extract_value(array.shape, axis)

    def zeros(self, many: int) -> list[Any]:
        """Stack slots for sums, set to 0 each time that the emitted code gets here."""
        places = [cgutils.alloca_once(self.builder, self.vector) for _ in range(many)]
        for place in places:
            self.builder.store(self.zero, place)
        return places

    def weights(self, names: tuple[str, ...], array: Any, offset: Any = None) -> dict[str, Any]:
        """Pointers to the rows of the weights (m, columns), from column `offset` on."""
        width, start = self.length(array, 1), INT(0) if offset is None else offset
        starts = [self.builder.add(self.builder.mul(INT(m), width), start) for m in range(len(names))]
        return {name: self.builder.gep(array.data, [at]) for name, at in zip(names, starts, strict=True)}

    def load_masked(self, base: Any, offset: Any, mask: Any) -> Any:
        """The lanes of the mask, 0 in the others."""
        pointer = self.at(base, offset, self.vector)
        signature = ir.FunctionType(self.vector, [pointer.type, ir.IntType(32), mask.type, self.vector])
        name = f"llvm.masked.load.v{self.lanes}f{8 * self.size}.p0"
        load = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.call(load, [pointer, ir.IntType(32)(self.size), mask, self.zero])

    def splat(self, scalar: Any, lanes: int | None = None) -> Any:
        many = lanes or self.lanes
        empty = ir.Constant(ir.VectorType(scalar.type, many), ir.Undefined)
        return _shuffle(self.builder, self.builder.insert_element(empty, scalar, INT(0)), empty, [0] * many)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=("contract",))

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=("contract",))

    def fma(self, total: Any, a: Any, b: Any) -> Any:
        return self.builder.fadd(total, self.mul(a, b), flags=("contract",))

    def each_vector(self, width: Any, body: Any, copies: int = 1) -> None:
        """body(offset, load of X) over `width` columns, unrolled; the last ones by a mask, for X has no padding."""
        begin, whole = INT(0), self.builder.and_(width, INT(-self.lanes))
        for many in sorted({copies, 1}, reverse=True):
            span = INT(many * self.lanes)
            end = self.builder.sub(whole, self.builder.urem(whole, span))
            with cgutils.for_range_slice(self.builder, begin, end, span, INT) as (j, _):
                for k in range(many):
                    body(self.builder.add(j, INT(k * self.lanes)), self.load)
            begin = end
        with self.builder.if_then(self.builder.icmp_signed("<", whole, width)):
            lane = ir.Constant(ir.VectorType(INT, self.lanes), list(range(self.lanes)))
            mask = self.builder.icmp_signed("<", lane, self.splat(self.builder.sub(width, whole)))
            body(whole, lambda base, offset: self.load_masked(base, offset, mask))


def _sweep(rows: int, *, dot: bool, add: bool) -> Any:
    """An intrinsic that passes once over the columns of `rows` rows at a time.

    With `dot`: residual[i+r] = scale (X[index[i+r]] . beta - target[i+r]), for the rows r from i on.
    With `add`: grad += sum_r residual[k+r] X[index[k+r]]. With both, in one pass.
    """

    @emits
    def sweep(e, X, index, i, k, beta, target, scale, residual, grad) -> None:  # type: ignore[no-untyped-def]
        builder, width = e.builder, e.length(X, 1)

        def places(first: Any) -> list[Any]:
            return [builder.add(first, INT(r)) for r in range(rows)]

        new, old = ([builder.mul(e.number(index.data, r), width) for r in places(first)] for first in (i, k))
        sums = e.zeros(rows if dot else 0)
        factors = [e.splat(e.number(residual.data, place)) for place in (places(k) if add else ())]

        def body(j: Any, load: Any) -> None:
            if dot:
                b = e.load(beta.data, j)
                for total, row in zip(sums, new, strict=True):
                    builder.store(e.fma(builder.load(total), load(X.data, builder.add(row, j)), b), total)
            if add:
                halves = [e.load(grad.data, j), e.zero]  # two chains of additions are faster than one
                for r, (factor, row) in enumerate(zip(factors, old, strict=True)):
                    halves[r % 2] = e.fma(halves[r % 2], factor, load(X.data, builder.add(row, j)))
                e.store(builder.fadd(*halves) if rows > 1 else halves[0], grad.data, j)

        e.each_vector(width, body)
        if dot:
            dots = totals(builder, [builder.load(total) for total in sums])
            error = builder.fsub(dots, e.load(target.data, i, dots.type))
            e.store(builder.fmul(error, e.splat(scale, rows)), residual.data, i)

    return sweep


def _sweeps(rows: int) -> tuple[Any, Any, Any]:
    """(dot, add, both) of so many rows at a time."""
    return _sweep(rows, dot=True, add=False), _sweep(rows, dot=False, add=True), _sweep(rows, dot=True, add=True)


SWEEP_1, SWEEP_4, SWEEP_8 = _sweeps(1), _sweeps(4), _sweeps(8)


def _columns(compute: Callable[[Formulas, Emitter, dict[str, Any]], dict[str, Any]]) -> Any:
    """An intrinsic over padded columns, vector by vector: what `compute` returns is stored, by name."""

    @emits
    def columns(e, parametrisation, w, beta, total, grad) -> None:  # type: ignore[no-untyped-def]
        own = formulas(parametrisation)
        bases = e.weights(own.weights, w) | {"beta": beta.data, "total": total.data, "grad": grad.data}
        with cgutils.for_range_slice(e.builder, INT(0), e.length(w, 1), INT(e.lanes), INT) as (j, _):
            now = {name: e.load(base, j) for name, base in bases.items()}
            for name, value in compute(own, e, now).items():
                e.store(value, bases[name], j)

    return columns


def _begin(own: Formulas, e: Emitter, now: dict[str, Any]) -> dict[str, Any]:
    beta = own.beta(e, now["u"], now.get("v"))
    return {"beta": beta, "total": e.builder.fadd(now["total"], beta), "grad": e.zero}


def _descend(own: Formulas, e: Emitter, now: dict[str, Any]) -> dict[str, Any]:
    moved: dict[str, Any] = own.step(e, now["u"], now.get("v"), now["grad"])
    return moved


def _onward(own: Formulas, e: Emitter, now: dict[str, Any]) -> dict[str, Any]:
    moved = _descend(own, e, now)
    return moved | _begin(own, e, now | moved)


begin = _columns(_begin)  # beta joins its sum, and grad starts at 0
descend = _columns(_descend)  # a plain step along grad
onward = _columns(_onward)  # descend and the next step's begin, the weights loaded once


@emits
def slopes(e, parametrisation, w, grad, out) -> None:  # type: ignore[no-untyped-def]
    """out (m, columns): the gradient in each weight, from `grad` in beta."""
    own = formulas(parametrisation)
    now, goals = e.weights(own.weights, w), e.weights(own.weights, out)
    with cgutils.for_range_slice(e.builder, INT(0), e.length(w, 1), INT(e.lanes), INT) as (j, _):
        values = {name: e.load(base, j) for name, base in now.items()}
        for name, value in own.slopes(e, values["u"], values.get("v"), e.load(grad.data, j)).items():
            e.store(value, goals[name], j)


@emits
def coef(e, parametrisation, w, j) -> float:  # type: ignore[no-untyped-def]
    """beta_j."""
    own = formulas(parametrisation)
    now = {name: e.number(base, j) for name, base in e.weights(own.weights, w).items()}
    return own.beta(e, now["u"], now.get("v"))  # type: ignore[no-any-return]


@emits
def move(e, parametrisation, w, j, grad) -> None:  # type: ignore[no-untyped-def]
    """A plain step of column j."""
    own = formulas(parametrisation)
    places = e.weights(own.weights, w)
    now = {name: e.number(base, j) for name, base in places.items()}
    for name, value in own.step(e, now["u"], now.get("v"), grad).items():
        e.store(value, places[name], j)


@emits
def add_noise(e, y, unit, first, std, target, total) -> None:  # type: ignore[no-untyped-def]
    """target = y + std unit[first:], total += std unit[first:], in whole vectors: what lies beyond n has no effect."""
    builder, given = e.builder, unit.data.type.pointee  # float, or the weights' own where it was projected
    drawn, size = ir.VectorType(given, e.lanes), 4 if isinstance(given, ir.FloatType) else 8
    scale = e.splat(std)
    with cgutils.for_range_slice(builder, INT(0), e.length(y, 0), INT(e.lanes), INT) as (i, _):
        eps = builder.load(e.at(unit.data, builder.add(first, i), drawn), align=size)
        noise = builder.fmul(scale, eps if e.size == size else builder.fpext(eps, e.vector))
        e.store(builder.fadd(e.load(total.data, i), noise), total.data, i)
        e.store(builder.fadd(e.load(y.data, i), noise), target.data, i)
