"""lntrain-report: one table of a sweep in any state, its figures, a page that stands alone, TensorBoard with bands."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys

import numpy as np
import pytest
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lntrain.runs import locks
from lntrain.runs.files import write_json
from lntrain.sweeps import report as sweep_report
from lntrain.sweeps import table
from lntrain.sweeps.jobs import job_name
from lntrain.sweeps.page import METRICS


def _job(folder, swept, status="done", seconds=1.0, code="c", **numbers):
    """A job's folder as a run leaves it; status None: killed."""
    path = folder / job_name(swept)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "job.json", {"config": "k", "code": code})
    summary = {"status": status, "seconds": seconds, "seed": int(swept.get("seed", 0)), **numbers}
    if status is not None:
        write_json(path / "summary.json", summary)
    mean = numbers.get("distance_mean") or 1.0
    rows = [
        {"step": s, "distance_mean": mean * 10 / s, "lambda_ratio": 1.0, "support_f1": 1.0} for s in (1.0, 10.0, 100.0)
    ]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def _sweep(folder, axes, **options):
    """All combinations; the distance is lr * (1 + seed) * other axes' position."""
    jobs = {}
    for flat in np.ndindex(*(len(values) for values in axes.values())):
        swept = {key: str(values[i]) for (key, values), i in zip(axes.items(), flat, strict=True)}
        size = float(swept.get("optimizer.lr", 0.01)) * (1 + int(swept.get("seed", 0))) * (1 + flat[0])
        jobs[
            _job(
                folder,
                swept,
                distance_mean=size,
                lambda_ratio=1 + size,
                support_f1=1.0,
                expected_lambda_ratio=1.02,
                **options,
            ).name
        ] = swept
    write_json(folder / "sweep.json", {"jobs": jobs})
    return folder


AXES = {"optimizer.lr": [0.01, 0.02, 0.04], "noise.std": [5, 10], "seed": [0, 1, 2]}


def test_the_table_has_a_row_a_job_in_the_order_of_the_axes(tmp_path):
    found = table.collect(_sweep(tmp_path, AXES))
    lines = list(csv.DictReader(io.StringIO(table.as_csv(found))))
    assert [(line["lr"], line["std"], line["seed"]) for line in lines] == [
        (str(lr), str(std), str(seed)) for lr in AXES["optimizer.lr"] for std in (5, 10) for seed in (0, 1, 2)
    ]
    assert {line["status"] for line in lines} == {"done"}
    assert float(lines[4]["distance_mean"]) == 0.01 * 2
    assert found.metrics[0] == "seconds"
    assert "seconds" not in lines[0]


def test_numbers_go_through_the_table_unrounded(tmp_path):
    value = 0.1 + 0.2
    _job(tmp_path, {"seed": "0"}, distance_mean=value)
    _job(tmp_path, {"seed": "1"}, distance_mean=1.0)
    write_json(tmp_path / "sweep.json", {"jobs": {f"seed={s}": {"seed": str(s)} for s in (0, 1)}})
    line = next(csv.DictReader(io.StringIO(table.as_csv(table.collect(tmp_path)))))
    assert float(line["distance_mean"]) == value


def test_time_makes_no_other_table(tmp_path):
    first = table.as_csv(table.collect(_sweep(tmp_path / "a", AXES)))
    assert table.as_csv(table.collect(_sweep(tmp_path / "b", AXES, seconds=99.0))) == first
    assert table.as_csv(table.collect(_sweep(tmp_path / "c", AXES, near_ties=1))) != first


def test_seeds_are_averaged_with_students_interval(tmp_path):
    found = table.collect(_sweep(tmp_path, AXES))
    assert len(found.groups) == 6
    values = [0.01, 0.02, 0.03]
    mean, half, count = found.groups[0].means["distance_mean"]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (mean, count) == (pytest.approx(0.02), 3)
    assert (mean - half, mean + half) == (pytest.approx(low), pytest.approx(high))
    assert math.isnan(table.interval([1.0])[1])


def _half_failed(folder):
    swept = {
        name: {"optimizer.lr": lr}
        for name, lr in (("lr=1", "1"), ("lr=2", "2"), ("lr=3", "3"), ("lr=4", "4"), ("lr=5", "5"))
    }
    write_json(folder / "sweep.json", {"jobs": swept})
    _job(folder, swept["lr=1"], distance_mean=0.5)
    _job(folder, swept["lr=2"], "diverged", reason="diverged by step 3 <script>alert(1)</script>", distance_mean=None)
    _job(folder, swept["lr=3"], None)
    _job(folder, swept["lr=4"], None)
    return folder


def test_every_state_of_a_job_is_told(tmp_path):
    with locks.lock(_half_failed(tmp_path) / "lr=4"):
        found = table.collect(tmp_path)
    assert [row.status for row in found.rows] == ["done", "diverged", "cut off", "running", "waiting"]
    assert "process" in found.rows[3].reason


def test_a_half_failed_sweep_has_its_report(tmp_path, capsys):
    out = sweep_report.report(_half_failed(tmp_path))
    page = (out / "index.html").read_text()
    assert "4 jobs are not done" in page
    assert "<script>" not in page
    assert "diverged by step 3 &lt;script&gt;" in page
    assert "5 lr. 5 jobs: 1 done, 2 cut off, 1 diverged, 1 waiting." in capsys.readouterr().out
    assert "| lr=2 | diverged |" in (out / "table.md").read_text()


def test_a_sweep_that_failed_whole_has_a_page_without_figures(tmp_path):
    _job(tmp_path, {"seed": "0"}, "failed", reason="no data")
    write_json(tmp_path / "sweep.json", {"jobs": {"seed=0": {"seed": "0"}}})
    page = (sweep_report.report(tmp_path) / "index.html").read_text()
    assert "no data" in page
    assert "<img" not in page


