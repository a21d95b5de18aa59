"""coefficients: the table in original units, ordered by effect, and the names in figures."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from scipy.sparse import csr_matrix

from lntrain import Problem, diabetes
from lntrain.data.readers import from_arrays
from lntrain.experiments import figures
from lntrain.experiments import path_figure as path_plot
from lntrain.experiments.figure_names import apart, that_matter
from lntrain.lasso.solve import weighted_lasso
from lntrain.runs.coefficients import Row, coefficient_table, short, table_text, units_text, write_csv

RNG = np.random.default_rng(2)
X = RNG.normal([5, 0, -3], [100, 1, 0.01], (30, 3))
Y = X @ [0.02, -1.0, 50.0] + 7
NAMES = ("metres", "plain", "kilometres")


def test_a_row_is_the_coefficient_of_the_data_as_they_were():
    problem = from_arrays(X, Y, columns=NAMES, target="t")
    exact = torch.linalg.lstsq(problem.X, problem.y).solution
    rows = {row.name: row for row in coefficient_table(problem, exact, 0 * exact)}
    wanted = {"metres": 0.02, "plain": -1.0, "kilometres": 50.0, "intercept": 7.0}
    assert {name: row.lasso for name, row in rows.items()} == pytest.approx(wanted, rel=1e-9)
    assert {name: row.trained for name, row in rows.items()} == pytest.approx(
        {**dict.fromkeys(NAMES, 0.0), "intercept": Y.mean()}
    )
    assert {row.sd for row in rows.values()} == {None}


@pytest.mark.parametrize("scale", [True, False])
def test_the_order_is_that_of_effects_whatever_the_units(scale):
    problem = from_arrays(X, Y, columns=NAMES, center=False, scale=scale)
    coef = torch.tensor([0.02, -1.0, 50.0], dtype=torch.float64) * (problem.X_scale / problem.y_scale)
    names = [row.name for row in coefficient_table(problem, coef, coef)]
    assert names == ["metres", "plain", "kilometres", "intercept"]  # sds of the effects: 2, 1, 0.5
    sparse = Problem(csr_matrix(problem.X.numpy()), problem.y, columns=NAMES)
    assert [row.name for row in coefficient_table(sparse, coef, coef)] == names
    trained = torch.tensor([0.0, 0.1, -0.4]) / problem.X.std(0)
    zeros = coefficient_table(problem, torch.zeros(3), trained)
    assert [row.name for row in zeros] == ["kilometres", "plain", "metres", "intercept"]


def test_replicas_give_mean_and_sd():
    problem = from_arrays(X, Y, columns=NAMES)
    many = torch.from_numpy(RNG.normal(size=(5, 3)))
    rows = {row.name: row for row in coefficient_table(problem, many[0], many)}
    back, intercepts = problem.original_units(many)
    for j, name in enumerate(NAMES):
        assert rows[name][2:] == pytest.approx((float(back[:, j].mean()), float(back[:, j].std())), rel=1e-12)
    assert rows["intercept"][2:] == pytest.approx((float(intercepts.mean()), float(intercepts.std())), rel=1e-12)
    assert {row.sd for row in coefficient_table(problem, many[0], many[:1])} == {None}  # one replica has no spread
    given = coefficient_table(problem, many[0], many[0], sd=torch.ones(3))
    assert {row.name: row.sd for row in given}["plain"] == pytest.approx(problem.y_scale / float(problem.X_scale[1]))


def test_the_text_is_aligned_and_says_how_many_it_leaves_out():
    rows = [Row(f"column {j}", 1.0 * j, -2.0 * j, 0.1) for j in range(20)] + [Row("intercept", 5.0, 6.0, 0.2)]
    lines = table_text(rows, most=3).splitlines()
    assert [line.split()[-1] for line in lines] == ["sd", "0.1", "0.1", "0.1", "coefficients.csv", "0.2"]
    assert lines[4] == "... and 17 more in coefficients.csv"
    assert len({len(line) for line in lines if "more" not in line}) == 1
    assert "more" not in table_text(rows[:3] + rows[-1:], most=3)
    long = table_text([Row("x" * 100, 1.0, 1.0), rows[-1]]).splitlines()
    assert max(map(len, long)) < 80


def test_a_long_name_loses_its_middle():
    assert short("a" * 28) == "a" * 28
    assert short("a" * 20 + "b" * 20) == "a" * 14 + "..." + "b" * 11
    assert short("two\n lines") == "two lines"


def test_the_file_holds_every_digit_and_any_name(tmp_path):
    rows = [Row('a, "b"', 1 / 3, 2 / 3, 0.1), Row("intercept", 1.0, 2.0, None)]
    write_csv(tmp_path / "coefficients.csv", rows)
    with (tmp_path / "coefficients.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert read[0] == {"name": 'a, "b"', "lasso": repr(1 / 3), "trained": repr(2 / 3), "sd": "0.1"}
    assert read[1]["sd"] == ""


def test_a_problem_without_names_has_no_table():
    named = diabetes()
    lasso = weighted_lasso(named.X, named.y, 0.05)
    assert units_text(named, lasso, lasso.coef).startswith("\n\ncoefficients of progression, in original units")
    assert units_text(Problem(named.X, named.y), lasso, lasso.coef) == ""
    assert units_text(named, None, lasso.coef) == units_text(named, lasso, None) == ""


def _ticks(figure):
    return [label.get_text() for label in figure.axes[0].get_xticklabels()]


def _overlaps(texts, renderer):
    boxes = [Text.get_window_extent(text, renderer) for text in texts if text.get_text()]  # without their arrows
    return [(a, b) for k, a in enumerate(boxes) for b in boxes[:k] if a.overlaps(b)]


def _drawn(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


@pytest.mark.parametrize("d", [3, 30, 64, 1000])
def test_the_names_under_the_coefficients_are_those_drawn_and_overlap_nothing(d):
    lasso = np.zeros(d)
    lasso[[0, d - 1]] = 1e-6, -1.0  # small, but the Lasso's
    mean = RNG.normal(size=d)
    names = [f"a_rather_long_name_of_a_column_{j}" for j in range(d)]
    figure = figures.coefficients(mean, lasso, names=names, title="title")
    renderer = _drawn(figure)
    shown = that_matter(mean, lasso, 60)
    assert len(shown) == min(d, 60)
    assert {0, d - 1} <= set(shown.tolist())
    assert _ticks(figure) == [short(names[j]) for j in shown]
    labels = figure.axes[0].get_xticklabels()
    assert not _overlaps([*labels, *figure.legends[0].get_texts(), figure.axes[0].xaxis.label], renderer)


def test_without_names_the_coordinates_are_numbered():
    figure = figures.coefficients(np.ones(200), np.ones(200))
    _drawn(figure)
    assert figure.axes[0].get_xlabel().endswith("150 of 200")


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0])
def test_lines_on_the_support_bear_their_names_and_signs(spread):
    m, signs = 12, np.where(np.arange(12) % 2, -1.0, 1.0)
    reference = np.concatenate([signs * (0.1 + spread * np.arange(m)), np.zeros(4)])
    names = [f"name $of$ {j}" for j in range(16)]
    mean = np.tile(reference, (5, 1))
    figure = figures.trajectories(np.arange(1, 6), mean, mean, reference, names=names)
    renderer = _drawn(figure)
    texts = figure.axes[0].texts
    assert sorted(text.get_text().replace("\\$", "$") for text in texts) == sorted(
        name + (" (-)" if j % 2 else "") for j, name in enumerate(names[:m])
    )
    assert not _overlaps(texts, renderer)
    assert all(text.get_window_extent(renderer).x1 < figure.axes[1].get_window_extent(renderer).x0 for text in texts)


def test_names_are_moved_apart_in_their_order_and_no_more_than_needed():
    places = np.array([0.9, 0.1, 0.1, 0.5])
    moved = apart(places, 0.1)
    np.testing.assert_allclose(moved, [0.9, 0.05, 0.15, 0.5], atol=1e-12)
    crowd = apart(RNG.uniform(size=40), 0.1)  # more than there is room for
    assert crowd.min() >= 0
    assert crowd.max() <= 1 + 1e-12
    assert np.diff(np.sort(crowd)).min() == pytest.approx(1 / 39)


def test_the_path_names_the_lines_it_colours():
    alphas, size = np.geomspace(1, 0.01, 9), np.arange(20) - 10.0
    curve = (1 - alphas[:, None]) * size
    names = [f"column {j}" for j in range(20)]
    figure = path_plot.path(alphas, curve, alphas, curve, names=names)
    _drawn(figure)
    largest = [names[j] for j in np.argsort(-abs(size), kind="stable")[:12]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == largest
    assert not path_plot.path(alphas, curve, alphas, curve).legends
