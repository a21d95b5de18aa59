"""The Lasso followed exactly while its labels move: its solution is piecewise linear in them.

Between two events, a coefficient that reaches zero or a column whose slope reaches its penalty, support and
signs stay and the KKT conditions are linear. From labels 0 this is the LARS path; from labels whose Lasso is
known it costs as many events as signs change.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_REAL = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order, nothing assumed of infinities
DEPENDENT = 1e-12  # relative square of what a column adds to those in use, below which it is one of their sums
EVENTS = 20  # times min(n, d), after which it is given up: at ties it may go round in circles


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _without(rows, used, k, factors, labels, out):  # type: ignore[no-untyped-def]
    """out = labels - sum_i factors_i rows[used_i]."""
    out[:] = labels
    for i in range(k):
        row, factor = rows[used[i]], factors[i]
        for m in range(len(out)):
            out[m] -= factor * row[m]


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _enter(rows, used, k, inverse, j):  # type: ignore[no-untyped-def]
    """Border the inverse of the used columns' Gram matrix by column j; False where it depends on them."""
    n, own = rows.shape[1], _dot(rows[j], rows[j]) / rows.shape[1]
    cross, solved = np.empty(k), np.zeros(k)
    for i in range(k):
        cross[i] = _dot(rows[used[i]], rows[j]) / n
    for i in range(k):
        solved[i] = _dot(inverse[i, :k], cross)
    rest = own - _dot(cross, solved)
    if k == len(used) or not rest > DEPENDENT * own:
        return False
    for i in range(k):
        for m in range(k):
            inverse[i, m] += solved[i] * solved[m] / rest
        inverse[i, k] = inverse[k, i] = -solved[i] / rest
    inverse[k, k] = 1 / rest
    used[k] = j
    return True


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _leave(used, k, inverse, coef, i):  # type: ignore[no-untyped-def]
    """Take column number i out: the last one takes its place."""
    last = k - 1
    used[i], coef[i] = used[last], coef[last]
    for m in range(k):
        inverse[i, m], inverse[last, m] = inverse[last, m], inverse[i, m]
    for m in range(k):
        inverse[m, i], inverse[m, last] = inverse[m, last], inverse[m, i]
    for m in range(last):
        for p in range(last):
            inverse[m, p] -= inverse[m, last] * inverse[last, p] / inverse[last, last]


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _settle(rows, used, k, inverse, labels, penalty, sign, coef):  # type: ignore[no-untyped-def]
    """The solution on these signs, refined until only rounding is left; False where a sign differs."""
    n, residual, coef[:k] = rows.shape[1], np.empty(rows.shape[1]), 0.0
    slack = np.empty(k)
    for _ in range(4):
        _without(rows, used, k, coef, labels, residual)
        for i in range(k):
            slack[i] = _dot(rows[used[i]], residual) / n - penalty[used[i]] * sign[used[i]]
        for i in range(k):
            coef[i] += _dot(inverse[i, :k], slack)
    fine = True
    for i in range(k):
        fine = fine and coef[i] * sign[used[i]] > 0
    return fine


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def follow(rows, labels, change, penalty, positive, start):  # type: ignore[no-untyped-def]
    """(coef, whether it came through): the Lasso at `labels + change`, from `start`, its solution at `labels`.

    Args:
        rows: (d, n), the columns of X one after the other. labels, change: (n,). penalty, start: (d,).
        positive: impose beta >= 0.

    Source: Efron et al. 2004 (LARS); Garrigues and El Ghaoui 2008 (moving labels).
    """
    d, n = rows.shape
    room = min(n, d)
    used, inverse, coef = np.empty(room, np.int64), np.empty((room, room)), np.zeros(room)
    sign, out, k = np.zeros(d), np.zeros(d), 0
    for j in range(d):
        if start[j] != 0:
            if not _enter(rows, used, k, inverse, j):
                return out, False
            sign[j], coef[k] = np.sign(start[j]), start[j]
            k += 1
    residual, drift, slope, turn = np.empty(n), np.empty(n), np.empty(d), np.empty(d)
    pull, move, gone = np.empty(room), np.empty(room), 0.0
    _without(rows, used, k, coef, labels, residual)
    for j in range(d):
        slope[j] = _dot(rows[j], residual) / n
    for _ in range(EVENTS * room + 1):
        for i in range(k):
            pull[i] = _dot(rows[used[i]], change) / n
        for i in range(k):
            move[i] = _dot(inverse[i, :k], pull[:k])
        _without(rows, used, k, move, change, drift)
        step, leaving, entering = 1.0 - gone, -1, -1
        for i in range(k):
            if move[i] * sign[used[i]] < 0 and -coef[i] / move[i] < step:
                step, leaving = max(-coef[i] / move[i], 0.0), i
        for j in range(d):
            turn[j] = _dot(rows[j], drift) / n
            if sign[j] == 0 and (turn[j] > 0 or (turn[j] < 0 and not positive)):
                reach = (np.sign(turn[j]) * penalty[j] - slope[j]) / turn[j]
                if reach < step:
                    step, leaving, entering = max(reach, 0.0), -1, j
        gone += step
        for i in range(k):
            coef[i] += step * move[i]
        for j in range(d):
            slope[j] += step * turn[j]
        if leaving >= 0:
            sign[used[leaving]] = 0.0
            _leave(used, k, inverse, coef, leaving)
            k -= 1
        elif entering >= 0:
            if not _enter(rows, used, k, inverse, entering):
                return out, False
            sign[entering], coef[k] = np.sign(slope[entering]), 0.0
            k += 1
        else:
            fine = _settle(rows, used, k, inverse, labels + change, penalty, sign, coef)
            for i in range(k):
                out[used[i]] = coef[i]
            return out, fine
    return out, False
