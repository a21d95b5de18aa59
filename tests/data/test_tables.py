"""A stranger's table: what is asked is done, to the number, and each change is a note."""

from __future__ import annotations

import gzip
import re
import sys

import numpy as np
import pytest

from lntrain import from_file
from lntrain.data.readers import from_arrays

RNG = np.random.default_rng(1)


def _read(folder, text, name="data.csv", **options):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return from_file(path, **{"target": "y", "center": False, "scale": False, **options})


PATIENTS = """age,colour,sex,y
1,red,m,3
2,blue,f,5
4,green,f,4
5,red,m,1
,blue,NA,2
7,red,m,
9,red,f,6
"""


def test_rows_with_a_gap_are_dropped_when_asked(tmp_path):
    problem = _read(tmp_path, PATIENTS, missing="drop", categorical="onehot")
    assert problem.y.tolist() == [3, 5, 4, 1, 6]
    assert problem.columns == ("age", "colour=blue", "colour=green", "colour=red", "sex=m")
    assert problem.X.tolist() == [[1, 0, 0, 1, 1], [2, 1, 0, 0, 0], [4, 0, 1, 0, 0], [5, 0, 0, 1, 1], [9, 0, 0, 1, 0]]
    assert problem.notes == (
        "dropped 1 of 7 rows: no target",
        "dropped 1 of 7 rows: a value is missing",
        "made 4 columns of 0 and 1 from 2 of text: colour (3 levels), sex (one for its 2 levels)",
    )


def test_a_gap_is_the_mean_of_what_was_observed_when_asked(tmp_path):
    problem = _read(tmp_path, PATIENTS, missing="mean", categorical="onehot")
    assert problem.y.tolist() == [3, 5, 4, 1, 2, 6]  # a row without a target is no data
    assert problem.X[4].tolist() == [pytest.approx(21 / 5), 1, 0, 0, pytest.approx(2 / 5)]
    assert problem.notes[-1] == "filled 2 missing values with the column's mean: age (1), sex (1)"


@pytest.mark.parametrize("marker", ["", "NA", "NaN", "nan", "null", "None", "?", "N/A", "-", ".", " NA "])
def test_every_marker_of_a_missing_value(marker, tmp_path):
    text = f"a,c,y\n1,u,1\n2,v,2\n4,u,3\n{marker},{marker},5\n"
    assert _read(tmp_path, text, missing="drop", categorical="onehot").X.tolist() == [[1, 0], [2, 1], [4, 0]]
    with pytest.raises(ValueError, match=r"data\.csv, line 5: column 'a' is empty"):
        _read(tmp_path, text, categorical="onehot")


def test_levels_are_those_of_the_rows_that_stay(tmp_path):
    text = "c,b,y\nr,1,1\ng,2,2\nblue,,3\nr,4,5\ng,3,1\n"
    assert _read(tmp_path, text, missing="drop", categorical="onehot").columns == ("c=r", "b")


@pytest.mark.parametrize(
    ("words", "name"),
    [("True FALSE true False", "f=true"), ("yes no No yes", "f=yes"), ("TRUE TRUE true FALSE", "f=true")],
)
def test_true_and_false_are_two_levels(words, name, tmp_path):
    text = "f,y\n" + "".join(f"{word},{k * k}\n" for k, word in enumerate(words.split()))
    problem = _read(tmp_path, text, categorical="onehot")
    assert problem.columns == (name,)
    assert problem.X[:, 0].tolist() == [float(word.lower() in ("true", "yes")) for word in words.split()]


def test_constant_columns_are_dropped_with_a_note(tmp_path):
    problem = _read(tmp_path, "a,b,c,y\n1,5,0,2\n2,5,0,5\n4,5,0,1\n", center=True)
    assert (problem.columns, problem.notes) == (("a",), ("dropped 2 constant columns: b, c",))
    untouched = from_arrays([[1, 5, 0], [2, 5, 0]], [1, 2], center=False, scale=False)
    assert untouched.columns == ("0", "1")  # a column of ones is somebody's intercept
    many = np.column_stack([np.arange(4.0), *(np.ones((12, 4)))])
    assert from_arrays(many, np.arange(4.0)).notes == ("dropped 12 constant columns: 1, 2, 3, 4, 5, 6, 7, 8, ...",)


def test_a_column_without_any_value_is_dropped_when_asked(tmp_path):
    problem = _read(tmp_path, "a,b,y\n1,,2\n2,NA,5\n4,,1\n", missing="drop")
    assert (problem.n, problem.notes) == (3, ("dropped 1 column without any value: b",))


