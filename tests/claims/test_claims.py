"""claims: the rule can fail, the exit code tells, and a broken formula turns its row red."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from lntrain.claims import main, mutations, table
from lntrain.experiments.verdicts import FAMILY_LEVEL, At, Check, Outcome, Result, judge_all

GOOD = [0.98, 1.0, 1.02, 1.01, 0.99, 1.0, 1.0, 1.01]


def verdict(*args, **kwargs):
    return Check("x", *args, **kwargs).judge(0.01).verdict


def test_equal_holds_fails_or_stays_undecided():
    assert verdict(1.0, GOOD) == "holds"
    assert verdict(1.2, GOOD) == "fails"
    assert verdict(1.0, [0.5, 1.5, 0.7, 1.3]) == "undecided"  # it holds the prediction, and anything else too
    assert verdict(1.0, [1.05] * 8) == "fails"
    assert verdict(1.0, [1.05] * 8, allowance=0.06) == "holds"
    assert verdict(1.0, [1.05] * 8, allowance=0.3) == "undecided"  # an allowance cannot hide a factor 1.2


@pytest.mark.parametrize(("relation", "inside", "outside"), [("<=", 0.5, 1.5), (">=", 1.5, 0.5)])
def test_bounds_hold_only_with_the_whole_interval(relation, inside, outside):
    assert verdict(1.0, inside, relation) == "holds"
    assert verdict(1.0, outside, relation) == "fails"
    assert verdict(1.0, [inside - 0.6, inside + 0.6], relation) == "undecided"


@pytest.mark.parametrize("relation", ["=", "<=", ">="])
def test_nan_fails(relation):
    assert verdict(1.0, [1.0, float("nan")], relation) == "fails"


def test_intervals_of_true_claims_hold_at_the_family_level():
    """2000 tables of 10 checks that are true: at most FAMILY_LEVEL of them are red, up to 4 sd."""
    rng = np.random.Generator(np.random.Philox(1))
    draws = rng.standard_normal((2000, 10, 8)) * 0.05 + 1
    red = 0
    for row in draws:
        judged = judge_all([Check("x", 1.0, samples, precision=9.0) for samples in row], 1)
        red += any(j.verdict == "fails" for j in judged)
    assert red <= 2000 * FAMILY_LEVEL + 4 * (2000 * FAMILY_LEVEL) ** 0.5
    assert red >= 2000 * FAMILY_LEVEL - 4 * (2000 * FAMILY_LEVEL) ** 0.5  # nor is it far too wide


def test_a_row_is_as_bad_as_its_worst_check():
    good, bad = (check.judge(0.01) for check in (Check("x", 1.0, GOOD), Check("x", 2.0, GOOD)))
    assert Result("r", "", "", [good]).verdict == "holds"
    assert Result("r", "", "", [good, bad]).verdict == "fails"
    assert Result("r", "", "").verdict == "error"


def test_the_table_is_long_enough_and_every_formula_exists():
    assert len(table.ROWS) >= 20
    for name, row in table.ROWS.items():
        assert row.claim, name
        with mutations.broken(row.formula):
            pass


def test_a_bound_is_judged_one_sided_by_the_geometric_mean():
    values = [1e-3, 2e-3, 4e-3, 8e-3]
    below, above = (Check("x", 1.0, values, relation).judge(0.05) for relation in ("<=", ">="))
    width = stats.t.isf(0.05, 3) * np.std(np.log(values), ddof=1) / 2
    assert below.mean == pytest.approx(math.sqrt(8e-6))
    assert below.mean + below.half == pytest.approx(math.sqrt(8e-6) * math.exp(width))
    assert above.mean - above.half == pytest.approx(math.sqrt(8e-6) * math.exp(-width))
    assert verdict(1e3, [0.0, 1.0, 2.0], "<=") == "holds"  # with a zero, the plain mean


def test_seeds_follow_the_row_the_purpose_and_the_readers_seed():
    seeds = [At("a", 0).seeds(8), At("b", 0).seeds(8), At("a", 1).seeds(8), At("a", 0).seeds(8, "data")]
    assert len({s for each in seeds for s in each}) == 32
    assert At("a", 0).seeds(8) == seeds[0]


@pytest.fixture
def rows(monkeypatch):
    """A table of three: one holds, one fails, one raises."""

    def broken(at):
        raise RuntimeError("no such problem")

    checks = {"good": lambda at: Outcome([Check("x", 1.0, GOOD)]), "bad": lambda at: Outcome([Check("x", 2.0, GOOD)])}
    table_of_three = {
        name: table.Row("s", "t", measure, "lntrain.penalty.formula:alpha_max")
        for name, measure in {**checks, "none": broken}.items()
    }
    monkeypatch.setattr(main, "ROWS", table_of_three)
    return table_of_three


def test_exit_code_and_json_tell_of_every_row(rows, tmp_path):
    assert main.run(["--jobs", "1", "--out", str(tmp_path), "--only", "good"]) == 0
    assert main.run(["--jobs", "1", "--out", str(tmp_path)]) == 1
    body = json.loads((tmp_path / "claims.json").read_text())
    assert {row["name"]: row["verdict"] for row in body["rows"]} == {"good": "holds", "bad": "fails", "none": "error"}
    assert body["verdict"] == "fails"
    assert "no such problem" in (tmp_path / "claims.md").read_text()
    assert (tmp_path / "bad.png").stat().st_size > 10_000


def test_a_mutation_that_stays_green_is_told(rows, tmp_path):
    assert main.run(["--jobs", "1", "--out", str(tmp_path), "--mutations", "--only", "good"]) == 1
    assert "| NO |" in (tmp_path / "mutations.md").read_text()


@pytest.mark.parametrize(
    "arguments", [["--only", "nonsense"], ["--mutate", "nonsense"], ["--jobs", "0"], ["--seed", "-1"]]
)
def test_mistakes_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.run(arguments)
    assert stopped.value.code == 2
    assert arguments[1] in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hadamard", "theorem-2", "init-forgotten"])
def test_cheap_rows_hold_and_turn_red_when_their_formula_is_broken(name, tmp_path):
    assert main.run(["--jobs", "1", "--out", str(tmp_path), "--only", name, "--seed", "7"]) == 0
    assert main.run(["--jobs", "1", "--out", str(tmp_path), "--mutate", name, "--seed", "7"]) == 1
    assert json.loads((tmp_path / "claims.json").read_text())["rows"][0]["verdict"] == "fails"


@pytest.mark.slow
def test_the_quick_table_holds(tmp_path):
    assert main.run(["--out", str(tmp_path)]) == 0


@pytest.mark.slow
def test_every_mutation_turns_its_row_red(tmp_path):
    assert main.run(["--out", str(tmp_path), "--mutations"]) == 0