FIGURES = {
    "seeds alone": ({"seed": [0, 1]}, []),
    "one axis": ({"optimizer.lr": [0.01, 0.02], "seed": [0, 1]}, ["sweep"]),
    "one axis of words": ({"noise": ["gaussian", "rademacher"], "seed": [0, 1]}, ["sweep"]),
    "two axes": (AXES, ["sweep", "sweep_curves"]),
    "three axes": ({**AXES, "model.init": [0.1, 0.2]}, ["sweep_init=0.1", "sweep_init=0.2"]),
}


@pytest.mark.parametrize(("axes", "names"), list(FIGURES.values()), ids=list(FIGURES))
def test_the_axes_choose_the_figures(axes, names, tmp_path):
    out = sweep_report.report(_sweep(tmp_path, axes))
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(names)
    assert (out / "index.html").read_text().count("<img") == len(names)


def test_the_page_needs_no_other_file(tmp_path):
    page = (sweep_report.report(_sweep(tmp_path, AXES)) / "index.html").read_text()
    assert {source[:26] for source in re.findall(r'(?:src|href)="([^"]*)"', page)} == {"data:image/svg+xml;base64,"}
    assert not re.search(r"@import|url\(|<link|<script", page)


def test_a_panel_holds_means_intervals_and_what_is_expected(tmp_path):
    found = table.collect(_sweep(tmp_path, AXES))
    lr, std = (sweep_report.Axis(key, found.axes[key]) for key in ("lr", "std"))
    panel = sweep_report._panel(found, "lambda_ratio", [std, lr])
    assert panel.mean.shape == (2, 3)
    assert panel.mean[1, 2] == pytest.approx(1 + 0.04 * 3 * 2)
    np.testing.assert_allclose(panel.expected, 1.02)
    assert np.isfinite(panel.half).all()


def test_what_a_panel_expects_is_told_by_a_run(lntrain, tmp_path):
    assert lntrain("problem.n=12", "problem.d=8", "problem.k=2", "steps=40", "figures=false", "run_dir=a")[0] == 0
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    for metric, (_, _, _, expected, _) in METRICS.items():
        assert expected is None or math.isfinite(summary[expected]), metric


def test_tensorboard_has_a_run_a_setting_with_its_band(tmp_path):
    out = sweep_report.report(_sweep(tmp_path, AXES)) / "tensorboard"
    assert {path.name for path in out.iterdir()} == {
        f"lr={lr}, std={std}" for lr in (0.01, 0.02, 0.04) for std in (5, 10)
    } | {"sweep"}
    events = EventAccumulator(str(out / "lr=0.01, std=5"), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    assert {"log10/distance_mean_low", "log10/distance_mean_high", "reference/one", "result/distance_mean"} <= set(tags)
    mean = events.Scalars("distance/mean")
    assert [(e.step, e.value) for e in mean] == [(s, pytest.approx(0.02 * 10 / s)) for s in (1, 10, 100)]
    low, high = (events.Scalars(f"lasso/lambda_ratio_{end}")[-1].value for end in ("low", "high"))
    assert low == high == 1.0
    assert "_hparams_/session_start_info" in str(events.summary_metadata)
    assert {"sweep", "sweep_curves"} <= set(EventAccumulator(str(out / "sweep")).Reload().Tags()["images"])


def test_jobs_of_several_codes_are_said_to_be(tmp_path):
    _sweep(tmp_path, {"seed": [0, 1]})
    _job(tmp_path, {"seed": "1"}, code="other", distance_mean=1.0)
    assert "2 different versions of the code" in " ".join(sweep_report.headline(table.collect(tmp_path), []))


def test_a_sweep_of_another_sweeper_is_read_from_its_overrides(tmp_path):
    for k, lr in enumerate((0.1, 0.2)):
        (tmp_path / str(k)).mkdir()
        write_json(tmp_path / str(k) / "summary.json", {"status": "done", "distance_mean": lr})
        (tmp_path / str(k) / ".hydra").mkdir()
        (tmp_path / str(k) / ".hydra" / "overrides.yaml").write_text(f"- optimizer.lr={lr}\n- steps=100\n")
    found = table.collect(tmp_path)
    assert {key: list(values) for key, values in found.axes.items()} == {"lr": [0.1, 0.2]}


def test_other_tasks_draw_what_differs(tmp_path):
    jobs = {}
    for k in (1, 2, 3):
        jobs[f"widths={k}"] = {"network.widths": str(k)}
        _job(tmp_path, jobs[f"widths={k}"], steps=100, final_accuracy=k / 4, final_accuracy_sd=0.1 * k, constant=3.0)
    write_json(tmp_path / "sweep.json", {"jobs": jobs})
    assert sweep_report.chosen_metrics(table.collect(tmp_path)) == ["final_accuracy"]
    assert sweep_report.chosen_metrics(table.collect(tmp_path), ["constant"]) == ["constant"]


MISTAKES = {
    "no folder": (["nowhere"], "nowhere is no folder"),
    "an empty folder": (["empty"], "empty holds no jobs"),
    "an unknown metric": (["sweep", "--metric", "beauty"], "--metric beauty"),
}


@pytest.mark.parametrize(("arguments", "says"), list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_is_one_line_and_exit_2(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    _sweep(tmp_path / "sweep", {"seed": [0]})
    monkeypatch.setattr(sys, "argv", ["lntrain-report", *arguments])
    with pytest.raises(SystemExit) as stop:
        sweep_report.main()
    err = capsys.readouterr().err
    assert (stop.value.code, len(err.strip().splitlines())) == (2, 1)
    assert says in err
