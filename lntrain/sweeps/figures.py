"""A sweep's figures: a curve over one axis, heat maps over two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from lntrain.experiments.figures import BLUE, INK, ORANGE, PALETTE

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One number over the axes: mean, half (the interval's half width) and expected, each (lines, points).

    expected is what theory says, under the name `expects`, or None; log: it falls by decades; centre: the
    value that means "as predicted"; marks (lines, points): why there is no number, or "short", of jobs with
    too few steps; bounds: of the number.
    """

    title: str
    mean: Array
    half: Array
    expected: Array | None
    expects: str
    log: bool
    centre: float | None
    marks: Sequence[Sequence[str]]
    bounds: tuple[float, float] = (-np.inf, np.inf)


@dataclass(frozen=True)
class Axis:
    """A swept axis: its name and its values, numbers or words."""

    name: str
    values: Sequence[Any]

    @property
    def numeric(self) -> bool:
        return all(isinstance(value, float) for value in self.values)

    @property
    def log(self) -> bool:
        """Positive numbers that span more than a factor of 8."""
        return self.numeric and min(self.values) > 0 and max(self.values) > 8 * min(self.values)

    @property
    def places(self) -> Array:
        return np.asarray(self.values if self.numeric else range(len(self.values)), dtype=float)

    @property
    def labels(self) -> list[str]:
        return [f"{value:.3g}" if isinstance(value, float) else str(value) for value in self.values]


def curves(axis: Axis, lines: Axis | None, panels: Sequence[Panel], *, title: str = "") -> Figure:
    """Each number over `axis`, its interval as a band, theory dashed; a colour for each value of `lines`."""
    figure = Figure(figsize=(1 + 4.3 * len(panels), 3.9), dpi=150, layout="constrained")
    for ax, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        known = np.isfinite(panel.mean).any(0) | (lines is None)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="#e8eaed", linewidth=0.8)
        for i, mean in enumerate(panel.mean):
            if not np.isfinite(mean).any():
                continue
            colour = BLUE if lines is None else PALETTE[i % len(PALETTE)]
            label = "reached" if lines is None else f"{lines.name}={lines.labels[i]}"
            half = np.nan_to_num(panel.half[i])
            low = np.maximum(mean - half, mean / 10) if panel.log else mean - half
            low, high = np.clip((low, mean + half), *panel.bounds)
            ax.plot(axis.places, mean, color=colour, linewidth=1.8, marker="o", markersize=4, label=label)
            short = np.array(["short" in mark for mark in panel.marks[i]]) & np.isfinite(mean)
            hollow = {"color": colour, "markerfacecolor": "white", "zorder": 3, "linestyle": "", "markersize": 4}
            ax.plot(axis.places[short], mean[short], marker="o", **hollow)
            ax.fill_between(axis.places, low, high, color=colour, alpha=0.18, linewidth=0)
            if panel.expected is not None:
                style = {"color": ORANGE if lines is None else colour, "linestyle": "--", "linewidth": 1.3}
                ax.plot(axis.places[known], panel.expected[i][known], **style)
        if panel.expected is not None:
            ax.plot([], [], color=ORANGE if lines is None else INK, linestyle="--", linewidth=1.3, label=panel.expects)
        if any("short" in mark for line in panel.marks for mark in line):
            ax.plot([], [], color=INK, markerfacecolor="white", marker="o", linestyle="", label="short of steps")
        if lines is None:
            _gone(ax, axis, panel)
        ax.set(
            title=panel.title,
            xlabel=axis.name,
            xscale="log" if axis.log else "linear",
            yscale="log" if panel.log else "linear",
        )
        ax.title.set_fontsize(10)
        if not axis.numeric or len(axis.values) <= 6:
            ax.set_xticks(axis.places[known], np.array(axis.labels)[known])
            ax.xaxis.set_minor_locator(NullLocator())
        ax.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def _gone(ax: Any, axis: Axis, panel: Panel) -> None:
    """A word at the place of each point that has no number."""
    for place, mark, value in zip(axis.places, panel.marks[0], panel.mean[0], strict=True):
        if mark and not np.isfinite(value):
            ax.axvline(place, color=INK, linewidth=0.7, linestyle=":")
            ax.text(
                place, 0.97, mark, rotation=90, va="top", ha="right", fontsize=8, transform=ax.get_xaxis_transform()
            )


def maps(rows: Axis, columns: Axis, panels: Sequence[Panel], *, title: str = "") -> Figure:
    """A heat map for each number, every cell with its value; a cell without one says why."""
    width, height = 1.9 + 0.78 * len(columns.values), 1.5 + 0.5 * len(rows.values)
    figure = Figure(figsize=(max(width, 3.6) * len(panels), max(height, 2.6)), dpi=150, layout="constrained")
    for ax, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        norm, colours = _colours(panel)
        shown = np.ma.masked_invalid(panel.mean)
        image = ax.imshow(shown, norm=norm, cmap=colours, aspect="auto", origin="lower")
        ax.set_facecolor("#eceef1")
        for i, j in np.ndindex(panel.mean.shape):
            value = panel.mean[i, j]
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
                ax.text(
                    j,
                    i,
                    f"{value:.{2 if panel.log else 3}g}" + ("\nshort" if "short" in panel.marks[i][j] else ""),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else INK,
                )
            else:
                ax.text(j, i, panel.marks[i][j], ha="center", va="center", fontsize=7, color=INK)
        ax.set_xticks(range(len(columns.values)), columns.labels)
        ax.set_yticks(range(len(rows.values)), rows.labels)
        ax.set(xlabel=columns.name, ylabel=rows.name)
        ax.set_title(panel.title, fontsize=10)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    figure.suptitle(title, fontsize=11)
    return figure


def _colours(panel: Panel) -> tuple[Normalize, str]:
    """Decades, a centre, or a plain range; a range of no width is widened."""
    values = panel.mean[np.isfinite(panel.mean)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if panel.log and low > 0:
        return LogNorm(low, max(high, 1.01 * low)), "viridis_r"
    if panel.centre is not None:
        far = max(abs(high - panel.centre), abs(low - panel.centre), 0.05)
        return TwoSlopeNorm(panel.centre, panel.centre - far, panel.centre + far), "RdBu_r"
    return Normalize(low, high if high > low else low + 1), "viridis"
