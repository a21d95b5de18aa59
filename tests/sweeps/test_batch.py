"""batched: replicas of one job leave the folders and the numbers that the multirun leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lntrain.runs.files import read_checkpoint
from lntrain.sweeps import table

SMALL = ["problem.n=12", "problem.d=8", "problem.k=2", "steps=600"]
SWEEPS = {
    "lr, std, seed": ["model.replicas=null", "optimizer.lr=0.002,0.003", "noise.std=4,7", "seed=0,5"],
    "replicas, init, penalty": [
        "model.replicas=3",
        "optimizer.lr=0.002",
        "model.init=0.1,0.3",
        "penalty.alpha_ratio=0.2,0.3",
    ],
    "batches, momentum, schedules": [
        "model.replicas=null",
        "optimizer=heavy_ball",
        "batch_size=4",
        "optimizer.lr=0.0004,0.0005",
        "noise.std=4",
        "noise/schedule=power",
        "lr_schedule=cosine",
        "seed=0,1",
    ],
    "antithetic, another axis": [
        "model.replicas=null",
        "noise=antithetic",
        "model.parametrisation=difference,square",
        "optimizer.lr=0.002",
        "noise.std=4",
        "seed=0,1",
    ],
    "noise in the columns' directions": [
        "model.replicas=null",
        "noise.stream=gram",
        "optimizer.lr=0.002,0.003",
        "noise.std=4",
        "seed=0,1",
    ],
    "automatic": ["model.replicas=null", "penalty.alpha_ratio=0.2,0.3", "steps=auto", "target_distance=1"],
}


def _same(a, b, tolerance=1e-10):
    """Equal files, equal numbers, equal identity."""
    first, second = table.collect(a), table.collect(b)
    assert [(row.folder.name, row.status, row.reason) for row in first.rows] == [
        (row.folder.name, row.status, row.reason) for row in second.rows
    ]
    for one, two in zip(first.rows, second.rows, strict=True):
        files = [{p.name for p in row.folder.rglob("*") if not p.name.startswith("events.")} for row in (one, two)]
        assert files[0] == files[1]
        assert set(one.summary) == set(two.summary)
        for name in set(one.summary) - set(table.TIMING):
            assert one.summary[name] == pytest.approx(two.summary[name], rel=tolerance, abs=tolerance), name
        lines = [
            [json.loads(line) for line in (row.folder / "metrics.jsonl").read_text().splitlines()] for row in (one, two)
        ]
        assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
        for x, y in zip(*lines, strict=True):
            assert x == pytest.approx(y, rel=tolerance, abs=tolerance, nan_ok=True)
        records = [json.loads((row.folder / "job.json").read_text()) for row in (one, two)]
        assert [records[0][key] for key in ("config", "code")] == [records[1][key] for key in ("config", "code")]
        with np.load(one.folder / "result.npz") as x, np.load(two.folder / "result.npz") as y:
            assert set(x.files) == set(y.files)
            for name in x.files:
                assert x[name].shape == y[name].shape
                np.testing.assert_allclose(x[name], y[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("axes", "engine"),
    [
        pytest.param(axes, engine, id=f"{name}-{engine}")
        for engine, names in (("auto", list(SWEEPS)), ("torch", list(SWEEPS)[:3]))
        for name, axes in SWEEPS.items()
        if name in names
    ],
)
def test_a_batch_equals_the_multirun(axes, engine, lntrain, tmp_path):
    """Show 5, the numbers."""
    command = ["-m", "hydra/launcher=basic", *(SMALL[:3] if "steps=auto" in axes else SMALL), *axes, f"engine={engine}"]
    assert lntrain(*command, "sweep.name=a")[0] == 0
    code, out, err = lntrain(*command, "sweep.name=b", "sweep.batched=true")
    assert (code, err) == (0, "")
    assert "batched" in out
    assert "done      lr" not in out.split("batched")[0]
    sweeps = tmp_path / "outputs" / "sweeps"
    _same(sweeps / "a", sweeps / "b")


def test_a_job_of_a_batch_goes_on_alone(lntrain, tmp_path):
    command = [
        "-m",
        "hydra/launcher=basic",
        *SMALL[:3],
        "model.replicas=2",
        "optimizer.lr=0.002,0.003",
        "noise.std=4",
        "seed=0,1",
    ]
    assert lntrain(*command, "steps=300", "sweep.batched=true", "sweep.name=a")[0] == 0
    folder = tmp_path / "outputs" / "sweeps" / "a" / "lr=0.003,seed=1"
    assert read_checkpoint(folder)["state"]["step"] == 300
    assert lntrain(f"resume={folder}", "steps=600")[0] == 0
    alone = [*SMALL, "model.replicas=2", "optimizer.lr=0.003", "noise.std=4", "seed=1", f"run_dir={tmp_path / 'alone'}"]
    assert lntrain(*alone)[0] == 0
    with np.load(folder / "result.npz") as x, np.load(tmp_path / "alone" / "result.npz") as y:
        np.testing.assert_allclose(x["mean_coef"], y["mean_coef"], rtol=1e-10, atol=1e-12)


def test_what_cannot_be_batched_runs_alone_and_the_rest_together(lntrain, tmp_path):
    """A mistake, a job that diverges and an axis that is no number: as in the multirun."""
    axes = ["model.replicas=null", "optimizer.lr=0.002,0.003,50", "noise.std=4,-1", "batch_size=null,3"]
    command = ["-m", "hydra/launcher=basic", *SMALL, *axes]
    assert lntrain(*command, "sweep.name=a")[0] == 1
    code, out, err = lntrain(*command, "sweep.name=b", "sweep.batched=true")
    assert code == 1
    assert "Traceback" not in err
    first, second = (table.collect(tmp_path / "outputs" / "sweeps" / name) for name in "ab")
    status = [{row.folder.name: row.status for row in t.rows} for t in (first, second)]
    assert status[0] == status[1]
    assert sorted(status[0].values()) == ["diverged"] * 2 + ["done"] * 4 + ["failed"] * 6
    assert out.count("batched   2 jobs") == 2


def test_a_divergence_within_a_batch_costs_its_own_job_alone(lntrain, tmp_path, monkeypatch):
    """The stable step is believed to be large, so that the wild job is let in."""
    from lntrain.sweeps import batch as batched

    real = batched.build.build

    def deceived(cfg):
        built = real(cfg)
        object.__setattr__(built.plan, "stable_lr", 1e9)
        return built

    monkeypatch.setattr(batched.build, "build", deceived)
    command = ["-m", "hydra/launcher=basic", *SMALL, "model.replicas=null", "optimizer.lr=0.002,5,0.003", "noise.std=4"]
    code, _, err = lntrain(*command, "sweep.name=b", "sweep.batched=true")
    assert code == 1
    assert "lr=5: diverged" in err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    rows = {row.folder.name: row.status for row in table.collect(tmp_path / "outputs" / "sweeps" / "b").rows}
    assert rows == {"lr=0.002": "done", "lr=0.003": "done", "lr=5": "diverged"}
