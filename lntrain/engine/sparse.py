"""Steps on one row of a sparse X: each costs what the row holds, not what X is wide.

A coefficient that a row does not touch stays as it is. Its share of the running sum is added when it next
moves, or when the block of steps ends, which costs (number of columns) / BLOCK a step.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from lntrain.engine.kernels import DIFFERENCE, HADAMARD, close_block
from lntrain.engine.state import BLOCK
from lntrain.engine.steps import empty, piece, refill
from lntrain.noise.compiled import compiled


@nb.njit(forceinline=True, error_model="numpy")
def _coef(rule, w, j):  # type: ignore[no-untyped-def]
    if rule.parametrisation == HADAMARD:
        return w[0, j] * w[1, j]
    if rule.parametrisation == DIFFERENCE:
        return w[0, j] * w[0, j] - w[1, j] * w[1, j]
    return w[0, j] * w[0, j]


@nb.njit(forceinline=True, error_model="numpy")
def _move(rule, w, j, g):  # type: ignore[no-untyped-def]
    if rule.parametrisation == HADAMARD:
        u = w[0, j]
        w[0, j] -= g * w[1, j]
        w[1, j] -= g * u
    else:
        w[0, j] -= g * w[0, j]
        if rule.parametrisation == DIFFERENCE:
            w[1, j] += g * w[1, j]


@nb.njit(error_model="numpy")
def _settle(rule, state, since, k):  # type: ignore[no-untyped-def]
    """Every coefficient's share of the sum up to step k."""
    for j in range(since.shape[0]):
        if since[j] < k:
            state.coef_block[j] += _coef(rule, state.weights, j) * (k - since[j])
        since[j] = k


@compiled(nogil=True, error_model="numpy")
def run_steps(X, y, rule, state, key, step, drawn, total, rates, stds):  # type: ignore[no-untyped-def]
    """As steps.run_steps, on X = (values, columns, where each row begins)."""
    values, columns, begins = X
    n, w, sums = len(begins) - 1, state.weights, state.coef_block
    unit, rows, held = empty(rule, n, w.dtype)
    since, shift = np.zeros(w.shape[1], np.int64), 1 if rule.paired else 0
    start, left = 0, 0
    for k in range(total):
        if left == 0:
            start = (drawn + k) // 8 * 8
            refill(rule, unit, rows, n, start, key)
            left = start + rows.shape[0] - drawn - k
        t, left = drawn + k - start, left - 1
        i, std = rows[t, 0], piece(stds, k, 1)[0]
        std = -std if t & shift else std
        noise = std * w.dtype.type(held.unit[t >> shift])
        state.noise_block[i] += rule.spread * noise
        error = -(y[i] + noise)
        for p in range(begins[i], begins[i + 1]):
            error += values[p] * _coef(rule, w, columns[p])
        slope = rule.scale * piece(rates, k, 1)[0] * error
        for p in range(begins[i], begins[i + 1]):
            j = columns[p]
            sums[j] += _coef(rule, w, j) * (k + 1 - since[j])
            since[j] = k + 1
            _move(rule, w, j, slope * values[p])
        if (step + k + 1) % BLOCK == 0:
            _settle(rule, state, since, k + 1)
            close_block(rule, state)
    _settle(rule, state, since, total)