FORMS = {
    "semicolons and decimal commas": ("a;b;y\n1,5;2;3,25\n2,5;4;5,5\n", "data.csv"),
    "tabs in a csv": ("a\tb\ty\n1.5\t2\t3.25\n2.5\t4\t5.5\n", "data.csv"),
    "tabs and decimal commas": ("a\tb\ty\n1,5\t2\t3,25\n2,5\t4\t5,5\n", "data.tsv"),
    "bars": ("a|b|y\n1.5|2|3.25\n2.5|4|5.5\n", "data.csv"),
    "semicolons in a tsv": ("a;b;y\n1.5;2;3.25\n2.5;4;5.5\n", "data.tsv"),
    "quotes and spaces": ('"a", "b" , " y"\r\n"1.5", 2, 3.25\r\n2.5,"4",5.5\r\n', "data.csv"),
    "a mark and old line ends": ("\ufeffa,b,y\r1.5,2,3.25\r2.5,4,5.5\r", "data.csv"),
    "nothing at the end": ("a,b,y,\n1.5,2,3.25,\n2.5,4,5.5,\n", "data.csv"),
    "more at the end of rows": ("a,b,y\n1.5,2,3.25,\n2.5,4,5.5,,\n", "data.csv"),
    "empty lines of a spreadsheet": ("a;b;y;;\n1.5;2;3.25;;\n;;;;\n2.5;4;5.5;;\n;;;;\n", "data.csv"),
    "row names of pandas": (",a,b,y\n0,1.5,2,3.25\n1,2.5,4,5.5\n", "data.csv"),
    "row names of R": ('"","a","b","y"\n"Fiat",1.5,2,3.25\n"VW",2.5,4,5.5\n', "data.csv"),
    "txt": ("a\tb\ty\n1.5\t2\t3.25\n2.5\t4\t5.5\n", "data.txt"),
    "svmlight in a txt": ("3.25 1:1.5 2:2\n5.5 1:2.5 2:4\n", "data.txt"),
    "gzip": (gzip.compress(b"a,b,y\n1.5,2,3.25\n2.5,4,5.5\n"), "data.csv.gz"),
}


@pytest.mark.parametrize(("text", "name"), list(FORMS.values()), ids=list(FORMS))
def test_every_form_of_table_is_the_same_table(text, name, tmp_path):
    problem = _read(tmp_path, text, name)
    assert problem.X.tolist() == [[1.5, 2], [2.5, 4]]
    assert problem.y.tolist() == [3.25, 5.5]
    assert (problem.name, problem.target) == ("data", "y")
    assert problem.columns == (("0", "1") if "1:" in str(text) else ("a", "b"))


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("nothing at the end", "at the end of the lines"),
        ("more at the end of rows", "at the end of the lines"),
        ("empty lines of a spreadsheet", "passed over 2 lines without any value"),
        ("row names of pandas", "names the rows"),
        ("row names of R", "names the rows"),
    ],
)
def test_what_the_reader_leaves_out_is_a_note(form, says, tmp_path):
    assert says in " ".join(_read(tmp_path, *FORMS[form]).notes)


def test_a_first_column_without_a_name_that_says_something_stays(tmp_path):
    problem = _read(tmp_path, ",a,y\n10,1,2\n1,2,5\n2,4,1\n")
    assert (problem.columns, problem.notes) == (("column 1", "a"), ("named 1 column by place: column 1",))


def test_a_name_that_stands_twice_gets_a_number(tmp_path):
    problem = _read(tmp_path, "a,a,a.2,y\n1,2,3,4\n2,4,5,8\n3,1,2,1\n")
    assert problem.columns == ("a", "a.3", "a.2")
    assert problem.notes == ("renamed 1 column whose name stood before: a.3",)


TWO_MEANINGS = {
    "thousands": ('a,y\n"1,234",2\n"2,345",3\n', "line 2: '1,234' in column 'a'"),
    "thousands, German": ("a;y\n1.234,5;2\n2.345,5;3\n", "line 2: '1.234,5' in column 'a'"),
    "thousands, French": ("a;y\n12;2\n2 345;3\n", "line 3: '2 345' in column 'a'"),
    "thousands or decimals": ("a;y\n1,234;2\n2,345;3\n", "'1,234' in column 'a' could be thousands or decimals"),
    "a comma here, a point there": ("a;b;y\n1,2;2.5;3\n2,3;4.5;5\n", "column 'a' has numbers with a comma, column 'b'"),
    "both in a column": ("a;y\n1,2;2\n2.3;3\n", "line 2: '1,2' in column 'a'"),
}


