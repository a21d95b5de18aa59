"""Names of columns in figures: on an axis, at the ends of lines, and which columns there is room to name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lntrain.runs.coefficients import short

NAMED = 60  # columns with room for their names
GREY = "#a9b0b7"


def that_matter(mean: Any, reference: Any, most: int) -> NDArray[np.intp]:
    """The columns of the Lasso, then the largest others, at most `most`, in the order of columns.

    >>> that_matter([0.1, 0.0, 0.3, 0.2], [0.0, 0.1, 0.0, 0.0], most=2).tolist()
    [1, 2]
    """
    mean, reference = np.abs(mean), np.abs(reference)
    order = np.lexsort((-np.maximum(mean, reference), reference == 0))
    return np.sort(order[:most])


def name_ticks(ax: Axes, names: Sequence[str]) -> None:
    """A name under each place of the x axis, upright, in a size that fits."""
    size = float(np.clip(330 / max(len(names), 1), 5.5, 8))
    labels = [plain(name) for name in names]
    ax.set_xticks(range(len(names)), labels, rotation=90, fontsize=size)
    ax.grid(False, axis="x")


def name_ends(
    ax: Axes, heights: Sequence[float], names: Sequence[str], *, size: float = 7.5, gap: float = 0.055
) -> None:
    """A name at the right of each line, at its last height; names that would overlap are moved apart."""
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)
    ends = (np.asarray(heights, dtype=float) - low) / (high - low)
    places = apart(ends, gap)
    for end, place, name in zip(ends, places, names, strict=True):
        ax.annotate(
            plain(name),
            (1.0, end),
            (1.05, place),
            "axes fraction",
            "axes fraction",
            fontsize=size,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": GREY,
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def apart(places: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Places in [0, 1] in the same order, no two nearer than `gap` (or than there is room for).

    >>> apart(np.array([0.5, 0.5, 0.99]), 0.1).round(2).tolist()
    [0.45, 0.55, 0.99]
    """
    gap = min(gap, 1 / max(len(places) - 1, 1))
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    wished = places[order] - steps  # so shifted, they must only be nondecreasing
    blocks: list[list[float]] = []  # (mean, size): isotonic regression by pooling adjacent violators
    for value in wished:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [[(a * m + b * n) / (m + n), m + n]]
    risen = np.concatenate([np.full(int(n), mean) for mean, n in blocks])
    moved = np.empty_like(places)
    moved[order] = np.clip(risen, 0, 1 - steps[-1]) + steps
    return moved


def plain(name: str) -> str:
    """A short name, its dollar signs escaped so that matplotlib does not read them as mathematics."""
    return short(name).replace("$", r"\$")
