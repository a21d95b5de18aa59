"""dashboard: every metric under its tag, logarithms where they exist, bands over replicas, reference lines."""

from __future__ import annotations

import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lntrain.runs.dashboard import BANDS, LAYOUT, LOG10, TAGS, Dashboard

ROW = {name: 0.01 * (i + 1) for i, name in enumerate(TAGS)}


def _write(folder, rows, **options):
    board = Dashboard(folder, **options)
    for row in rows:
        board.row(row, torch.arange(4.0), {"one": 1.0})
    board.finish({}, {"lr": 0.1}, {"distance_mean": 0.25, "kkt_residual": None, "seed": 1}, int(rows[-1]["step"]))
    board.close()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return events


def test_every_metric_has_its_tag_and_its_logarithm(tmp_path):
    events = _write(tmp_path, [{"step": 10.0, **ROW}])
    for name, tag in TAGS.items():
        assert [(e.step, e.value) for e in events.Scalars(tag)] == [(10, pytest.approx(ROW[name]))]
    for name in LOG10:
        assert events.Scalars(f"log10/{name}")[0].value == pytest.approx(math.log10(ROW[name]))
    assert events.Scalars("reference/one")[0].value == 1.0
    assert events.Histograms("coef/mean")[0].step == 10
    assert {tag for tag in events.Tags()["scalars"] if tag.startswith("result/")} == {"result/distance_mean"}


def test_what_is_not_finite_or_not_positive_is_left_out(tmp_path):
    row = {"step": 5.0, "distance_mean": math.nan, "kkt_residual": 0.0, "train_loss": math.inf, "l1_norm_mean": 2.0}
    tags = _write(tmp_path, [row]).Tags()["scalars"]
    assert "l1/mean" in tags
    assert "lasso/kkt_residual" in tags
    assert not {"distance/mean", "log10/distance_mean", "loss/train", "log10/kkt_residual"} & set(tags)


def test_the_estimate_of_lambda_waits_until_it_has_settled(tmp_path):
    events = _write(tmp_path, [{"step": float(step), "lambda_ratio": 1.0} for step in (1, 9, 10, 20)], settled=10)
    assert [e.step for e in events.Scalars("lasso/lambda_ratio")] == [10, 20]


def test_replicas_have_bands_of_one_standard_deviation(tmp_path):
    events = _write(tmp_path, [{"step": 1.0, "support_f1": 0.75, "support_f1_sd": 0.25}], replicas=True)
    ends = [events.Scalars(f"support/f1{end}")[0].value for end in ("_low", "", "_high")]
    assert ends == pytest.approx([0.5, 0.75, 1.0])


def test_every_chart_draws_tags_that_are_written():
    written = {
        *TAGS.values(),
        *(f"log10/{name}" for name in LOG10),
        "reference/one",
        "reference/l1",
        "reference/support",
    }
    drawn = {tag.strip("^$") for charts in LAYOUT.values() for _, tags in charts.values() for tag in tags}
    assert drawn <= written
    assert set(BANDS.values()) <= written
    assert set(LOG10) <= set(TAGS)
