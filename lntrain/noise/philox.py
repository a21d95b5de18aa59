"""Random numbers as a pure function of (seed, stream, step, draw, position).

Philox4x32-10 (Salmon et al., SC 2011, doi:10.1145/2063384.2063405) in counter mode:
nothing is carried from step to step, so a run resumes from its step number alone, and
every engine reads the same numbers whatever the size of its chunks. One Philox block
holds the same position of four consecutive steps.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

from lntrain._checks import whole_number
from lntrain._moved import sampling_named
from lntrain.noise.compiled import compiled

SAMPLINGS = ("full", "replacement", "without", "shuffle", "noisy_rows")

_NOISE, _ROWS, _EPOCH = 0, 1, 2  # what a draw is for: each purpose has numbers of its own

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def stream_key(seed: int, stream: int) -> int:
    """64-bit Philox key of a (seed, stream) pair, by two rounds of splitmix64."""
    key = 0
    for word in (seed, stream):
        key = (key ^ (word & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        key = (key ^ key >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        key ^= key >> 31
    return key


@nb.njit(forceinline=True, error_model="numpy", fastmath=False)
def _philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Ten rounds on 32-bit words held in uint64."""
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


_LN2, _SQRT2 = np.float32(math.log(2)), np.float32(math.sqrt(2))
_ONE, _HALF, _TWO = np.float32(1), np.float32(0.5), np.float32(2)
_ULP32, _TURN = np.float32(2.0**-32), np.float32(2 * math.pi / 2**32)
# Cephes logf: log(1+t) = t - t^2/2 + t^3 P(t)
_L = tuple(
    np.float32(v)
    for v in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
_S = tuple(np.float32(v) for v in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1))
_C = tuple(np.float32(v) for v in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2))
_MANT, _EXPO, _B23, _B127 = np.int32(0x7FFFFF), np.int32(0x3F800000), np.int32(23), np.int32(127)
_OCT, _30, _3 = np.uint32(1 << 29), np.uint32(30), np.uint32(3)


@nb.njit(forceinline=True, error_model="numpy", fastmath=False)
def _box_muller(a, b):  # type: ignore[no-untyped-def]
    """Two float32 standard normals from two 32-bit words, without branches."""
    u = np.float32((np.float32(np.uint32(a)) + _HALF) * _ULP32)
    bits = np.float32(u).view(np.int32)
    e = np.float32((bits >> _B23) - _B127)
    m = np.int32((bits & _MANT) | _EXPO).view(np.float32)
    big = m > _SQRT2
    m = m * _HALF if big else m
    e = e + _ONE if big else e
    t = m - _ONE
    p = _L[0]
    for k in range(1, 9):
        p = p * t + _L[k]
    log_u = e * _LN2 + (t - _HALF * t * t + t * t * t * p)
    radius = np.sqrt(max(-_TWO * log_u, np.float32(0)))
    w = np.uint32(b)
    quarter = np.uint32(np.uint32(w + _OCT) >> _30)
    z = np.float32(np.int32(np.uint32(w - np.uint32(quarter << _30)))) * _TURN
    z2 = z * z
    s = ((_S[0] * z2 + _S[1]) * z2 + _S[2]) * z2 * z + z
    c = ((_C[0] * z2 + _C[1]) * z2 + _C[2]) * z2 * z2 - _HALF * z2 + _ONE
    odd = (quarter & np.uint32(1)) != 0
    cos, sin = (-s if odd else c), (c if odd else s)
    flip = quarter >= np.uint32(2)  # the quarter turn q maps (c, s) to itself, (-s, c), (-c, -s), (s, -c)
    return radius * (-cos if flip else cos), radius * (-sin if flip else sin)


@nb.njit(forceinline=True, error_model="numpy", fastmath=False)
def _words(block, i, draw, kind, key):  # type: ignore[no-untyped-def]
    b = np.uint64(block)
    k = np.uint64(key)
    return _philox(np.uint64(i), b & _LOW, (b >> _32) | np.uint64(kind << 24), np.uint64(draw), k & _LOW, k >> _32)


