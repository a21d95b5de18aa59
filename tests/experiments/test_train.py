"""job: what a run folder holds, and that a resume after any stop ends bit for bit where the whole run ends."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lntrain import cli
from lntrain.experiments import run_figures
from lntrain.experiments import train as job
from lntrain.runs import session, watch
from lntrain.runs.files import read_checkpoint, write_checkpoint

SMALL = ["problem.n=12", "problem.d=8", "problem.k=2", "optimizer.lr=0.002", "penalty.alpha_ratio=0.2", "steps=3000"]
ISSUE_KEYS = [
    "alpha",
    "steps",
    "seconds",
    "steps_per_second",
    "seed",
    "reference_gap",
    "distance_mean",
    "distance_last",
    "distance_compensated",
    "suboptimality_mean",
    "kkt_residual",
    "lambda_ratio",
    "support_f1",
    "status",
]


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    cli._register()
    with initialize_config_module("lntrain.conf", version_base="1.3"):
        yield


def _compose(*overrides):
    return compose(config_name="config", overrides=[*SMALL, *overrides])


def _run(cfg, folder, **options):
    folder.mkdir(exist_ok=True)
    return job.run(cfg, folder, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One finished run of a single network on noisy data."""
    path = tmp_path_factory.mktemp("run")
    _run(_compose("model.replicas=null", "problem.noise=0.1"), path)
    return path


def test_the_summary_is_valid_json_with_every_key_of_the_issue(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    summary = json.loads((folder / "summary.json").read_text(), parse_constant=refuse)
    assert set(ISSUE_KEYS) <= set(summary)
    assert all(summary[key] is not None for key in ISSUE_KEYS)
    assert (summary["status"], summary["steps"], summary["seed"]) == ("done", 3000, 0)
    assert 0 <= summary["reference_gap"] <= 1e-6
    assert summary["steps_per_second"] == pytest.approx(3000 / summary["seconds"])


def test_the_arrays(folder):
    with np.load(folder / "result.npz") as result:
        assert {"mean_coef", "last_coef", "reference_coef", "penalty", "truth"} <= set(result.files)
        assert {result[name].shape for name in ("mean_coef", "last_coef", "reference_coef", "penalty", "truth")} == {
            (8,)
        }
        summary = json.loads((folder / "summary.json").read_text())
        reference = result["reference_coef"]
        for name in ("mean", "last"):
            error = np.linalg.norm(result[f"{name}_coef"] - reference) / np.linalg.norm(reference)
            assert summary[f"distance_{name}"] == pytest.approx(error, rel=1e-12)


def test_the_metrics_rise_in_steps_and_end_as_the_summary(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] == 3000
    summary = json.loads((folder / "summary.json").read_text())
    assert {k: v for k, v in rows[-1].items() if k != "step"}.items() <= summary.items()


def test_figures_checkpoint_and_events(folder):
    assert {p.stem for p in (folder / "figures").glob("*.png")} == {"coefficients", "trajectories", "errors"}
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in (folder / "figures").glob("*.png"))
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert checkpoint["state"]["step"] == 3000
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert {"distance/mean", "lasso/lambda_ratio", "reference/one", "reference/l1"} <= set(tags["scalars"])
    assert [e.step for e in events.Scalars("distance/mean")] == [json.loads(row)["step"] for row in rows]
    assert {"figures/coefficients", "figures/trajectories", "figures/errors"} <= set(tags["images"])
    assert "coef/mean" in tags["histograms"]
    assert not [p for p in folder.iterdir() if p.is_dir() and p.name not in ("figures", ".hydra")]  # no sub-runs