@pytest.mark.parametrize("categorical", ["refuse", "onehot"])
@pytest.mark.parametrize(("text", "says"), list(TWO_MEANINGS.values()), ids=list(TWO_MEANINGS))
def test_a_number_with_two_meanings_is_refused(text, says, categorical, tmp_path):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        _read(tmp_path, text, categorical=categorical)
    assert "write" in str(error.value)
    assert "1234.5" in str(error.value)


def test_three_decimals_are_decimals_where_another_number_shows_it(tmp_path):
    assert _read(tmp_path, "a;y\n1,234;2\n0,5;3\n").X[:, 0].tolist() == [1.234, 0.5]
    assert _read(tmp_path, "a;b;y\n1,234;1,5;2\n2,345;2;3\n").X[:, 0].tolist() == [1.234, 2.345]


def test_a_flaw_in_a_column_of_numbers_makes_no_categories(tmp_path):
    rows = "".join(f"{k},{k * k}\n" for k in range(12))
    for categorical in ("refuse", "onehot"):
        with pytest.raises(
            ValueError, match=r"line 14: 'n\.d\.' in column 'a' is no number, though 12 of its values are"
        ):
            _read(tmp_path, f"a,y\n{rows}n.d.,5\n", categorical=categorical)
    few = "a,y\n" + "".join(f"{cell},{k}\n" for k, cell in enumerate(["0", "1", "2", "3+", "0", "1", "2", "3+"]))
    assert _read(tmp_path, few, categorical="onehot").columns == ("a=0", "a=1", "a=2", "a=3+")


def test_underscores_make_no_numbers(tmp_path):
    with pytest.raises(ValueError, match="'2019_01' in column 'a' is no number"):
        _read(tmp_path, "a,y\n2019_01,1\n2019_02,2\n")


@pytest.mark.parametrize("delimiter", [":", "tab", "\\t"])
def test_a_delimiter_can_be_told(delimiter, tmp_path):
    mark = delimiter if delimiter == ":" else "\t"
    text = "a,b y\n1 2\n3 5\n".replace(" ", mark)  # the comma in the name would win
    problem = _read(tmp_path, text, delimiter=delimiter)
    assert (problem.columns, problem.X[:, 0].tolist()) == (("a,b",), [1, 3])


def test_a_large_table_is_read_to_the_last_digit(tmp_path):
    X = RNG.normal(size=(300, 40))
    text = "\n".join(
        [",".join([*(f"x{j}" for j in range(39)), "y"]), *(",".join(map(repr, row)) for row in X.tolist())]
    )
    problem = _read(tmp_path, text)
    np.testing.assert_array_equal(np.column_stack([problem.X, problem.y]), X)


def test_gaps_in_arrays_of_a_file_are_handled_alike(tmp_path):
    X = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 7.0]])
    np.savez(tmp_path / "data.npz", X=X, y=np.arange(3.0))
    problem = from_file(tmp_path / "data.npz", missing="mean", center=False, scale=False)
    assert problem.X.tolist() == [[1, 2], [3, 4.5], [5, 7]]


def test_parquet_keeps_its_types(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {
        "a": pa.array([1, None, 3, 5]),
        "f": [True, False, True, True],
        "c": pa.array(["u", "v", "u", ""]).dictionary_encode(),
        "__index_level_0__": [7, 3, 1, 2],
        "y": [1.0, 2.0, 5.0, 4.0],
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    options = {"target": "y", "center": False, "scale": False, "categorical": "onehot"}
    problem = from_file(tmp_path / "data.parquet", missing="mean", **options)
    assert problem.columns == ("a", "f", "c=v")
    assert problem.X.tolist() == [[1, 1, 0], [3, 0, 1], [3, 1, 0], [5, 1, pytest.approx(1 / 3)]]
    assert problem.notes[0] == "dropped the data frame's index: __index_level_0__"
    with pytest.raises(ValueError, match=r"data\.parquet, row 2: column 'a' is empty"):
        from_file(tmp_path / "data.parquet", **options)
    pq.write_table(pa.table({"when": pa.array([1, 2], pa.date32()), "y": [1.0, 2.0]}), tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="column 'when' is date32"):
        from_file(tmp_path / "data.parquet", **options)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"data\.parquet: Parquet is read through pyarrow: pip install pyarrow"):
        _read(tmp_path, b"PAR1", "data.parquet")
