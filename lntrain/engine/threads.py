"""Steps on an X too large for the caches: each pass over it is split by rows over several threads.

A step here takes so long that the Python between its compiled pieces does not count. There are always
PARTS parts, whatever the threads, and they are added in order, so that results are the same bit for bit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from lntrain.engine import kernels, simd, steps
from lntrain.engine.state import BLOCK
from lntrain.noise.compiled import compiled

PARTS = 8
LARGE_BYTES = 32_000_000  # of X that a step reads; below it a pass is over before threads have woken up
SHARED_BYTES = 1_000_000  # of rows that every replica reads before the next rows are read


@compiled(nogil=True, error_model="numpy")
def _prepare(y, rule, state, drawn, t, std):  # type: ignore[no-untyped-def]
    simd.widest()  # type: ignore[call-arg]
    room, unit, rows = state.room, drawn.unit, drawn.rows
    kernels.prepare(
        y, rule, state.weights, room[0], state.coef_block, room[1], state.noise_block, unit, rows, drawn.target, t, std
    )


@compiled(nogil=True, error_model="numpy")
def _gradient(X, drawn, first, count, beta, scale, grad):  # type: ignore[no-untyped-def]
    simd.widest()  # type: ignore[call-arg]
    kernels.gradient(X, drawn.index, first, count, beta, drawn.target, scale, drawn.residual, grad)


@compiled(nogil=True, error_model="numpy")
def _conclude(rule, state, parts, rate, first, close):  # type: ignore[no-untyped-def]
    simd.widest()  # type: ignore[call-arg]
    w, room = state.weights, state.room
    for part in parts:
        for j in range(part.shape[0]):
            room[1, j] += part[j]
            part[j] = 0
    steps.conclude(rule, w, room[0], state.coef_block, room[1], room[2:], state.buffers, rate, first)
    if close:
        kernels.close_block(rule, state)


@compiled()
def _refill(rule, drawn, size, start, stream):  # type: ignore[no-untyped-def]
    steps.refill(rule, drawn, size, start, stream)


def run_steps(
    X: Any,
    y: Any,
    rules: Any,
    states: Any,
    streams: Any,
    step: int,
    drawn: int,
    total: int,
    rates: Any,
    stds: Any,
    made: int,
) -> None:
    """As steps.run_steps, for all replicas together: rules, states, streams and stds hold one each."""
    replicas, threads = range(len(states)), min(PARTS, torch.get_num_threads())
    held = [steps.empty(rule, states[0].weights.dtype) for rule in rules]
    size = steps.stretch.py_func(rules[0].batch_size)
    grads = np.zeros((PARTS, len(states), states[0].room.shape[1]), X.dtype)
    betas = [state.room[0] for state in states]
    with ThreadPoolExecutor(threads) as pool:
        for done, count, t in steps.chunks.py_func(step, drawn, total, size):
            if done == 0 or t == 0:
                for r in replicas:
                    _refill(rules[r], held[r], size, drawn + done - t, streams[r])
            for k in range(count):
                rate, at = steps.piece(rates, done + k, 1)[0], done + k
                for r in replicas:
                    _prepare(y, rules[r], states[r], held[r], t + k, steps.piece(stds[r], at, 1)[0])
                scales = [rule.scale * rate if kernels.plain(rule) else rule.scale for rule in rules]
                share = partial(_share, X, held, kernels.extent(rules[0], t + k), betas, scales, grads, threads)
                list(pool.map(share, range(threads)))
                close = (step + at + 1) % BLOCK == 0
                for r in replicas:
                    _conclude(rules[r], states[r], grads[:, r], rate, made + at == 0, close)


def _share(
    X: Any, held: Any, rows: tuple[int, int], betas: Any, scales: Any, grads: Any, threads: int, thread: int
) -> None:
    """One thread's parts of the gradient; rows that all replicas read stay in the cache between them."""
    first, count = rows
    height = count if len(betas) == 1 else max(8, SHARED_BYTES // (X.shape[1] * X.itemsize) // 8 * 8)
    for p in range(thread, PARTS, threads):
        last = first + count * (p + 1) // PARTS
        for i in range(first + count * p // PARTS, last, height):
            for r in range(len(betas)):
                _gradient(X, held[r], i, min(height, last - i), betas[r], scales[r], grads[p, r])