def test_real_data_is_reported_in_its_own_units(tmp_path, capsys):
    cfg = compose(config_name="config", overrides=["problem=diabetes", "steps=500", "model.replicas=null"])
    _run(cfg, tmp_path)
    problem = instantiate(cfg.problem, _convert_="all")
    with np.load(tmp_path / "result.npz") as result:
        assert "truth" not in result.files
        back, intercept = problem.original_units(torch.from_numpy(result["tail_coef"]))  # judged on real data
        np.testing.assert_allclose(result["mean_coef_original"], back, rtol=1e-12)
        assert float(result["intercept_original"]) == pytest.approx(float(intercept))
        assert (tuple(result["columns"]), str(result["target"])) == (problem.columns, "progression")
    with (tmp_path / "coefficients.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert [float(rows[name]["trained"]) for name in problem.columns] == pytest.approx(back.tolist(), rel=1e-12)
    assert float(rows["intercept"]["trained"]) == pytest.approx(float(intercept))
    printed = capsys.readouterr().out
    assert "coefficients of progression, in original units" in printed.split("KKT residual")[1]


def test_a_table_is_read_as_the_command_line_says(tmp_path):
    lines = ["a,c,k,y", *(f"{'NA' if i == 3 else i},{'uvw'[i % 3]},1,{i * i}" for i in range(12))]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    options = [
        f"problem.path={tmp_path}/data.csv",
        "problem.target=y",
        "problem.missing=mean",
        "problem.categorical=onehot",
    ]
    cfg = compose(config_name="config", overrides=["problem=file", *options, "steps=300", "figures=false"])
    _run(cfg, tmp_path / "run")
    with np.load(tmp_path / "run" / "result.npz") as result:
        assert result["columns"].tolist() == ["a", "c=u", "c=v", "c=w"]
    assert len(instantiate(cfg.problem, _convert_="all").notes) == 3


RESUMED = {
    "one network": ["model.replicas=null"],
    "replicas, batches, momentum": ["model.replicas=3", "batch_size=4", "optimizer=heavy_ball", "optimizer.lr=0.0005"],
    "antithetic, schedules": ["model.replicas=2", "noise=antithetic", "noise/schedule=power", "lr_schedule=cosine"],
    "without noise": ["noise=none", "penalty.alpha_ratio=null", "model.replicas=null"],
}


def _arrays(folder):
    with np.load(folder / "result.npz") as result:
        return {name: result[name].tobytes() for name in result.files}


@pytest.mark.parametrize("options", list(RESUMED.values()), ids=list(RESUMED))
@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_a_resume_after_a_stop_ends_where_the_whole_run_ends(options, engine, tmp_path, monkeypatch):
    """A stop is asked at the third, then at the ninth snapshot, through the signals' own list."""
    options = [*options, f"engine={engine}", "steps=1200"]
    monkeypatch.setattr(run_figures, "draw", lambda *_: {})  # they take longer than the run
    _run(_compose(*options), tmp_path / "whole")
    real = watch.watch

    def stopping(at):
        def watching(snapshots, *, came, **rest):
            for k, snapshot in enumerate(real(snapshots, came=came, **rest)):
                if k == at:
                    came.asked.append(15)
                yield snapshot

        return watching

    for k, at in enumerate((3, 9)):
        monkeypatch.setattr(session, "watch", stopping(at))
        with pytest.raises(watch.Interruption) as stop:
            _run(_compose(*options), tmp_path / "cut", resume=k > 0)
        assert stop.value.code == 143
        assert json.loads((tmp_path / "cut" / "summary.json").read_text())["status"] == "interrupted"
        with (tmp_path / "cut" / "metrics.jsonl").open("a") as metrics:
            metrics.write('{"step": 1000.0, "half a li')  # a kill may leave rows past the checkpoint
    monkeypatch.setattr(session, "watch", real)
    _run(_compose(*options), tmp_path / "cut", resume=True)
    assert _arrays(tmp_path / "cut") == _arrays(tmp_path / "whole")
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("cut", "whole")]
    assert [json.loads(line) for line in lines[0]] == [json.loads(line) for line in lines[1]]


def test_what_auto_chose_is_resolved_once_and_a_resume_goes_on_with_it(tmp_path, monkeypatch):
    """Real data: pairs, tail, a corrected std, lr, steps and init by `auto`; the checkpoint names them all."""
    options = ["problem=diabetes", "budget=2e8", "figures=false", "checkpoint_every=0"]
    whole = compose(config_name="config", overrides=options)
    summary = _run(whole, tmp_path / "whole")
    assert (summary["antithetic"], summary["average"], summary["corrected"], summary["replicas"]) == (
        True,
        "tail",
        True,
        2,
    )
    assert summary["expected_low"] < summary["expected_distance"] < summary["expected_high"]
    assert {"distance", "distance_sd", "distance_fit", "suboptimality", "ill_determined"} <= set(summary)

    def stopping(snapshots, *, came, **rest):
        for k, snapshot in enumerate(watch.watch(snapshots, came=came, **rest)):
            if k == 5:
                came.asked.append(15)
            yield snapshot

    with monkeypatch.context() as patch:
        patch.setattr(session, "watch", stopping)
        with pytest.raises(watch.Interruption):
            _run(whole, tmp_path / "cut")
    resolved = OmegaConf.create(read_checkpoint(tmp_path / "cut")["config"])
    assert "auto" not in {
        OmegaConf.select(resolved, key)
        for key in (
            "noise.antithetic",
            "penalty.corrected",
            "average",
            "model.replicas",
            "model.init",
            "batch_size",
            "optimizer.lr",
            "steps",
        )
    }
    _run(resolved, tmp_path / "cut", resume=True)
    assert _arrays(tmp_path / "cut") == _arrays(tmp_path / "whole")


def test_the_chosen_line_typed_again_is_the_same_run(tmp_path, capsys):
    options = ["problem=diabetes", "budget=2e8", "figures=false"]
    _run(compose(config_name="config", overrides=options), tmp_path / "first")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("chosen")]
    again = ["problem=diabetes", "figures=false", *line.split()[1:]]
    _run(compose(config_name="config", overrides=again), tmp_path / "second")
    assert _arrays(tmp_path / "second") == _arrays(tmp_path / "first")


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    _run(_compose("model.replicas=null", "steps=300"), tmp_path)
    before = _arrays(tmp_path), (tmp_path / "metrics.jsonl").read_text()
    _run(_compose("model.replicas=null", "steps=300"), tmp_path, resume=True)
    assert (_arrays(tmp_path), (tmp_path / "metrics.jsonl").read_text()) == before


@pytest.mark.parametrize("kind", ["no folder", "no checkpoint", "garbage", "empty", "another's", "a list"])
def test_a_bad_checkpoint_is_one_line(kind, tmp_path):
    folder = tmp_path / ("nowhere" if kind == "no folder" else "")
    if kind in ("garbage", "empty"):
        (folder / "checkpoint.pt").write_bytes(b"" if kind == "empty" else b"not a checkpoint at all")
    elif kind == "another's":
        write_checkpoint(folder, {"model": torch.zeros(2)})
    elif kind == "a list":
        torch.save([1, 2], folder / "checkpoint.pt")
    with pytest.raises(ValueError, match="resume=") as error:
        read_checkpoint(folder)
    assert "\n" not in str(error.value)
