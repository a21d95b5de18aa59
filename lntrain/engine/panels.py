"""Plain steps on the whole batch for an X of few rows, by panels of its columns.

A panel has as many columns as registers can hold of beta or of the gradient: within it a row costs one load
and one product per vector, the weights move between its two passes, and the second finds it in the L1 cache.
Row by row (simd.py) the gradient and beta are loaded and stored again at each block of rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
from numba.core import cgutils
from numpy.typing import NDArray

from lntrain.engine import simd
from lntrain.engine.formulas import Formulas, formulas
from lntrain.engine.kernels import L1_BYTES, signed
from lntrain.engine.simd import INT, VECTOR_BYTES

ROWS = 4  # X is filled up to a multiple of them with zeros
WIDEST, NARROWEST = 8, 4  # vectors of a panel; with fewer, rows by rows are as fast


class Panels(NamedTuple):
    """X (panels, rows, columns), and a tuple of as many zeros as a panel has vectors: its type fixes that number."""

    X: Any
    vectors: Any


def width(n: int, d: int, itemsize: int) -> int:
    """How many vectors a panel of X (n, d) takes; 0 where panels do not pay."""
    vectors = -(-d * itemsize // VECTOR_BYTES)
    most = min(WIDEST, L1_BYTES // (VECTOR_BYTES * (-(-n // ROWS) * ROWS)))
    if most < min(NARROWEST, vectors):
        return 0
    panels = -(-vectors // most)
    return -(-vectors // panels)


def pack(X: NDArray[Any], vectors: int) -> Panels:
    """X (n, d) in panels, each in one piece."""
    n, d = X.shape
    columns = vectors * VECTOR_BYTES // X.itemsize
    out = simd.aligned((-(-d // columns), -(-n // ROWS) * ROWS, columns), X.dtype)
    for p, panel in enumerate(out):
        part = X[:, p * columns : (p + 1) * columns]
        panel[:n, : part.shape[1]] = part
    return Panels(out, (0,) * vectors)


@simd.emits
def _panel(e, parametrisation, X, vectors, p, w, total, scale, moves, meets, residual, target, ahead) -> None:  # type: ignore[no-untyped-def]
    """End one step and begin the next for panel p.

    With `moves`, its weights step along scale X^T residual. With `meets`, beta is added to its sum, and its share of
    X beta - target to `ahead`, the next step's residual.
    """
    builder, rows, many, own = e.builder, e.length(X, 1), len(vectors), formulas(parametrisation)
    left = builder.mul(p, INT(many * e.lanes))
    x = builder.gep(X.data, [builder.mul(left, rows)])
    at = e.weights(own.weights, w, left)
    with builder.if_then(moves):
        step_weights(e, own, at, _grads(e, x, rows, residual.data, many), e.splat(scale))
    with builder.if_then(meets):
        betas = coefficients(e, own, at, builder.gep(total.data, [left]), many)
        first = builder.icmp_signed("==", p, INT(0))
        _products(e, x, rows, betas, first, target.data, ahead.data)


def step_weights(e: Any, formulas: Formulas, at: dict[str, Any], grads: list[Any], factor: Any) -> None:
    """The weights `at` step along factor grads, vector by vector."""
    for k, grad in enumerate(grads):
        now = {name: e.load(place, INT(k * e.lanes)) for name, place in at.items()}
        for name, value in formulas.step(e, now["u"], now.get("v"), e.builder.fmul(grad, factor)).items():
            e.store(value, at[name], INT(k * e.lanes))


def coefficients(e: Any, formulas: Formulas, at: dict[str, Any], sums: Any, many: int) -> list[Any]:
    """beta of the weights `at`, as `many` vectors, each also added to `sums`."""
    betas = []
    for j in (INT(k * e.lanes) for k in range(many)):
        now = {name: e.load(place, j) for name, place in at.items()}
        betas.append(formulas.beta(e, now["u"], now.get("v")))
        e.store(e.builder.fadd(e.load(sums, j), betas[-1]), sums, j)
    return betas


def _grads(e: Any, x: Any, rows: Any, residual: Any, many: int) -> list[Any]:
    """X^T residual of a panel, in registers; two accumulators per vector hide the latency of additions."""
    builder, sums = e.builder, [e.zeros(2) for _ in range(many)]
    with cgutils.for_range_slice(builder, INT(0), rows, INT(ROWS), INT) as (i, _):
        for r in range(ROWS):
            row = builder.add(i, INT(r))
            factor = e.splat(e.number(residual, row))
            base = builder.mul(row, INT(many * e.lanes))
            for k, pair in enumerate(sums):
                value = e.load(x, builder.add(base, INT(k * e.lanes)))
                builder.store(e.fma(builder.load(pair[r % 2]), factor, value), pair[r % 2])
    return [builder.fadd(*(builder.load(place) for place in pair)) for pair in sums]


def _products(e: Any, x: Any, rows: Any, betas: list[Any], first: Any, target: Any, ahead: Any) -> None:
    """ahead = X beta - target of the first panel, += X beta of the others; many rows at a time, then the rest."""
    builder = e.builder
    begin: Any = INT(0)
    for height in (h for h in (16, 8, 4) if h <= e.lanes):
        end = builder.and_(rows, INT(-height))
        with cgutils.for_range_slice(builder, begin, end, INT(height), INT) as (i, _):
            dots: list[Any] = [None] * height
            for k, beta in enumerate(betas):
                for r in range(height):
                    place = builder.add(
                        builder.mul(builder.add(i, INT(r)), INT(len(betas) * e.lanes)), INT(k * e.lanes)
                    )
                    value = e.load(x, place)
                    dots[r] = e.mul(value, beta) if k == 0 else e.fma(dots[r], value, beta)
            sums = simd.totals(builder, dots)
            before = builder.select(first, builder.fneg(e.load(target, i, sums.type)), e.load(ahead, i, sums.type))
            e.store(builder.fadd(sums, before), ahead, i)
        begin = end


@nb.njit(nogil=True, error_model="numpy")
def block(read, y, rule, state, drawn, t, rates, stds, made):  # type: ignore[no-untyped-def]
    """len(rates) plain steps on the whole batch, within a block."""
    simd.widest()  # type: ignore[call-arg]
    w, total, noise_block = state.weights, state.coef_block, state.noise_block
    unit, target, now, ahead = drawn.unit, drawn.target, drawn.residual, drawn.ahead
    X, vectors, kind = read.X, read.vectors, rule.parametrisation
    n, steps = rule.rows, rates.shape[0]
    for k in range(steps + 1):  # step k - 1 ends and step k begins
        scale = rule.scale * rates[max(k, 1) - 1]
        if k < steps:
            simd.add_noise(y, unit, ((t + k) >> rule.paired) * n, signed(rule, t + k, stds[k]), target, noise_block)
        for p in range(X.shape[0]):
            _panel(kind, X, vectors, p, w, total, scale, k > 0, k < steps, now, target, ahead)
        now, ahead = ahead, now
