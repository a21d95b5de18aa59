"""Plain steps on the whole batch for an X of many more rows than columns: on R of X = Q R, in d rows instead of n.

The gradient X' (X beta - y - xi) is R' (R beta - Q' y - Q' xi): the steps are those of the problem (R, Q' y), and the
noise of a stretch of them is projected on Q by one product of matrices. Its sum over the n labels is kept as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from lntrain.engine import simd
from lntrain.engine.drawing import draw
from lntrain.engine.kernels import NONE, Rule, State, close_block, signed
from lntrain.engine.state import BLOCK
from lntrain.engine.steps import Drawn, _block, chunks, piece
from lntrain.noise.compiled import compiled

DRAWS = 2**18  # numbers of noise drawn at a time: products of few rows are slow
TALL, LEAST = 4, 1500  # rows a column, and numbers of X, from which it pays


class Reduced(NamedTuple):
    """R in the layout of a path on its d rows, and Q (n, d)."""

    read: Any
    Q: Any


def factors(X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Q (n, d) and R (d, d) of X = Q R, computed in float64."""
    Q, R = np.linalg.qr(X.astype(np.float64))
    return np.ascontiguousarray(Q, dtype=X.dtype), R.astype(X.dtype)


@nb.njit(error_model="numpy")
def _project(rule, draws, wide, Q, projected, start, stream):  # type: ignore[no-untyped-def]
    """Draw the labels' noise of a stretch from step `start` on, and project it."""
    if rule.noise != NONE:
        draw(stream, draws, draws.shape[0], draws.shape[1], start >> rule.paired)
        wide[:] = draws
        np.dot(wide, Q, projected)


@nb.njit(error_model="numpy")
def _sum_noise(rule, draws, noise_block, t, stds):  # type: ignore[no-untyped-def]
    """Add the labels' noise of len(stds) steps to its sum."""
    for k in range(stds.shape[0]):
        std, row = signed(rule, t + k, stds[k]), draws[(t + k) >> rule.paired]
        for i in range(row.shape[0]):
            noise_block[i] += std * row[i]


@compiled(nogil=True, error_model="numpy")
def run_steps(reduced, y, rule, small, state, stream, step, drawn, total, rates, stds):  # type: ignore[no-untyped-def]
    """As steps.run_steps, on a Reduced X and y = Q' labels; `small` is the rule of its d rows."""
    (n, d), w = reduced.Q.shape, state.weights
    size = max(16, min(BLOCK, DRAWS // n // 8 * 8))
    draws = np.zeros((size >> rule.paired, n), np.float32)
    wide = np.zeros(draws.shape, w.dtype)
    flat = np.zeros((size >> rule.paired) * d + simd.VECTOR_BYTES, w.dtype)  # its last vector may reach beyond
    projected = flat[: (size >> rule.paired) * d].reshape(-1, d)
    room = np.zeros((4, y.shape[0] + simd.VECTOR_BYTES), w.dtype)
    held = Drawn(flat, np.empty(0, np.int64), np.arange(d), room[0], room[1], room[2])
    own = State(w, state.buffers, state.coef_block, state.coef_total, room[3], state.noise_total, state.room)
    for done, count, t in chunks(step, drawn, total, size):
        if done == 0 or t == 0:
            _project(rule, draws, wide, reduced.Q, projected, drawn + done - t, stream)
        lr, std = piece(rates, done, count), piece(stds, done, count)
        _block(reduced.read, y, small, own, held, t, lr, std, 0)
        _sum_noise(rule, wide, state.noise_block, t, std)
        if (step + done + count) % BLOCK == 0:
            close_block(rule, state)


def smaller(rule: Rule, d: int) -> Rule:
    """The rule of the d rows of R."""
    return rule._replace(rows=d, batch_size=d)
