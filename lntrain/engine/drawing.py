"""The random numbers of a stretch of steps, drawn by functions that kernels call by their address.

So the generator is compiled once, and only where it is used: numba would otherwise optimise it again within each kernel
that calls it, for each parametrisation, dtype and path, which took longer than the kernel itself.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]

from lntrain.engine import simd
from lntrain.engine.kernels import FULL, GAUSSIAN, NOISY_ROWS, RADEMACHER
from lntrain.noise.compiled import compiled
from lntrain.noise.philox import fill_normals, fill_rows, fill_words, stream_key

INTEGER = types.int64
NUMBERS = INTEGER(types.CPointer(types.float32), *[INTEGER] * 3, types.uint64)
ROWS = INTEGER(types.CPointer(INTEGER), *[INTEGER] * 6, types.uint64)


class Stream(NamedTuple):
    """A replica's Philox key, and the addresses of what draws its labels' noise and its rows; 0 where nothing is."""

    key: Any
    noise: Any
    rows: Any


def stream_of(rule: Any, seed: int, stream: int) -> Stream:
    """The Stream by which a rule's steps draw."""
    noise = {GAUSSIAN: _normals, RADEMACHER: _signs}.get(rule.noise)
    rows = 0 if rule.sampling == FULL else _address(_rows, ROWS)
    return Stream(*map(np.uint64, (stream_key(seed, stream), 0 if noise is None else _address(noise, NUMBERS), rows)))


@cache
def _address(function: Any, signature: Any) -> int:
    """Where a compiled function with C's calling convention is."""
    made = function.get_compile_result(signature)
    return int(made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name))


# no fastmath: the stream's numbers would change
@compiled(nogil=True, error_model="numpy", fastmath=False)
def _normals(out, count, width, first, key):  # type: ignore[no-untyped-def]
    """out (count, width) float32: N(0, 1), from step (or pair) `first` on, a multiple of 4."""
    fill_normals(carray(out, (count, width)), first // 4, 0, key)
    return 0


@compiled(nogil=True, error_model="numpy", fastmath=False)
def _signs(out, count, width, first, key):  # type: ignore[no-untyped-def]
    """As _normals: 1 or -1."""
    unit = carray(out, (count, width))
    bits = unit.view(np.uint32)
    fill_words(bits, first // 4, 0, 0, key)
    for k in range(count):
        for i in range(width):
            unit[k, i] = 1 - 2 * np.int32(bits[k, i] >> np.uint32(31))
    return 0


@compiled(nogil=True, error_model="numpy", fastmath=False)
def _rows(out, count, width, start, every, n, sampling, key):  # type: ignore[no-untyped-def]
    """out (count, width): the rows of steps from `start` on, each kept for `every` steps."""
    fill_rows(carray(out, (count, width)), start, every, n, sampling, key)
    return 0


def _call(e: Any, address: Any, arguments: list[Any]) -> None:
    kind = ir.FunctionType(simd.INT, [argument.type for argument in arguments])
    e.builder.call(e.builder.inttoptr(address, kind.as_pointer()), arguments)


@simd.emits
def _noise_into(e, out, address, count, width, first, key) -> None:  # type: ignore[no-untyped-def]
    _call(e, address, [out.data, count, width, first, key])


@simd.emits
def _rows_into(e, out, address, count, width, start, every, n, sampling, key) -> None:  # type: ignore[no-untyped-def]
    _call(e, address, [out.data, count, width, start, every, n, sampling, key])


@nb.njit(error_model="numpy")
def draw(stream, out, count, width, first):  # type: ignore[no-untyped-def]
    """out, flat: draws of mean 0 and variance 1 of `count` steps (or pairs) from `first` on, a multiple of 4."""
    if stream.noise != 0:
        _noise_into(out, stream.noise, count, width, first, stream.key)


@nb.njit(error_model="numpy")
def draw_rows(stream, out, count, width, start, paired, n, sampling):  # type: ignore[no-untyped-def]
    """out, flat: the rows of `count` steps from `start` on."""
    if stream.rows != 0:
        law = 1 if sampling == NOISY_ROWS else sampling
        _rows_into(out, stream.rows, count, width, start, 1 + paired, n, law, stream.key)
