"""Rules that a program can check: each gives checks of numbers over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lntrain.experiments.verdicts import Check

Array = NDArray[np.float64]


def at_most(name: str, values: Any, bound: float) -> Check:
    """The whole one-sided interval lies below a bound."""
    return Check(name, bound, values, "<=")


def at_least(name: str, values: Any, bound: float) -> Check:
    """The whole one-sided interval lies above a bound."""
    return Check(name, bound, values, ">=")


def within(name: str, values: Any, low: float, high: float) -> list[Check]:
    """The interval lies between two bounds."""
    return [at_least(f"{name}, from below", values, low), at_most(f"{name}, from above", values, high)]


def ratio(name: str, one: Any, other: Any, bound: float, relation: str = "<=") -> Check:
    """The geometric mean of one / other, paired by seed, with its interval, lies on one side of a bound."""
    return Check(name, bound, np.asarray(one, dtype=float) / np.asarray(other, dtype=float), relation)


def ordered(name: str, arms: Sequence[Any], bound: float) -> list[Check]:
    """Each of a sequence over the one before it is at most `bound`, paired by seed."""
    pairs = enumerate(pairwise(arms), 1)
    return [ratio(f"{name}, {i + 1} over {i}", after, before, bound) for i, (before, after) in pairs]


def slopes(x: Any, y: Any) -> Array:
    """(R,) least-squares slopes of log y (S, R) on log x (S,).

    >>> slopes([1.0, 10.0], [[1.0], [100.0]]).round(9).tolist()
    [2.0]
    """
    return np.asarray(np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1)[0])


def straightness(x: Any, y: Any, low: float, high: float) -> Array:
    """(R,) squared correlations of log y (S, R) with x (S,), where y lies between two bounds; 0 for under three points.

    >>> straightness([0.0, 1.0, 2.0, 3.0], np.exp([[0.0], [-1.0], [-2.0], [-3.0]]), 1e-9, 2.0).round(9).tolist()
    [1.0]
    """
    x, found = np.asarray(x, float), []
    for column in np.asarray(y, float).T:
        seen = (low < column) & (column < high)
        found.append(np.corrcoef(x[seen], np.log(column[seen]))[0, 1] ** 2 if seen.sum() > 2 else 0.0)
    return np.array(found)
