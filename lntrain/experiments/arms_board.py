"""Arms in TensorBoard and in tables: means over seeds, and one standard deviation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lntrain.runs.dashboard import Dashboard


def show(dashboard: Dashboard, arm: str, step: int, values: Mapping[str, Sequence[float]]) -> None:
    """A point of an arm: the mean over seeds, and one standard deviation about it."""
    for name, numbers in values.items():
        mean, sd = spread(numbers)
        for tag, value in zip(_tags(name, arm), (mean, mean - sd, mean + sd), strict=True):
            dashboard.writer.add_scalar(tag, value, step)


def _tags(metric: str, arm: str) -> list[str]:
    """TensorBoard's tags of the mean, and of the lower and the upper edge of its band."""
    arm = arm.replace(" ", "_").replace(",", "").replace("+", "and")
    return [f"{metric}/{arm}", f"band/{metric}/{arm}_low", f"band/{metric}/{arm}_high"]


def layout(metrics: Iterable[str], arms: Sequence[str]) -> dict[str, Any]:
    """TensorBoard's custom scalars: the arms of a metric in one chart, then each with its band."""
    charts: dict[str, Any] = {"Means over seeds": {}, "Mean over seeds, and one standard deviation": {}}
    together, apart = charts.values()
    for name in metrics:
        together[name] = ["Multiline", [_tags(name, arm)[0] for arm in arms]]
        apart |= {f"{name}: {arm}": ["Margin", _tags(name, arm)] for arm in arms}
    return charts


def spread(values: Any) -> tuple[float, float]:
    """Mean and standard deviation over seeds.

    >>> spread([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, *lines)).replace(
        "\n", f"\n|{'---|' * len(heads)}\n", 1
    )


def pm(values: Any) -> str:
    """Mean +/- standard deviation, as text.

    >>> pm([1.0, 3.0])
    '2 ± 1.4'
    """
    mean, sd = spread(values)
    return f"{mean:.3g} ± {sd:.2g}"