@nb.njit(forceinline=True, error_model="numpy", fastmath=False)
def _normal_rows(words, rows):  # type: ignore[no-untyped-def]
    """Turn four rows of words into four rows of normals; separate from the Philox loop, so that both vectorise."""
    for lane in (0, 2):
        w0, w1, r0, r1 = words[lane], words[lane + 1], rows[lane], rows[lane + 1]
        for i in range(w0.shape[0]):
            r0[i], r1[i] = _box_muller(w0[i], w1[i])


# fastmath=False is explicit: a caller's fastmath would otherwise apply here and change the numbers
@compiled(nogil=True, error_model="numpy", fastmath=False)
def fill_normals(out, first, draw, key):  # type: ignore[no-untyped-def]
    """Fill out (4 * blocks, width) float32 from block `first` on; the wide and narrow branch give the same numbers."""
    blocks, width = out.shape[0] // 4, out.shape[1]
    if width >= 16:
        words = np.empty((4, width), np.uint32)
        for s in range(blocks):
            w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
            for i in range(width):
                w0[i], w1[i], w2[i], w3[i] = _words(first + s, i, draw, _NOISE, key)
            _normal_rows(words, out[4 * s : 4 * s + 4])
        return
    for start in range(0, blocks, 256):
        count = min(256, blocks - start)
        words, rows = np.empty((4, count), np.uint32), np.empty((4, count), np.float32)
        w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
        for i in range(width):
            for s in range(count):
                w0[s], w1[s], w2[s], w3[s] = _words(first + start + s, i, draw, _NOISE, key)
            _normal_rows(words, rows)
            for s in range(count):
                for lane in range(4):
                    out[4 * (start + s) + lane, i] = rows[lane, s]


@compiled(nogil=True, error_model="numpy", fastmath=False)
def fill_words(out, first, draw, kind, key):  # type: ignore[no-untyped-def]
    """out (4 * blocks, width) uint32 from block `first` on."""
    blocks, width = out.shape[0] // 4, out.shape[1]
    if width >= 16:
        for s in range(blocks):
            w0, w1, w2, w3 = out[4 * s], out[4 * s + 1], out[4 * s + 2], out[4 * s + 3]
            for i in range(width):
                w0[i], w1[i], w2[i], w3[i] = _words(first + s, i, draw, kind, key)
        return
    for start in range(0, blocks, 256):
        count = min(256, blocks - start)
        words = np.empty((4, count), np.uint32)
        w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
        for i in range(width):
            for s in range(count):
                w0[s], w1[s], w2[s], w3[s] = _words(first + start + s, i, draw, kind, key)
            for s in range(count):
                for lane in range(4):
                    out[4 * (start + s) + lane, i] = words[lane, s]


