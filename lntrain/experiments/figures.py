"""Arrays in, Figure out."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from lntrain.experiments.figure_names import NAMED, name_ends, name_ticks, that_matter
from lntrain.experiments.verdicts import Panel as Panel

PALETTE = (
    "#2563a8", "#e07a1f", "#3a8f5c", "#b5408a", "#7a5cc4", "#1aa0a8",
    "#c4413b", "#8a6d1f", "#4f7fd0", "#f0a860", "#75b58e", "#d98cbd",
)  # fmt: skip
LINES = ("--", ":", "-.")
INK, BLUE, ORANGE, GREEN, GREY = "#222222", "#2563a8", "#e07a1f", "#3a8f5c", "#a9b0b7"


def new_figure(width: float = 7.2, height: float = 4.2, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="#e8eaed", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, list(axes)


def coefficients(
    mean: Any,
    reference: Any,
    *,
    sd: Any = None,
    truth: Any = None,
    names: Sequence[str] | None = None,
    which: str = "time average",
    title: str = "",
) -> Figure:
    """The time average of beta (with its sd over replicas) on the stems of the predicted Lasso.

    Args:
        mean, reference, sd, truth: (d,). With many columns only those that matter are drawn.
        names: of the d columns, which then stand under the axis. which: average `mean` is.
    """
    mean, reference = np.asarray(mean), np.asarray(reference)
    shown = that_matter(mean, reference, 150 if names is None else NAMED)
    x = np.arange(len(shown))
    figure, (ax,) = new_figure(7.2 if names is None or len(shown) <= 30 else 10.2, 4.2 if names is None else 5.0)
    ax.axhline(0, color=INK, linewidth=0.8)
    stems = ax.stem(
        x, reference[shown], linefmt="-", markerfmt="o", basefmt=" ", label="Lasso, predicted before step 1"
    )
    stems.markerline.set(color=ORANGE, markersize=8, markerfacecolor="none", markeredgewidth=1.8)
    stems.stemlines.set(color=ORANGE, linewidth=1.4, alpha=0.6)
    bars = None if sd is None else np.asarray(sd)[shown]
    ax.errorbar(
        x, mean[shown], yerr=bars, fmt="o", color=BLUE, markersize=3.6, linewidth=1.2, label=f"{which} of training"
    )
    if truth is not None:
        on = np.asarray(truth)[shown] != 0
        ax.scatter(
            x[on], np.asarray(truth)[shown][on], marker="_", s=90, color=INK, linewidth=1.4, label="truth", zorder=3
        )
    some = f"the Lasso's columns and the largest others, {len(shown)} of {len(mean)}"
    every = "coordinate" if names is None else ""
    ax.set(xlabel=every if len(shown) == len(mean) else some, ylabel=r"$\beta_j$", title=title)
    ax.margins(x=0.02, y=0.12)
    if names is not None:
        name_ticks(ax, [names[j] for j in shown])
    figure.legend(frameon=False, ncols=3, loc="outside lower center")
    return figure


def trajectories(
    steps: Any,
    last: Any,
    mean: Any,
    reference: Any,
    *,
    names: Sequence[str] | None = None,
    which: str = "time average",
    title: str = "",
    floor: float = 1e-12,
) -> Figure:
    """|beta| against the step: on the support to the Lasso's values, off it exponentially to zero.

    Args:
        steps: (S,). last, mean: (S, m) the last iterate and the time average of m coordinates. reference: (m,).
        names: of the m coordinates; those of the support stand at the right of their lines, (-) after a negative one.
    """
    steps, last, mean, reference = (np.asarray(v) for v in (steps, last, mean, reference))
    figure, (left, right) = new_figure(9.6, 4.0, 2)
    for j in np.flatnonzero(reference):
        sign = np.sign(reference[j])
        left.plot(steps, sign * last[:, j], color=BLUE, linewidth=0.9, alpha=0.35)
        left.plot(steps, sign * mean[:, j], color=BLUE, linewidth=1.6)
        left.axhline(abs(reference[j]), color=ORANGE, linewidth=1.2, linestyle="--")
    for j in np.flatnonzero(reference == 0):
        right.plot(steps, np.maximum(np.abs(last[:, j]), floor), color=GREY, linewidth=0.9)
    left.plot([], [], color=BLUE, linewidth=0.9, alpha=0.35, label="last iterate")
    left.plot([], [], color=BLUE, linewidth=1.6, label=which)
    left.plot([], [], color=ORANGE, linestyle="--", label="Lasso, predicted")
    left.set(xscale="log", xlabel="step", ylabel=r"$|\beta_j|$", title="on the support")
    left.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=8)
    if names is not None:
        on = np.flatnonzero(reference)
        marks = [names[int(j)] + ("" if reference[j] > 0 else " (-)") for j in on]
        name_ends(left, [mean[-1, j] * np.sign(reference[j]) for j in on], marks)
    right.set(
        xscale="log",
        yscale="log",
        xlabel="step",
        ylabel=r"$|\beta_j|$ (last iterate)",
        title="off the support",
        ylim=(floor, None),
    )
    figure.suptitle(title)
    return figure


def errors(
    steps: Any,
    curves: Mapping[str, Any],
    *,
    bands: Mapping[str, Any] | None = None,
    guides: bool = True,
    expected: tuple[float, float, float] | None = None,
    title: str = "",
) -> Figure:
    """Distances to the Lasso against the step, log-log, with the rates of theory as guides.

    Args:
        steps: (S,). curves: label -> (S,). bands: label -> (S,) sd over replicas.
        expected: (distance, low, high) predicted for the first curve's end.
    """
    steps = np.asarray(steps, dtype=float)
    figure, (ax,) = new_figure(6.4, 4.4)
    for (label, values), colour in zip(curves.items(), (BLUE, GREEN, GREY, ORANGE), strict=False):
        values = np.asarray(values, dtype=float)
        ax.plot(steps, values, color=colour, linewidth=1.8, label=label)
        if bands and label in bands:
            sd = np.asarray(bands[label], dtype=float)
            ax.fill_between(
                steps, np.maximum(values - sd, values / 10), values + sd, color=colour, alpha=0.18, linewidth=0
            )
        if guides and colour in (BLUE, GREEN) and len(steps) > 8:
            power = -0.5 if colour == BLUE else -1.0
            tail = steps >= steps[-1] / 30
            ax.plot(
                steps[tail],
                values[tail][0] * (steps[tail] / steps[tail][0]) ** power,
                color=colour,
                linestyle=":",
                linewidth=1.2,
                label=rf"slope ${'-1/2' if colour == BLUE else '-1'}$",
            )
    if expected is not None:
        middle, low, high = expected
        ax.errorbar(
            steps[-1], middle, yerr=[[middle - low], [high - middle]], fmt="_", color=ORANGE, markersize=14,
            capsize=5, linewidth=1.6, zorder=4, label="predicted before step 1, nine runs of ten",
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="relative distance to the Lasso", title=title)
    ax.legend(frameon=False, fontsize=8)
    return figure


def figure1(steps: Any, curves: Mapping[str, Mapping[str, Any]], *, title: str = "") -> Figure:
    """The paper's Figure 1: squared error, a coordinate on the support and one off it, over log10 of the step.

    Args:
        steps: (S,). curves: algorithm -> {"error", "on", "off"}, each (R, S); median and range over R are drawn.
    """
    x = np.log10(np.asarray(steps, dtype=float))
    figure, axes = new_figure(12.6, 3.9, 3)
    styles = {0: (GREY, "-"), 1: (INK, "--"), 2: (BLUE, "-"), 3: (ORANGE, "--")}
    for i, (name, panel) in enumerate(curves.items()):
        colour, line = styles[i % 4]
        for ax, key in zip(axes, ("error", "on", "off"), strict=True):
            values = np.asarray(panel[key], dtype=float)
            if key == "error":
                values = np.log10(np.maximum(values, 1e-12))
            ax.plot(x, np.median(values, 0), color=colour, linestyle=line, linewidth=1.7, label=name)
            if len(values) > 1:
                ax.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
    axes[0].set(title="squared error", ylabel=r"$\log_{10}\|\beta-\beta^*\|^2$")
    axes[1].set(title="a coordinate on the support", ylabel=r"$\beta_j$")
    axes[2].set(title="a coordinate off the support", ylabel=r"$\beta_j$")
    for ax in axes:
        ax.set_xlabel(r"$\log_{10}$ step")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title)
    return figure


def figures1(steps: Any, curves: Mapping[str, Mapping[str, Any]], stds: Sequence[float]) -> dict[str, Figure]:
    """`figure1` for each std: the curves without noise and those with this std."""
    drawn = {}
    for std in stds:
        shown = {name: panel for name, panel in curves.items() if "batch" not in name}
        chosen = {name: panel for name, panel in shown.items() if "std" not in name or name.endswith(f"std {std:g}")}
        title = f"Four algorithms from one init: label noise of standard deviation {std:g} (variance {std**2:.2g})"
        drawn[f"figure1_std_{std:g}"] = figure1(steps, chosen, title=title)
    return drawn


def arms(panels: Sequence[Panel], *, title: str = "") -> Figure:
    """Panels side by side, one colour per arm."""
    figure, axes = new_figure(max(7.2, 4.4 * len(panels)), 4.0, len(panels))
    legend: dict[str, Any] = {}
    for ax, panel in zip(axes, panels, strict=True):
        for (name, (x, values)), colour in zip(panel.curves.items(), (BLUE, ORANGE, GREEN, GREY, INK), strict=False):
            middle, low, high = _band(np.asarray(values, dtype=float), panel)
            dots = "o" if len(middle) <= 40 else ""
            (legend[name],) = ax.plot(x, middle, color=colour, linewidth=1.8, marker=dots, markersize=3)
            ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        for (name, (x, y)), line in zip(panel.theory.items(), LINES, strict=False):
            (legend[name],) = ax.plot(x, y, color=INK, linestyle=line, linewidth=1.2)
        if panel.mark is not None:
            style = LINES[
                list(dict.fromkeys(p.mark_label for p in panels if p.mark is not None)).index(panel.mark_label)
            ]
            legend[panel.mark_label] = ax.axvline(panel.mark, color=INK, linestyle=style, linewidth=0.9)
        ax.set_title(panel.title, fontsize=10)
        ax.set(xlabel=panel.xlabel, xscale="log" if panel.logx else "linear", yscale="log" if panel.log else "linear")
        few_ticks(ax)
        places = sorted({float(place) for x, _ in panel.curves.values() for place in x})
        if len(places) <= 6 and not panel.logx:
            ax.set_xticks(places)
    figure.legend(
        legend.values(),
        legend.keys(),
        loc="outside lower center",
        ncols=len(legend) if len(legend) < 5 else 3,
        frameon=False,
    )
    figure.suptitle(textwrap.fill(title, int(10 * figure.get_figwidth())), fontsize=11)
    return figure


def _band(values: NDArray[np.float64], panel: Panel) -> tuple[NDArray[np.float64], ...]:
    """The middle of (S, R) over seeds and one standard deviation to both sides."""
    if panel.geometric and panel.log and (values > 0).all():
        logs = np.log(values)
        mean, sd = logs.mean(1), logs.std(1, ddof=min(1, values.shape[1] - 1))
        return np.exp(mean), np.exp(mean - sd), np.exp(mean + sd)
    mean, sd = values.mean(1), values.std(1, ddof=min(1, values.shape[1] - 1))
    return mean, np.maximum(mean - sd, values.min(1)) if panel.log else mean - sd, mean + sd


def few_ticks(ax: Axes) -> None:
    """Labels at 1, 2 and 5 on a logarithmic axis of less than two decades, where those of all minor ticks overlap."""
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        if axis.get_scale() == "log" and high < 100 * low:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())


def claim(
    bars: Sequence[tuple[str, str, float, float, float, float, str]],
    curves: Sequence[tuple[str, Any, Any, str]],
    axes: Mapping[str, Any],
    *,
    title: str = "",
) -> Figure:
    """A claim's checks, each measured over predicted with its interval; beside them its curves, where it has some.

    Args:
        bars: (name, relation, predicted, allowance, mean, half-width, verdict).
        curves: (name, x (S,), y (S,) or (S, R), style); of R seeds the median and the range are drawn.
        axes: what `Axes.set` takes, for the curves.
    """
    width = 7.6 if not curves else 12.4
    figure, panels = new_figure(width, max(3.6, 1.6 + 0.45 * len(bars)), 1 + bool(curves))
    ax, places = panels[0], range(len(bars), 0, -1)
    labels = []
    for y, (name, relation, predicted, allowance, mean, half, verdict) in zip(places, bars, strict=True):
        unit = abs(predicted) or 1.0
        shift = 0.0 if predicted else 1.0  # where 0 is predicted, the difference is drawn
        labels.append(f"{name} {relation} {predicted:.4g}")
        if relation == "=":
            ax.barh(y, 2 * allowance / unit, left=1 - allowance / unit, height=0.5, color=ORANGE, alpha=0.35)
        place = min(max(mean / unit * np.sign(predicted or 1.0) + shift, 0.0), 2.0)
        colour = BLUE if verdict == "holds" else PALETTE[6]
        ax.errorbar(place, y, xerr=half / unit, fmt="o", color=colour, markersize=5, capsize=3)
    ax.axvline(1.0, color=ORANGE, linewidth=1.4)
    ax.set_yticks(list(places), labels, fontsize=7)
    ax.set(xlim=(-0.05, 2.05), ylim=(0.4, len(bars) + 0.6), xlabel="measured / predicted (drawn within 0 to 2)")
    for (name, x, y, style), colour in zip(curves, PALETTE, strict=False):
        values = np.asarray(y, dtype=float)
        panels[1].plot(
            x, values if values.ndim == 1 else np.median(values, 1), style, color=colour, label=name, markersize=4
        )
        if values.ndim == 2:
            panels[1].fill_between(x, values.min(1), values.max(1), color=colour, alpha=0.18, linewidth=0)
    if curves:
        panels[1].set(**axes)
        few_ticks(panels[1])
        panels[1].legend(frameon=False, fontsize=8)
    figure.suptitle(textwrap.fill(title, 110 if curves else 80), fontsize=10)
    return figure
