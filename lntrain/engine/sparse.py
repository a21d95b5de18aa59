"""Steps on one row of a sparse X: the cost is the row's number of nonzeros, not the width of X.

A coefficient that a row does not touch stays as it is. Its share of the running sum is added when it next
moves, or when the block of steps ends, which costs (number of columns) / BLOCK a step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from lntrain.engine import simd
from lntrain.engine.kernels import signed


class Sparse(NamedTuple):
    """A CSR X: its numbers, their columns, and where each row begins."""

    values: Any
    columns: Any
    begins: Any


@nb.njit(nogil=True, error_model="numpy")
def block(read, y, rule, state, drawn, t, rates, stds, made):  # type: ignore[no-untyped-def]
    """len(rates) plain steps on one row each, within a block."""
    values, columns, begins = read.values, read.columns, read.begins
    w, sums, noise_block, kind = state.weights, state.coef_block, state.noise_block, rule.parametrisation
    unit, rows, steps = drawn.unit, drawn.rows, rates.shape[0]
    since = np.zeros(w.shape[1], np.int64)  # the step up to which a coefficient's sum is complete
    for k in range(steps):
        i = rows[t + k]
        noise = signed(rule, t + k, stds[k]) * w.dtype.type(unit[(t + k) >> rule.paired])
        noise_block[i] += rule.spread * noise
        error = -(y[i] + noise)
        for p in range(begins[i], begins[i + 1]):
            error += values[p] * simd.coef(kind, w, columns[p])
        slope = rule.scale * rates[k] * error
        for p in range(begins[i], begins[i + 1]):
            j = columns[p]
            sums[j] += simd.coef(kind, w, j) * (k + 1 - since[j])
            since[j] = k + 1
            simd.move(kind, w, j, slope * values[p])
    for j in range(since.shape[0]):
        if since[j] < steps:
            sums[j] += simd.coef(kind, w, j) * (steps - since[j])
