"""The Lasso for shifted labels by active sets: from one solution to the next in as many steps as signs change.

For a given support and signs the KKT conditions are linear. Each step moves towards their solution; a coefficient
that reaches zero leaves the active set, then the column that violates its condition most enters. The objective falls
at every step, so any start works, ties and dependent columns included: a column that is a linear combination of the
active ones replaces one of them, at the same fit and a smaller penalty.

np.int64(0) where 0 would do: for a literal numba compiles what it is handed to once more. Loops where a slice would
do: for the message of shapes that do not match it compiles half of its strings.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_REAL = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order, nothing assumed of infinities
DEPENDENT = 1e-11  # a column whose part outside the active ones' span has a smaller relative norm is dependent
BROKEN = 1e-11  # relative excess of a slope over its penalty, above which it is not mere rounding
EVENTS = 20  # times min(n, d): the steps before giving up
STALE = 1e-14  # relative fall of the objective, above which it counts as progress
_EPS = 2.0**-52


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _without(rows, used, k, factors, labels, out):  # type: ignore[no-untyped-def]
    """out = labels - sum_i factors_i rows[used_i]."""
    for m in range(len(out)):
        out[m] = labels[m]
    for i in range(k):
        row, factor = rows[used[i]], factors[i]
        for m in range(len(out)):
            out[m] -= factor * row[m]


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _enter(rows, used, k, basis, factor, j):  # type: ignore[no-untyped-def]
    """rows[j] = sum_i factor[k, i] basis[i], i <= k, orthonormal; False where the part in basis[k] is rounding."""
    left = rows[j].copy()
    own = np.sqrt(_dot(left, left))
    factor[k, : k + 1] = 0.0
    rest, before = own, np.inf
    while rest < 0.7 * before:  # repeat Gram-Schmidt where it cancelled: twice is enough
        before = rest
        for i in range(k):
            part = _dot(basis[i], left)
            factor[k, i] += part
            for m in range(len(left)):
                left[m] -= part * basis[i, m]
        rest = np.sqrt(_dot(left, left))
        if not rest > DEPENDENT * own:
            return False
    if k == len(basis):
        return False
    factor[k, k] = rest
    for m in range(len(left)):
        basis[k, m] = left[m] / rest
    used[k] = j
    return True


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _leave(used, k, basis, factor, coef, i):  # type: ignore[no-untyped-def]
    """Take column number i out; rotations make the factor triangular again."""
    for m in range(i, k - 1):
        used[m], coef[m] = used[m + 1], coef[m + 1]
        for p in range(m + 2):
            factor[m, p] = factor[m + 1, p]
    for m in range(i, k - 1):
        size = np.hypot(factor[m, m], factor[m, m + 1])
        c, s = factor[m, m] / size, factor[m, m + 1] / size
        for p in range(m, k - 1):
            a, b = factor[p, m], factor[p, m + 1]
            factor[p, m], factor[p, m + 1] = c * a + s * b, c * b - s * a
        for p in range(basis.shape[1]):
            a, b = basis[m, p], basis[m + 1, p]
            basis[m, p], basis[m + 1, p] = c * a + s * b, c * b - s * a


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _back(factor, k, values):  # type: ignore[no-untyped-def]
    """values becomes x with sum_m x_m factor[m] = values."""
    for m in range(k - 1, -1, -1):
        values[m] /= factor[m, m]
        for i in range(m):
            values[i] -= values[m] * factor[m, i]


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _descend(rows, used, k, basis, factor, labels, penalty, sign, coef, residual, passes):  # type: ignore[no-untyped-def]
    """Move to the optimum for these signs, dropping coefficients that reach zero: (how many stay, whether any moved).

    One pass solves the equations, two more remove its rounding error.
    """
    n, move, pull, settled, moved = len(labels), np.empty(k), np.empty(k), 0, False
    while k > 0 and settled < passes:
        for m in range(k):
            pull[m] = (n * penalty[used[m]] * sign[used[m]] - _dot(factor[m, :m], pull[:m])) / factor[m, m]
            move[m] = _dot(basis[m], residual) - pull[m]
        _back(factor, k, move)
        step: float = 1.0
        leaving: Any = np.int64(-1)
        for i in range(k):
            if move[i] * sign[used[i]] < 0 and -coef[i] / move[i] < step:
                step, leaving = max(-coef[i] / move[i], 0.0), i
        for i in range(k):
            coef[i] += step * move[i]
        moved = moved or step > 0
        settled += 1
        if leaving >= 0:
            sign[used[leaving]], settled = 0.0, 0
            _leave(used, k, basis, factor, coef, leaving)
            k -= 1
        _without(rows, used, k, coef, labels, residual)
    return k, moved


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _exchange(rows, used, k, basis, factor, penalty, sign, coef, j, amount):  # type: ignore[no-untyped-def]
    """Bring in column j, dependent on the active ones: the fit stays, the penalty falls until a coefficient is zero."""
    parts = factor[k, :k].copy()
    _back(factor, k, parts)
    rate = penalty[j]
    for i in range(k):
        rate -= sign[j] * parts[i] * penalty[used[i]] * sign[used[i]]
    way = sign[j] if rate < 0 else -sign[j]
    step: float = np.inf if rate < 0 else abs(amount)
    leaving: Any = np.int64(-1)
    for i in range(k):
        fall = way * parts[i] * sign[used[i]]
        if fall > DEPENDENT * penalty[j] / penalty[used[i]] and abs(coef[i]) / fall < step:
            step, leaving = abs(coef[i]) / fall, i
    if step == np.inf:
        step = 0.0
    for i in range(k):
        coef[i] -= way * step * parts[i]
    if leaving < 0:
        sign[j] = 0.0
        return k
    sign[used[leaving]] = 0.0
    _leave(used, k, basis, factor, coef, leaving)
    if not _enter(rows, used, k - 1, basis, factor, j):
        sign[j] = 0.0
        return k - 1
    coef[k - 1] = amount + way * step
    return k


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _worst(rows, norms, residual, mass, penalty, positive, sign, blocked):  # type: ignore[no-untyped-def]
    """(the column that breaks its KKT condition most, its sign), (-1, 0) where none does by more than rounding."""
    n, worst, entering, side = len(residual), 0.0, -1, 0.0
    for j in range(len(rows)):
        if sign[j] == 0 and not blocked[j] and norms[j] > 0:
            slope = _dot(rows[j], residual) / n
            over = (slope if positive else abs(slope)) - penalty[j]
            if over > BROKEN * penalty[j] + _EPS * norms[j] * mass / n and over / norms[j] > worst:
                worst, entering, side = over / norms[j], j, np.sign(slope)
    return entering, side


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _take_in(rows, used, k, basis, factor, penalty, sign, coef, j, amount):  # type: ignore[no-untyped-def]
    """Make column j active with its coefficient, or exchange it for an active column where it depends on them."""
    if not _enter(rows, used, k, basis, factor, j):
        return _exchange(rows, used, k, basis, factor, penalty, sign, coef, j, amount)
    coef[k] = amount
    return k + 1


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _begin(rows, used, basis, factor, penalty, sign, norms, coef, positive, start):  # type: ignore[no-untyped-def]
    """Make the columns active whose entry in `start` is not zero; returns how many."""
    k = np.int64(0)
    for j in range(len(rows)):
        norms[j] = np.sqrt(_dot(rows[j], rows[j]))
        if start[j] > 0 or (start[j] < 0 and not positive):
            sign[j] = np.sign(start[j])
            k = _take_in(rows, used, k, basis, factor, penalty, sign, coef, j, start[j])
    return k


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def _objective(used, k, norms, y, penalty, coef, residual):  # type: ignore[no-untyped-def]
    """(the Lasso's objective, the size of the terms that the residual is a difference of)."""
    value, mass = _dot(residual, residual) / (2 * len(y)), np.sqrt(_dot(y, y))
    for i in range(k):
        value += penalty[used[i]] * abs(coef[i])
        mass += norms[used[i]] * abs(coef[i])
    return value, mass


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REAL)
def active_set_lasso(rows, labels, change, penalty, positive, start):  # type: ignore[no-untyped-def]
    """(coef, whether it converged): the Lasso for `labels + change`, fastest if `start` solves it for `labels`.

    Args:
        rows: (d, n), the columns of X as rows. labels, change: (n,). penalty, start: (d,).
        positive: impose beta >= 0.

    Source: Osborne, Presnell and Turlach 2000 (active sets for the Lasso); Lawson and Hanson 1974.
    """
    d, n = rows.shape
    room = min(n, d)
    used, coef, y = np.empty(room + 1, np.int64), np.zeros(room + 1), labels + change
    basis, factor = np.empty((room, n)), np.zeros((room + 1, room + 1))
    sign, norms = np.zeros(d), np.empty(d)
    k = _begin(rows, used, basis, factor, penalty, sign, norms, coef, positive, start)
    residual, blocked = np.empty(n), np.zeros(d, np.bool_)
    best, stale, entering = np.inf, 0, -1
    passes: Any = np.int64(3)
    _without(rows, used, k, coef, y, residual)
    for _ in range(EVENTS * (room + 1)):
        k, moved = _descend(rows, used, k, basis, factor, y, penalty, sign, coef, residual, passes)
        value, mass = _objective(used, k, norms, y, penalty, coef, residual)
        if value < best * (1 - STALE):
            stale, blocked[:] = 0, False
        elif entering >= 0:
            stale += 1
            blocked[entering] = not moved or sign[entering] == 0  # rounding alone let it in
        best = min(best, value)
        entering, side = _worst(rows, norms, residual, mass, penalty, positive, sign, blocked)
        if stale > 2 * room + 20 or (entering < 0 and passes == 3):
            break
        passes = 1 if entering >= 0 else 3  # no violation left after one pass: check again, more accurately
        if entering >= 0:
            sign[entering] = side
            k = _take_in(rows, used, k, basis, factor, penalty, sign, coef, entering, 0.0)
            _without(rows, used, k, coef, y, residual)
    out = np.zeros(d)
    for i in range(k):
        out[used[i]] = coef[i]
    return out, entering < 0
