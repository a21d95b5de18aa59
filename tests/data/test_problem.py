"""problem: what a Problem checks and keeps, and that the generators draw what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lntrain import Problem, sparse_regression

GOOD_X, GOOD_Y = [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 3.0]


@pytest.mark.parametrize("kind", ["list", "array", "tensor"])
def test_arrays_and_tensors_make_the_same_problem(kind):
    make = {"list": lambda v: v, "array": np.array, "tensor": lambda v: torch.tensor(v, dtype=torch.float64)}[kind]
    problem = Problem(make(GOOD_X), make(GOOD_Y), make([1.0, 2.0]))
    assert (problem.n, problem.d) == (3, 2)
    assert {problem.X.dtype, problem.y.dtype, problem.coef.dtype} == {torch.float64}
    assert problem.X.tolist() == GOOD_X


def test_float32_stays_and_integers_become_float64():
    single = Problem(np.array(GOOD_X, np.float32), np.array(GOOD_Y, np.float32), np.ones(2))
    assert {single.X.dtype, single.y.dtype, single.coef.dtype} == {torch.float32}
    assert Problem([[1, 2], [3, 4]], [1, 2]).X.dtype == torch.float64


def test_a_problem_is_frozen_and_does_not_share_memory_with_the_array():
    X = np.array(GOOD_X)
    problem = Problem(X, GOOD_Y)
    X[0, 0] = 99
    assert problem.X[0, 0] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.y = torch.zeros(3)


def test_to_changes_dtype_of_everything():
    other = sparse_regression(5, 3, 1).to(torch.float32)
    assert {other.X.dtype, other.y.dtype, other.coef.dtype} == {torch.float32}


def test_original_units_predict_the_original_target():
    rng = np.random.default_rng(0)
    X, coef = rng.normal(3, 5, (20, 4)), rng.normal(size=4)
    y = X @ coef + 7
    offset, scale, y_offset, y_scale = X.mean(0), X.std(0), y.mean(), y.std()
    problem = Problem(
        (X - offset) / scale, (y - y_offset) / y_scale, X_offset=torch.tensor(offset), X_scale=torch.tensor(scale),
        y_offset=float(y_offset), y_scale=float(y_scale),
    )  # fmt: skip
    solved = torch.linalg.lstsq(problem.X, problem.y).solution
    back, intercept = problem.original_units(solved)
    np.testing.assert_allclose(back, coef, rtol=1e-10)
    assert float(intercept) == pytest.approx(7, rel=1e-9)
    many, intercepts = problem.original_units(torch.stack((solved, 2 * solved)))
    np.testing.assert_allclose(many[1], 2 * coef, rtol=1e-10)
    assert intercepts.shape == (2,)


@pytest.mark.parametrize(
    ("X", "y", "coef", "says"),
    [
        ([1.0, 2.0], [1.0, 2.0], None, r"X \(2,\) and y \(2,\) do not fit"),
        (GOOD_X, [1.0, 2.0], None, "do not fit"),
        (GOOD_X, [[1.0], [2.0], [3.0]], None, "do not fit"),
        ([[1.0]], [1.0], None, "n=1 rows"),
        (np.ones((3, 0)), GOOD_Y, None, "d=0 columns"),
        ([[1.0, np.nan], [0.0, 2.0], [1.0, 1.0]], GOOD_Y, None, r"X\[0, 1\] is nan"),
        (GOOD_X, [1.0, np.inf, 3.0], None, r"y\[1\] is inf"),
        ([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], GOOD_Y, None, "column 1 of X is all zeros"),
        (GOOD_X, GOOD_Y, [1.0], r"coef has shape \(1,\)"),
        (GOOD_X, np.array(GOOD_Y, np.float32), None, "y is torch.float32 and X torch.float64"),
        ([["a", "b"], ["c", "d"]], [1.0, 2.0], None, "X is no array of numbers"),
        ([[1.0, 2.0], [3.0]], [1.0, 2.0], None, "X is no array of numbers"),
        (np.array(GOOD_X) * 1j, GOOD_Y, None, "X holds complex numbers"),
        (GOOD_X, np.array(GOOD_Y) * 1e200, None, r"y\[0\] is 1e\+200: too large, its square overflows"),
        (
            np.array(GOOD_X, np.float32) * 1e19,
            np.array(GOOD_Y, np.float32),
            None,
            r"X\[0, 0\] is 1e\+19|9.99.*too large",
        ),
    ],
    ids=[
        "X 1-d",
        "lengths",
        "y 2-d",
        "one row",
        "no column",
        "nan",
        "inf",
        "zeros",
        "coef",
        "dtypes",
        "text",
        "ragged",
        "complex",
        "huge",
        "huge for float32",
    ],
)
def test_bad_problems_are_one_line_that_names_it(X, y, coef, says):
    with pytest.raises(ValueError, match=says) as error:
        Problem(X, y, coef)
    assert "\n" not in str(error.value)


def test_a_bad_column_is_named_as_it_was_read():
    with pytest.raises(ValueError, match="column 'age'"):
        Problem([[1.0, 0.0], [2.0, 0.0]], [1.0, 2.0], columns=("sex", "age"))


class Frame:
    """What any data frame has: columns and to_numpy."""

    def __init__(self, columns, rows, dtype=None):
        self.columns, self.rows = columns, np.array(rows, dtype)

    def to_numpy(self):
        return self.rows


class Series(Frame):
    """And any series: a name."""

    def __init__(self, name, values):
        self.name, self.rows = name, np.array(values)


def test_a_frame_and_a_series_give_their_names():
    problem = Problem(Frame(["age", 7], GOOD_X, np.float32), Series("height", np.array(GOOD_Y, np.float32)))
    assert (problem.columns, problem.names, problem.target) == (("age", "7"), ("age", "7"), "height")
    assert problem.X.dtype == torch.float32
    assert problem.X.tolist() == GOOD_X
    assert problem.to(torch.float64).columns == ("age", "7")
    named = Problem(Frame(["age", 7], GOOD_X), GOOD_Y, columns=["a", "b"], target="t")
    assert (named.columns, named.target) == (("a", "b"), "t")
    plain = Problem(GOOD_X, Series(None, GOOD_Y), Series("coef", [1.0, 2.0]))
    assert (plain.columns, plain.names, plain.target) == ((), ("0", "1"), "")
    assert plain.coef.tolist() == [1.0, 2.0]


def test_the_names_must_be_as_many_as_the_columns():
    with pytest.raises(ValueError, match="columns has 1 names: X has 2 columns"):
        Problem(GOOD_X, GOOD_Y, columns=("a",))


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (["red", "blue", "red"], "column 'c' holds 'red': encode it"),
        (["1", "2", "3"], "column 'c' holds '1': encode it"),
        ([np.datetime64("2020-01-01")] * 3, "column 'c' holds '2020-01-01': encode it"),
        ([np.timedelta64(1, "D")] * 3, "column 'c' holds '1 days': encode it"),
        ([1, None, 2], "column 'c' is missing in row 1: fill it or drop the row"),
        ([1.0, float("nan"), 2], r"X\[1, 1\] \(column 'c'\) is nan"),
    ],
    ids=["text", "numbers as text", "dates", "durations", "none", "nan"],
)
def test_a_frame_with_something_else_names_the_column(cells, says):
    rows = np.array([[1.0, cell] for cell in cells], dtype=object)
    with pytest.raises(ValueError, match=says) as error:
        Problem(Frame(["a", "c"], rows, object), GOOD_Y)
    assert "\n" not in str(error.value)
    mixed = Frame(["a", "c"], [[1.0, True], [2, False], [4.5, True]], object)
    assert Problem(mixed, GOOD_Y).X.tolist() == [[1, 1], [2, 0], [4.5, 1]]


def test_pandas_frames_are_such_frames():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"age": [1.0, 0.0, 1.0], "bp": [True, False, True]})
    problem = Problem(frame, pd.Series(GOOD_Y, name="height"), pd.Series([1.0, 2.0], index=["age", "bp"]))
    assert (problem.columns, problem.target, problem.coef.tolist()) == (("age", "bp"), "height", [1.0, 2.0])
    with pytest.raises(ValueError, match="coef is labelled in another order"):
        Problem(frame, GOOD_Y, pd.Series([1.0, 2.0], index=["bp", "age"]))
    with pytest.raises(ValueError, match="column 'c' holds 'u': encode it"):
        Problem(frame.assign(c=pd.Categorical(["u", "v", "u"])), GOOD_Y)
    with pytest.raises(ValueError, match="column 'height' holds 'a'"):
        Problem(frame, pd.Series(["a", "b", "c"], name="height"))


@pytest.mark.parametrize("signs", ["positive", "random"])
def test_sparse_regression_is_x_beta_with_k_ones(signs):
    problem = sparse_regression(50, 200, 60, signs=signs, seed=4)
    values = problem.coef[problem.coef != 0].tolist()
    assert len(values) == 60
    assert set(values) == ({1.0} if signs == "positive" else {-1.0, 1.0})
    torch.testing.assert_close(problem.y, problem.X @ problem.coef, rtol=1e-13, atol=1e-13)


def test_a_seed_fixes_the_data_and_another_changes_it():
    one, same, other = (sparse_regression(10, 20, 3, noise=0.5, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.X, same.X)
    assert torch.equal(one.y, same.y)
    assert not bool((one.X == other.X).any())


def test_the_noise_in_the_data_has_its_sd_and_the_columns_their_moments():
    problem = sparse_regression(4000, 20, 5, noise=0.5, seed=1)
    residual = problem.y - problem.X @ problem.coef
    sigma = 5  # standard errors: one seed in a million fails
    assert float(residual.std()) == pytest.approx(0.5, rel=sigma / (2 * 4000) ** 0.5)
    assert float(problem.X.mean()) == pytest.approx(0, abs=sigma / (4000 * 20) ** 0.5)
    assert float(problem.X.var()) == pytest.approx(1, rel=sigma * (2 / (4000 * 20)) ** 0.5)


@pytest.mark.parametrize("rho", [0.5, -0.7])
def test_correlated_columns_have_correlation_rho_to_the_distance(rho):
    X = sparse_regression(20_000, 6, 1, design="correlated", rho=rho, seed=2).X.numpy()
    lag = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    np.testing.assert_allclose(np.corrcoef(X.T), rho**lag, atol=5 / 20_000**0.5)


def test_rademacher_and_column_scales():
    problem = sparse_regression(200, 4, 1, design="rademacher", column_scales=(0.5, 2.0), seed=2)
    assert sorted(problem.X.abs()[0].tolist()) == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert torch.equal(problem.X.abs()[0], problem.X.abs()[150])
    assert bool(((problem.X > 0).sum(0) > 50).all())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 1}, "n=1"),
        ({"d": 0}, "d=0"),
        ({"k": 101}, "k=101"),
        ({"k": -1}, "k=-1"),
        ({"signs": "both"}, "signs='both'"),
        ({"design": "cauchy"}, "design='cauchy'"),
        ({"rho": 1.0}, "rho=1.0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"column_scales": (2.0, 1.0)}, "column_scales"),
        ({"column_scales": (0.0, 1.0)}, "column_scales"),
    ],
    ids=str,
)
def test_bad_options_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        sparse_regression(**options)