@compiled(nogil=True, error_model="numpy", fastmath=False)
def fill_rows(out, start, every, n, sampling, key):  # type: ignore[no-untyped-def]
    """out (count, b): the rows of X read at steps start..start+count-1, kept for `every` steps each."""
    count, b = out.shape
    first = start // every
    blocks = (start + count - 1) // every // 4 - first // 4 + 1
    order, picks = np.arange(n), np.empty(b, np.int64)
    words = np.empty((4 * blocks, b) if sampling < 3 else (1, 1), np.uint32)
    if sampling < 3:
        fill_words(words, first // 4, 0, _ROWS, key)
    if sampling == 1 and every == 1 and b == 1:  # fast path: steps on one row take hardly longer than drawing it
        drawn = words.reshape(-1)[first % 4 :]
        for k in range(count):
            out[k, 0] = (np.uint64(drawn[k]) * np.uint64(n)) >> _32
        return
    epoch = np.int64(-1)
    for k in range(count):
        t = (start + k) // every
        if sampling == 3:  # epoch reshuffling: one permutation after the other, cut into batches
            for i in range(b):
                if (t * b + i) // n != epoch:
                    epoch = (t * b + i) // n
                    _shuffle(order, epoch, key)
                out[k, i] = order[(t * b + i) % n]
            continue
        drawn = words[t - first // 4 * 4]
        if sampling == 1:
            for i in range(b):
                out[k, i] = (np.uint64(drawn[i]) * np.uint64(n)) >> _32
            continue
        for i in range(b):  # the start of a Fisher-Yates shuffle, undone afterwards
            j = i + np.int64((np.uint64(drawn[i]) * np.uint64(n - i)) >> _32)
            picks[i] = j
            order[i], order[j] = order[j], order[i]
            out[k, i] = order[i]
        for i in range(b - 1, -1, -1):
            order[i], order[picks[i]] = order[picks[i]], order[i]


@compiled(nogil=True, error_model="numpy", fastmath=False)
def _shuffle(order, epoch, key):  # type: ignore[no-untyped-def]
    for i in range(order.shape[0]):
        order[i] = i
    for i in range(order.shape[0] - 1):
        word = _words(epoch, i, 0, _EPOCH, key)[0]
        j = i + np.int64((word * np.uint64(order.shape[0] - i)) >> _32)
        order[i], order[j] = order[j], order[i]


def normals(seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.float32]:
    """Standard normals of steps start..stop-1.

    Args:
        seed: the run's seed. stream: the replica or rank. draw: the draw within the step.
        start, stop: steps. width: numbers a step.

    Returns:
        (stop - start, width) float32.

    >>> bool((normals(0, 0, 3, 9, 5)[2] == normals(0, 0, 5, 6, 5)[0]).all())
    True
    """
    out = np.empty((4 * (-(-stop // 4) - start // 4), width), np.float32)
    fill_normals(out, start // 4, draw, np.uint64(stream_key(seed, stream)))
    return out[start % 4 : start % 4 + stop - start]


def words(seed: int, stream: int, start: int, stop: int, width: int, draw: int = 0) -> NDArray[np.uint32]:
    """Uniform 32-bit words of steps start..stop-1, (stop - start, width) uint32."""
    out = np.empty((4 * (-(-stop // 4) - start // 4), width), np.uint32)
    fill_words(out, start // 4, draw, _NOISE, np.uint64(stream_key(seed, stream)))
    return out[start % 4 : start % 4 + stop - start]


def sampled_rows(
    seed: int, stream: int, start: int, stop: int, *, n: int, batch_size: int, sampling: str, every: int = 1
) -> NDArray[np.int64]:
    """Rows of X that the batches of steps start..stop-1 read.

    Args:
        sampling: "replacement", "noisy_rows" (the rows whose labels are noisy), "without" (distinct
            within a batch) or "shuffle" (distinct within an epoch).
        every: steps that share their rows: 2 for antithetic pairs.

    Returns:
        (stop - start, batch_size) int64.
    """
    out = np.empty((stop - start, batch_size), np.int64)
    code = {"replacement": 1, "noisy_rows": 1, "without": 2, "shuffle": 3}[sampling]
    fill_rows(out, start, every, n, code, np.uint64(stream_key(seed, stream)))
    return out


def check_sampling(n: int, batch_size: int | None, sampling: str | None) -> tuple[int, str]:
    """(batch size, sampling) with the defaults filled in; a one-line ValueError if they do not fit."""
    sampling = sampling_named(sampling)
    if sampling is not None and sampling not in SAMPLINGS:
        raise ValueError(f"sampling={sampling!r} is unknown: choose one of {', '.join(SAMPLINGS)}")
    if batch_size is None:
        if sampling in (None, "full"):
            return n, "full"
        raise ValueError(f"sampling={sampling!r} needs a batch_size: give one from 1 to n={n}")
    batch_size = whole_number("batch_size", batch_size, 1)
    if sampling == "full":
        if batch_size == n:
            return n, "full"
        raise ValueError(f'sampling="full" reads all n={n} rows: drop batch_size={batch_size} or name a sampling')
    if sampling in ("without", "shuffle") and batch_size > n:
        raise ValueError(f"batch_size={batch_size} exceeds the n={n} rows: sample with replacement or take fewer")
    return batch_size, sampling or "replacement"
