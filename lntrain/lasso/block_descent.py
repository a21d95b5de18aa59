"""The group lasso's solver, without its certificate: blocks in turn, each solved exactly, then Newton on those left.

All in whitened coordinates z_g, in which group g is penalised by ||z_g|| and its curvature is diagonal.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROOT = 1e-15  # relative error of a block's length
_EPS = 2.0**-52


@nb.njit(cache=True, nogil=True, error_model="numpy")
def length(slope, curvature, penalty):  # type: ignore[no-untyped-def]
    """nu = ||z|| of min (1/2) z.diag(curvature) z - slope.z + penalty ||z||: sum_i slope_i^2/(q_i nu + penalty)^2 = 1.

    Newton on the reciprocal root of the left side, concave in nu: from a lower bound it rises to the root.
    """
    steepest, most = 0.0, 0.0
    for i in range(len(slope)):
        steepest += slope[i] ** 2
        most = max(most, curvature[i])
    if steepest <= penalty**2:
        return 0.0
    nu = (np.sqrt(steepest) - penalty) / most
    for _ in range(100):
        size, fall = 0.0, 0.0
        for i in range(len(slope)):
            part = slope[i] / (curvature[i] * nu + penalty)
            size += part**2
            fall += part**2 * curvature[i] / (curvature[i] * nu + penalty)
        move = (np.sqrt(size) - 1) * size / fall
        nu += move
        if not move > ROOT * nu:
            break
    return nu


@nb.njit(cache=True, nogil=True, error_model="numpy")
def sweep(columns, begins, curvature, penalty, residual, z, zeros):  # type: ignore[no-untyped-def]
    """One pass over the groups, in place; without `zeros` over those that are not zero. The fit's squared moves."""
    n, moved = len(residual), 0.0
    for g in range(len(penalty)):
        first, last = begins[g], begins[g + 1]
        own, q = z[first:last], curvature[first:last]
        slope, still = np.empty(last - first), True
        for i in range(last - first):
            still &= own[i] == 0
        if first == last or (still and not zeros):
            continue
        for i in range(last - first):
            slope[i] = q[i] * own[i] + np.dot(columns[first + i], residual) / n
        nu = length(slope, q, penalty[g])
        for i in range(last - first):
            move = slope[i] * nu / (q[i] * nu + penalty[g]) - own[i]
            for m in range(n):
                residual[m] -= move * columns[first + i, m]
            moved += q[i] * move**2
            own[i] += move
    return moved


@nb.njit(cache=True, nogil=True, error_model="numpy")
def sweeps(columns, begins, curvature, penalty, residual, z, most):  # type: ignore[no-untyped-def]
    """At most so many passes, in place: after each over all groups up to ten over the groups that are not zero."""
    for _ in range(most):
        moved = sweep(columns, begins, curvature, penalty, residual, z, True)
        for _ in range(10):
            if not sweep(columns, begins, curvature, penalty, residual, z, False) > 1e-3 * moved:
                break
        if not moved > _EPS**2 * (residual @ residual):
            break


def newton(columns: Array, begins: NDArray[np.int64], penalty: Array, y: Array, z: Array) -> Array:
    """Damped Newton on the groups that are not zero: z, its objective no higher; no group leaves or enters."""
    own = np.repeat(np.arange(len(penalty)), np.diff(begins))
    active = np.bincount(own, z**2, len(penalty)) > 0
    on = active[own]
    part, value, lam = columns[on], z[on], penalty[active]
    group = np.cumsum(active)[own[on]] - 1
    gram = part @ part.T / len(y)

    def norms(value: Array) -> Array:
        return np.sqrt(np.bincount(group, value**2, len(lam)))

    def objective(value: Array) -> float:
        residual = y - value @ part
        return float(residual @ residual / (2 * len(y)) + lam @ norms(value))

    for _ in range(30 * bool(len(lam))):
        unit, pull = value / norms(value)[group], (lam / norms(value))[group]
        slope = pull * value - part @ (y - value @ part) / len(y)
        bent = np.diag(pull) - np.where(group[:, None] == group, np.outer(pull * unit, unit), 0.0)
        move = np.linalg.lstsq(gram + bent, -slope, rcond=1e-13)[0]
        share, before = 1.0, objective(value)
        while share > 1e-6 and not objective(value + share * move) < before:
            share /= 2
        if share <= 1e-6 or not norms(value + share * move).all():
            break
        value = value + share * move
    better = z.copy()
    better[on] = value
    return better
