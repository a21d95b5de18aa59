"""figures: what is drawn is what was given, whatever the sizes, and a file comes out."""

from __future__ import annotations

import numpy as np
import pytest

from lntrain.experiments import figures
from lntrain.runs.files import write_figures

RNG = np.random.default_rng(0)


def _points(ax):
    """The drawn lines of an axis, (x, y) each."""
    return [(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)) for line in ax.get_lines()]


def _drawn(ax, y):
    return any(len(found) == len(y) and np.allclose(found, y, equal_nan=True) for _, found in _points(ax))


@pytest.mark.parametrize("names", [None, [f"column {j}" for j in range(9)]])
def test_coefficients_stand_on_the_stems_of_the_lasso(names):
    reference = np.where(np.arange(9) < 3, np.arange(9) + 1.0, 0.0)
    mean = reference + 0.1 * RNG.normal(size=9)
    figure = figures.coefficients(mean, reference, sd=np.full(9, 0.1), truth=reference, names=names, title="a")
    shown = figures.that_matter(mean, reference, 150 if names is None else figures.NAMED)
    assert set(np.flatnonzero(reference)) <= set(shown)
    assert _drawn(figure.axes[0], reference[shown])
    assert _drawn(figure.axes[0], mean[shown])


def test_of_many_columns_those_that_matter_are_drawn():
    reference = np.zeros(1000)
    reference[[3, 700]] = 1.0, -2.0
    mean = reference.copy()
    mean[500] = 0.7
    shown = figures.that_matter(mean, reference, 150)
    assert {3, 500, 700} <= set(shown)
    assert len(shown) <= 150


def test_trajectories_part_support_and_complement():
    steps = 2.0 ** np.arange(8)
    last, mean = RNG.normal(size=(8, 4)), RNG.normal(size=(8, 4))
    left, right = figures.trajectories(steps, last, mean, [2.0, -1.0, 0.0, 0.0], names=list("abcd")).axes
    for j, sign in ((0, 1.0), (1, -1.0)):
        assert _drawn(left, sign * mean[:, j])
        assert _drawn(left, sign * last[:, j])
    assert all(_drawn(right, np.abs(last[:, j])) for j in (2, 3))
    assert {text.get_text() for text in left.texts} >= {"a", "b (-)"}


def test_errors_have_the_slopes_of_theory_and_the_prediction():
    steps = 2.0 ** np.arange(12)
    values = {"mean": steps**-0.5, "compensated": 1 / steps, "last": np.ones(12)}
    figure = figures.errors(steps, values, bands={"mean": 0.1 * steps**-0.5}, expected=(0.02, 0.01, 0.04))
    (ax,) = figure.axes
    assert all(_drawn(ax, y) for y in values.values())
    slopes = [np.polyfit(np.log(x), np.log(y), 1)[0] for x, y in _points(ax) if 2 < len(y) < 12]
    assert sorted(slopes) == pytest.approx([-1.0, -0.5])
    assert any("predicted" in text.get_text() for text in ax.get_legend().get_texts())


def test_figure1_draws_medians_over_replicas():
    steps, error = 10.0 ** np.arange(5), 10.0 ** RNG.normal(size=(3, 5))
    panel = {"error": error, "on": RNG.normal(size=(3, 5)), "off": RNG.normal(size=(3, 5))}
    first, second, third = figures.figure1(steps, {"label noise": panel}).axes
    assert _drawn(first, np.median(np.log10(error), 0))
    assert _drawn(second, np.median(panel["on"], 0))
    assert _drawn(third, np.median(panel["off"], 0))


@pytest.mark.parametrize("seeds", [1, 4])
def test_arms_draw_the_mean_over_seeds(seeds):
    x, values = np.arange(1.0, 6.0), RNG.random((5, seeds)) + 1
    panels = [figures.Panel("one", {"a": (x, values)}, log=True, mark=3.0), figures.Panel("two", {"a": (x, values)})]
    figure = figures.arms(panels)
    assert len(figure.axes) == 2
    assert all(_drawn(ax, values.mean(1)) for ax in figure.axes)
    assert any(np.allclose(found, 3.0) for found, _ in _points(figure.axes[0]))


def test_a_claim_draws_what_was_measured_over_what_was_predicted():
    bars = [("ratio", "=", 2.0, 0.1, 2.1, 0.05, "holds"), ("slope", "<=", 0.0, 0.0, 0.2, 0.1, "fails")]
    curves = [("curve", np.arange(1.0, 5.0), RNG.random((4, 3)), "-")]
    left, right = figures.claim(bars, curves, {"xlabel": "step"}).axes
    assert any(np.allclose(x, 2.1 / 2.0) for x, _ in _points(left))
    assert any(np.allclose(x, 1.2) for x, _ in _points(left))
    assert _drawn(right, np.median(curves[0][2], 1))


def test_each_figure_is_a_file_of_its_name(tmp_path):
    write_figures(tmp_path / "new", {"a": figures.arms([figures.Panel("t", {"x": ([1.0, 2.0], [[1.0], [2.0]])})])})
    content = (tmp_path / "new" / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000
