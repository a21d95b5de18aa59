"""readers: one data set in every form of file, standardised as told, and one clear line for each flaw."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.datasets import dump_svmlight_file, load_diabetes

from lntrain import diabetes, from_file
from lntrain.data.readers import from_arrays

RNG = np.random.default_rng(0)
X = np.round(RNG.normal(2, 3, (9, 3)), 6)
Y = np.round(RNG.normal(5, 2, 9), 6)
NAMES = ("age", "bp", "sugar")


def _table(delimiter=",", names=("age", "bp", "y", "sugar"), blank_lines=False):
    rows = [names, *np.insert(X, 2, Y, axis=1).tolist()]
    lines = [delimiter.join(str(v) for v in row) for row in rows]
    return ("\n\n" if blank_lines else "\n").join(lines) + "\n"


def _write(folder, kind):
    path = folder / {"bom": "bom.csv", "blank": "blank.csv"}.get(kind, f"data.{kind}")
    if kind in ("csv", "blank"):
        path.write_text(_table(blank_lines=kind == "blank"))
    elif kind == "bom":
        path.write_text(_table(), encoding="utf-8-sig")
    elif kind == "tsv":
        path.write_text(_table("\t"))
    elif kind == "npz":
        np.savez(path, X=X, y=Y)
    else:
        dump_svmlight_file(X, Y, str(path))
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "npz", "svmlight", "bom", "blank"])
def test_every_form_of_file_gives_the_same_problem(kind, tmp_path):
    path = _write(tmp_path, kind)
    problem = from_file(path, target="y" if kind in ("csv", "tsv", "bom", "blank") else None)
    np.testing.assert_allclose(problem.X, (X - X.mean(0)) / X.std(0), atol=1e-6)
    np.testing.assert_allclose(problem.y, (Y - Y.mean()) / Y.std(), atol=1e-6)
    assert problem.name == path.stem
    assert problem.columns == (("0", "1", "2") if kind in ("npz", "svmlight") else NAMES)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_centring_and_scaling_are_as_told_and_recorded(center, scale):
    problem = from_arrays(X, Y, columns=NAMES, center=center, scale=scale)
    offset, spread = (X.mean(0) if center else np.zeros(3)), (X.std(0) if scale else np.ones(3))
    np.testing.assert_allclose(problem.X, (X - offset) / spread, rtol=1e-14)
    np.testing.assert_allclose(problem.X_offset, offset)
    np.testing.assert_allclose(problem.X_scale, spread)
    beta = problem.X.new_tensor([1.0, -2.0, 0.5])
    back, intercept = problem.original_units(beta)
    predicted = problem.y_offset + problem.y_scale * (problem.X @ beta)
    np.testing.assert_allclose(X @ back.numpy() + float(intercept), predicted, rtol=1e-12)


def test_diabetes_is_scikit_learns():
    raw = load_diabetes(scaled=False)
    problem = diabetes()
    assert problem.columns == tuple(raw.feature_names)
    np.testing.assert_allclose(problem.X, (raw.data - raw.data.mean(0)) / raw.data.std(0), atol=1e-12)
    np.testing.assert_allclose(problem.y * problem.y_scale + problem.y_offset, raw.target, rtol=1e-12)
    np.testing.assert_array_equal(diabetes(center=False, scale=False).X, raw.data)


def test_diabetes_with_interactions_has_64_standardised_columns():
    plain, problem = diabetes(), diabetes(interactions=True)
    assert (problem.n, problem.d, len(set(problem.columns))) == (442, 64, 64)
    np.testing.assert_allclose(problem.X.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(problem.X.square().mean(0), 1, rtol=1e-12)
    assert "sex^2" not in problem.columns  # sex has two values: its square says nothing new
    product = plain.X[:, 0] * plain.X[:, 2]
    column = problem.X[:, problem.columns.index("age:bmi")]
    np.testing.assert_allclose(column, (product - product.mean()) / product.std(correction=0), atol=1e-12)


GOOD = "a,b,y\n1,2,3\n2,1,5\n4,4,4\n"
BAD_TABLES = {
    "no target named": (GOOD, {}, "problem.target: name the target column of bad.csv: a, b, y"),
    "a wrong target": (GOOD, {"target": "z"}, "problem.target='z': not a column of bad.csv: it has a, b, y"),
    "a target twice": ("y,y\n1,2\n2,3\n", {"target": "y"}, "problem.target='y': 2 columns have this name in"),
    "ragged": ("a,b,y\n1,2,3\n2,1\n", {"target": "y"}, "bad.csv, line 3: 2 fields, the header has 3"),
    "text": (
        "a,b,y\n1,red,3\n2,1,3\n",
        {"target": "y"},
        "'red' in column 'b' is no number: encode it, or problem.categorical=onehot",
    ),
    "missing": (
        "a,b,y\n1,,3\n2,1,4\n",
        {"target": "y"},
        "bad.csv, line 2: column 'b' is empty: fill it, or problem.missing=drop|mean",
    ),
    "infinite": ("a,b,y\n1,2,3\ninf,1,4\n", {"target": "y"}, "bad.csv, line 3: column 'a' is inf"),
    "infinite target": ("a,b,y\n1,2,3\n2,1,-inf\n", {"target": "y"}, "bad.csv, line 3: the target is -inf"),
    "no target value": ("a,b,y\n1,2,3\n2,1,\n", {"target": "y"}, "bad.csv, line 3: the target has no value"),
    "constant columns": ("a,b,y\n1,2,3\n1,2,4\n", {"target": "y"}, "bad.csv: every column is constant (a, b)"),
    "constant target": ("a,b,y\n1,2,3\n2,1,3\n", {"target": "y"}, "target is constant"),
    "one row": ("a,b,y\n1,2,3\n", {"target": "y"}, "1 row"),
    "header only": ("a,b,y\n", {"target": "y"}, "0 rows"),
    "no header": ("1,2\n3,4\n", {"target": "y"}, "its first line is numbers: a header line is needed"),
    "an open quote": ('a,y\n1,2\n"3,4\n', {"target": "y"}, "bad.csv: a quote is opened and never closed"),
    "huge": ("a,y\n1,1e200\n2,2e200\n", {"target": "y"}, "bad.csv: the target reaches 2e+200"),
    "a huge column": ("a,y\n1e180,1\n2,2\n", {"target": "y"}, "bad.csv: column 'a' reaches 1e+180"),
    "tiny": ("a,y\n1e-200,1\n2e-200,2\n", {"target": "y"}, "column 'a' varies by 0"),
    "an option": (GOOD, {"target": "y", "missing": "median"}, "problem.missing='median' is unknown"),
    "another option": (GOOD, {"target": "y", "categorical": "hash"}, "problem.categorical='hash' is unknown"),
    "a delimiter": (GOOD, {"target": "y", "delimiter": "ab"}, "problem.delimiter='ab'"),
    "text target": ("a,y\n1,good\n2,bad\n", {"target": "y", "categorical": "onehot"}, "'good' in the target 'y'"),
    "an identifier": (
        "id,a,y\nu,1,2\nv,2,3\nw,4,1\n",
        {"target": "y", "categorical": "onehot"},
        "column 'id' has 3 levels in 3 rows",
    ),
    "nothing complete": (
        "a,b,y\n1,,3\n,2,4\n,2,5\n",
        {"target": "y", "missing": "drop"},
        "problem.missing=drop leaves 0 of 3 rows (column 'a' is the emptiest)",
    ),
    "no target at all": ("a,y\n1,\n2,\n", {"target": "y", "missing": "mean"}, "bad.csv: 0 rows with a target"),
    "nothing but gaps": ("a,y\n,1\nNA,2\n", {"target": "y", "missing": "mean"}, "no column has any value"),
    "empty": ("", {"target": "y"}, "the file is empty"),
    "only a target": ("y\n1\n2\n", {"target": "y"}, "only the target column"),
    "not utf-8": (b"a,y\n\xff\xfe,1\n", {"target": "y"}, "not a readable text table"),
}


@pytest.mark.parametrize(("content", "options", "says"), list(BAD_TABLES.values()), ids=list(BAD_TABLES))
def test_a_flawed_table_is_one_line_that_says_where(content, options, says, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        from_file(path, **options)
    assert "\n" not in str(error.value)


def _bad_file(folder, kind):
    path = folder / ("bad.npz" if "npz" in kind else "bad.svmlight" if "svm" in kind else f"bad.{kind}")
    if kind == "npz without y":
        np.savez(path, X=X)
    elif kind == "npz of other lengths":
        np.savez(path, X=X, y=Y[:4])
    elif kind == "npz of objects":
        np.savez(path, X=np.array([{}, {}], dtype=object), y=Y[:2])
    elif kind == "npz of text":
        np.savez(path, X=np.array([["a"], ["b"]]), y=Y[:2])
    elif kind == "npz of complex numbers":
        np.savez(path, X=X, y=Y + 1j)
    elif kind == "npz with a gap":
        np.savez(path, X=np.where(X[2, 1] == X, np.nan, X), y=Y)
    elif kind != "missing":
        path.write_bytes(b"what is this\n")
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "problem.path: no file"),
        ("xlsx", "bad.xlsx ends in '.xlsx': give .csv, .tsv, .csv.gz, .parquet, .npz or .svmlight"),
        ("csv.gz", "bad.csv.gz: not a readable text table (Not a gzipped file"),
        ("txt", "bad.txt: not in svmlight form"),
        ("npz of complex numbers", "bad.npz: y holds complex numbers"),
        ("npz with a gap", "bad.npz, row 3: column '1' is empty: fill it, or problem.missing=drop|mean"),
        ("npz without y", "it holds X"),
        ("npz of other lengths", r"y (4,) do not fit"),
        ("npz of objects", "bad.npz:"),
        ("npz of text", "bad.npz:"),
        ("npz of garbage", "bad.npz:"),
        ("svmlight of garbage", "not in svmlight form"),
    ],
)
def test_a_bad_file_is_one_line(kind, says, tmp_path):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        from_file(_bad_file(tmp_path, kind))
    assert "\n" not in str(error.value)


def test_the_message_of_a_missing_file_names_it_once():
    with pytest.raises(ValueError, match=r"no file 'nowhere\.csv'"):
        from_file("nowhere.csv")
