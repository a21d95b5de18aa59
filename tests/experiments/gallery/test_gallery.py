"""Every entry composes and runs; its rule turns red where arms are swapped or spoilt; verdicts follow their rule."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from lntrain import cli
from lntrain.experiments.gallery import main, page, run
from lntrain.experiments.gallery.declared import VERDICTS, Declared, declared
from lntrain.experiments.gallery.entries import ENTRIES
from lntrain.experiments.gallery.flows import successive_saddles
from lntrain.experiments.verdicts import Check

RECORDED = Path(__file__).parent / "recorded"  # written by scripts/gallery.py: the arms of full runs
ROWS = main.declarations()
OWN = [name for name, section in ROWS.items() if hasattr(ENTRIES[section["entry"]], "arms")]
SWAPPED = {  # else the first arm and its last mate
    "matrix_sensing": ("label noise, m=60", "GD, the same start, m=60"),
    "flatness": ("lr 0.2, batch 16", "control"),
}
SPOILT = {  # rows whose arms claim the same, or have no mate: arm, quantity, factor
    "two_penalties": ("noise's share 1", "lambda", 0.9),
    "temperature": ("alpha 0.1", "apart", 1.2),
    "thresholds": ("levels", "size", 2.0),
    "generalisation": ("n=50", "gap", 0.01),
    "reparametrise": ("p 1.5", "distance", 1e6),
    "lp": ("temperature 0.25", "distance", 1e4),
    "large_steps": ("GD", "large", 0.1),
    "momentum_path": ("paths", "alike", 10.0),
    "samples": ("label noise", "rows", [[1.0], [2.0], [4.0]]),
    "path": ("path", "distances", 10.0),
    "real_path": ("path", "distances_fit", 10.0),
    "sde": ("tails", "exponent", [[1.0], [1.0], [1.0], [4.0]]),
    "momentum_speed": ("lr 0.001", "fastest", 0.3),
    "smoothed_sign": ("eps 1", "distance", 5.0),
}


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    cli._register()
    with initialize_config_module("lntrain.conf", version_base="1.3"):
        yield


def test_every_entry_is_declared_once():
    assert sorted(section["entry"] for section in ROWS.values()) == sorted(ENTRIES)


@pytest.mark.parametrize("name", OWN)
def test_an_entry_runs_quickly(name, tmp_path, capsys):
    """Plumbing alone: finite numbers and a picture, no verdict."""
    cfg = compose("config", overrides=[f"experiment={name}", "gallery.size=quick"])
    summary = run.run(cfg, tmp_path)
    assert summary["verdict"] in VERDICTS
    assert summary["checks"]
    assert all(check["measured"] is not None for check in summary["checks"]), summary["checks"]
    assert [path.stem for path in (tmp_path / "figures").iterdir()] == [name]
    assert "verdict" in capsys.readouterr().out


def test_a_run_goes_on_with_the_arms_that_are_left(tmp_path):
    cfg = compose("config", overrides=["experiment=reparametrise", "gallery.size=quick", "figures=false"])
    whole = run.run(cfg, tmp_path)
    from lntrain.runs.files import read_checkpoint, write_checkpoint

    held = read_checkpoint(tmp_path)
    first = next(iter(held["history"]["arms"]))
    held["history"]["arms"] = {first: {"distance": 2 * held["history"]["arms"][first]["distance"]}}
    write_checkpoint(tmp_path, held)
    resumed = run.run(cfg, tmp_path, resume=True)
    pairs = list(zip(whole["checks"], resumed["checks"], strict=True))
    assert math.isclose(pairs[0][1]["measured"], 2 * pairs[0][0]["measured"], rel_tol=1e-9)  # the first arm is kept
    assert pairs[2][0] == pairs[2][1]  # the others are measured again


def arms_of(name):
    with np.load(RECORDED / f"{name}.npz") as found:
        arms = {}
        for key in found.files:
            arm, _, quantity = key.rpartition("/")
            arms.setdefault(arm, {})[quantity] = found[key]
    return arms


@pytest.mark.parametrize("name", ROWS)
def test_the_recorded_run_has_its_verdict_and_loses_it_when_spoilt(name):
    one = declared(compose("config", overrides=[f"experiment={name}"]))
    entry, arms = run.entry_of(one), arms_of(name)
    verdict = run.conclude(one, entry, arms)["verdict"]
    assert verdict in ("reproduced", "after", "differs")
    if name in SPOILT:
        arm, quantity, factor = SPOILT[name]
        arms[arm][quantity] = np.array(factor) * (arms[arm][quantity] + (quantity == "size"))
    else:
        first = next(iter(arms))
        mates = [arm for arm in arms if arm != first and set(arms[arm]) == set(arms[first])]
        one_arm, other = SWAPPED.get(name) or (first, mates[-1])
        arms[one_arm], arms[other] = arms[other], arms[one_arm]
    assert run.conclude(one, entry, arms)["verdict"] == "unexpected"


ONE = Declared("x", "a paper", "code", {"n": 3, "seeds": 2}, {"n": 3}, {})
GOOD, BAD = Check("a", 1.0, 0.5, "<="), Check("b", 1.0, 2.0, "<=")


@pytest.mark.parametrize(
    ("one", "checks", "verdict"),
    [
        (ONE, [GOOD], "reproduced"),
        (replace(ONE, stated={"n": 4}), [GOOD], "after"),
        (replace(ONE, stated={"m": 4}), [GOOD], "after"),
        (replace(ONE, found="ours"), [GOOD], "after"),
        (ONE, [GOOD, BAD], "unexpected"),
        (replace(ONE, known=("b",)), [GOOD, BAD], "differs"),
        (replace(ONE, known=("a",)), [GOOD, BAD], "unexpected"),
        (replace(ONE, known=("a", "b")), [GOOD, BAD], "unexpected"),  # an unexpected pass
        (replace(ONE, known=("c",)), [GOOD], "unexpected"),  # a check that is no more
        (ONE, [Check("a", 1.0, math.nan, "<=")], "unexpected"),
    ],
)
def test_the_verdict_follows_the_declaration(one, checks, verdict):
    assert one.judge(checks)[0] == verdict


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["gallery.used.nonsense=3"], "has no setting nonsense"),
        (["~gallery.used.threshold"], "misses threshold"),
        (["gallery.quick.nonsense=3"], "quick.nonsense is no setting"),
        (["gallery.size=tiny"], "choose one of full, quick"),
        (["gallery.found=dream"], "choose one of code"),
        (["gallery.entry=nonsense"], "choose one of figure1"),
    ],
)
def test_a_mistake_is_one_line(overrides, word):
    forced = [("+" if "nonsense=3" in o else "") + o for o in overrides]
    cfg = compose("config", overrides=["experiment=woodworth", *forced])
    with pytest.raises(ValueError, match=word) as error:
        run.entry_of(declared(cfg))
    assert "\n" not in str(error.value)


def test_the_task_without_an_entry_is_refused(tmp_path):
    with pytest.raises(ValueError, match="task=gallery has no entry"):
        run.run(compose("config", overrides=["task=gallery"]), tmp_path)


def test_the_gallery_is_made_once_and_again_in_no_time(tmp_path, capfd):
    """Two small entries by the command: a page that stands alone, Markdown, exit 1 for verdicts of tiny runs."""
    options = [
        "--quick",
        "--out",
        str(tmp_path / "g"),
        "--jobs",
        "1",
        "--only",
        "reparametrise",
        "--only",
        "momentum_path",
    ]
    codes, summaries = [], []
    for _ in range(2):
        codes.append(main.run(options))
        summaries.append([path.stat().st_mtime_ns for path in sorted((tmp_path / "g").glob("*/summary.json"))])
    assert codes[0] == codes[1]
    assert summaries[0] == summaries[1]  # nothing was run again
    assert len(summaries[0]) == 2
    assert "wrote" in capfd.readouterr().out
    html = (tmp_path / "g" / "index.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert "src='http" not in html
    assert "href='http" not in html
    text = (tmp_path / "g" / "GALLERY.md").read_text()
    assert "lntrain experiment=reparametrise seed=0" in text
    assert "momentum_path" in text


def test_an_entry_that_did_not_end_is_an_error():
    summary = {"status": "diverged", "seconds": None, "reason": "diverged by step 3"}
    section = {"entry": "lp", "source": "s", "found": "ours", "stated": {}, "used": {}}
    row = page.Row("x", section, summary, Path("nowhere"))
    assert row.verdict == "error"
    for text in (page.html([row], 0), page.markdown([row], 0)):
        assert "error" in text
        assert "diverged by step 3" in text


def test_successive_saddles_in_one_dimension_and_in_two():
    """One column: a jump at 1 / |x.y / n| to least squares. Orthogonal columns: one each, the stronger first."""
    jumps, saddles = successive_saddles(np.array([[1.0], [1.0]]), np.array([2.0, 2.0]))
    assert np.allclose(jumps, [0.5])
    assert np.allclose(saddles, [[0.0], [2.0]])
    jumps, saddles = successive_saddles(np.eye(2), np.array([1.0, -3.0]))
    assert np.allclose(jumps, [2 / 3, 2.0])
    assert np.allclose(saddles, [[0, 0], [0, -3], [1, -3]])


def test_what_an_entry_says_of_other_seeds_stands_on_the_page():
    told = (Path(__file__).parents[3] / "GALLERY.md").read_text()
    texts = {name: section["may"] for name, section in ROWS.items() if section.get("may")}
    assert "figure1" in texts
    for name, text in texts.items():
        assert text in told.partition(f"\n## {name}\n")[2].partition("\n## ")[0], name
