"""session: every task is stopped, resumed, drawn and measured alike, and none writes to its configuration."""

from __future__ import annotations

import json
import signal
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lntrain import cli
from lntrain.runs import build, session
from lntrain.runs.files import read_checkpoint, write_checkpoint
from lntrain.runs.history import Curves, Memory
from lntrain.runs.watch import Interruption
from lntrain.sweeps.jobs import sparing
from lntrain.training.divergence import DivergenceError

SMALL = ["problem.n=12", "problem.d=8", "problem.k=2", "optimizer.lr=0.002", "steps=64"]
STUDY = ["steps=64", "study.replicas=1", "study.anneal=0", "batch_size=4", "optimizer.lr=0.01"]
TASKS = {
    "train": [*SMALL, "penalty.alpha_ratio=0.2", "model.replicas=2"],
    "figure1": ["experiment=figure1", *SMALL, "model.replicas=2", "figure1.stds=[0.4]"],
    "path": ["experiment=path", *SMALL, "path.points=3"],
    "digits": ["experiment=digits", "data.test=0.95", "network.widths=[6]", "classification.trace_draws=2", *STUDY],
    "selectivity": ["experiment=selectivity", "selectivity.n=20", "selectivity.d=12", "selectivity.useful=3", *STUDY],
    "matrix_sensing": ["experiment=matrix_sensing", "matrix_sensing.d=4", "matrix_sensing.rank=1", *STUDY],
}
TASKS["matrix_sensing"].append("matrix_sensing.measurements=[5]")


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    cli._register()
    with initialize_config_module("lntrain.conf", version_base="1.3"):
        yield


def _compose(name, *overrides):
    """Read-only: nothing may write to it."""
    cfg = compose(config_name="config", overrides=[*TASKS[name], *overrides])
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _run(cfg, folder, **options):
    folder.mkdir(exist_ok=True)
    return cli.task_of(cfg)(cfg, folder, **options)


def _arrays(folder):
    with np.load(folder / "result.npz") as result:
        return {name: result[name].tobytes() for name in result.files}


def _watching(seen, *, stop=None):
    """A `watch` that keeps the steps of scheduled snapshots in `seen`, and asks for a stop at one of them."""
    real = session.watch

    def watching(snapshots, *, came, **options):
        for snapshot in real(snapshots, came=came, **options):
            if snapshot.scheduled:
                seen.append(snapshot.step)
                if len(seen) == stop:
                    came.asked.append(15)
            yield snapshot

    return watching


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_honours_figures_and_points_and_leaves_its_configuration(name, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(session, "watch", _watching(seen))
    _run(_compose(name, "figures=false", "points_per_octave=1"), tmp_path)
    assert set(seen) == {2, 4, 8, 16, 32, 64} | ({1} if name != "path" else set())  # whose noise comes in pairs
    assert not (tmp_path / "figures").exists()
    assert not EventAccumulator(str(tmp_path)).Reload().Tags()["images"]
    if name != "path":  # which is measured at its end alone
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert {line["step"] for line in lines} == set(seen)


@pytest.mark.parametrize("name", ["figure1", "path"])
def test_a_stop_is_told_and_the_seconds_before_it_count(name, tmp_path, monkeypatch):
    cfg = _compose(name, "figures=false")
    _run(cfg, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(session, "watch", _watching([], stop=8))
        with pytest.raises(Interruption):
            _run(cfg, tmp_path / "cut")
    summary = json.loads((tmp_path / "cut" / "summary.json").read_text())
    assert (summary["status"], summary["seed"]) == ("interrupted", 0)
    checkpoint = read_checkpoint(tmp_path / "cut")
    checkpoint["history"]["seconds"] += 1000
    write_checkpoint(tmp_path / "cut", checkpoint)
    resumed = _run(OmegaConf.create(checkpoint["config"]), tmp_path / "cut", resume=True)
    assert 1000 < resumed["seconds"] < 2000
    assert _arrays(tmp_path / "cut") == _arrays(tmp_path / "whole")


@pytest.mark.parametrize("name", ["figure1", "path"])
def test_the_lr_schedule_counts(name, tmp_path, capsys):
    for choice in ("constant", "cosine"):
        schedule = [f"lr_schedule={choice}", *(["lr_schedule.steps=64"] if choice == "cosine" else [])]
        _run(_compose(name, "figures=false", *schedule), tmp_path / choice)
    assert _arrays(tmp_path / "constant") != _arrays(tmp_path / "cosine")
    assert name != "path" or "lr_schedule changes the penalty over time" in capsys.readouterr().out


def test_what_auto_chose_is_frozen_and_the_configuration_keeps_auto():
    cfg = _compose("train", "optimizer.lr=auto", "steps=auto", "model.replicas=auto", "average=auto")
    spec = build.build(cfg)
    assert cfg.steps == cfg.optimizer.lr == "auto"
    values = spec.settled.values()
    assert len(values) == len(fields(spec.settled))
    assert "auto" not in values.values()
    again = build.build(OmegaConf.create(spec.settled.yaml(cfg)))
    assert again.settled == spec.settled
    for frozen, key in ((spec, "plan"), (spec.settled, "steps")):
        with pytest.raises(FrozenInstanceError):
            setattr(frozen, key, None)


def test_a_multirun_keeps_the_points_that_a_network_experiment_asks_for():
    assert sparing(_compose("train")).points_per_octave == 1
    assert sparing(_compose("digits")).points_per_octave is None
    assert sparing(_compose("digits")).figures is False


class _At:
    """A snapshot without a training."""

    scheduled = True

    def __init__(self, step):
        self.step = step

    def state_dict(self):
        return {"step": self.step, "at": torch.tensor(self.step)}


@pytest.mark.parametrize("error", [DivergenceError("gone"), ZeroDivisionError("unforeseen")])
def test_an_error_keeps_the_rows_and_a_divergence_the_last_good_state(error, tmp_path):
    def training(state):
        yield from map(_At, (1, 2))
        raise error

    curves = Curves({})
    with pytest.raises(type(error)), session.Session(_compose("train"), tmp_path).begin("", curves, layout={}) as own:
        own.train(training, 4, lambda at: curves.add("a", at.step, {"loss": [1.0]}))
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert (tmp_path / "checkpoint.pt").exists() == isinstance(error, DivergenceError)
    if isinstance(error, DivergenceError):
        assert read_checkpoint(tmp_path)["state"]["step"] == 2


def test_a_stop_at_the_end_of_one_training_stops_before_the_next_is_done(tmp_path):
    """The signal came when the first had nothing left to do: it is not forgotten."""
    curves, asked = Curves({}), []

    def take(name, at):
        curves.add(name, at.step, {"loss": [1.0]})
        if (name, at.step) == ("a", 2):
            signal.raise_signal(signal.SIGTERM)
        asked.append((name, at.step))

    with pytest.raises(Interruption), session.Session(_compose("train"), tmp_path).begin("", curves, layout={}) as own:
        own.train_each(dict.fromkeys("ab", lambda state: map(_At, (1, 2))), curves, 2, take)
    assert asked == [("a", 1), ("a", 2), ("b", 1)]
    rows = read_checkpoint(tmp_path)["history"]["rows"]
    assert (rows["a"]["done"], rows["b"]["done"]) == (True, False)


def test_no_memory_writes_no_metrics(tmp_path):
    with session.Session(_compose("train"), tmp_path).begin("text", Memory(), layout={}) as own:
        own.train(lambda state: map(_At, (1, 2)), 2)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert set(read_checkpoint(tmp_path)) == {"config", "state", "history", "events"}


@pytest.mark.parametrize(("cost", "saves"), [(0.01, 9), (1.0, 1)])
def test_checkpoints_take_a_hundredth_of_a_run(cost, saves, monkeypatch, tmp_path):
    """Where a checkpoint takes a second, one in a hundred seconds is enough: by a clock of our own."""
    from types import SimpleNamespace

    from lntrain.runs import watch

    now, saved = [0.0], []
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])

    def stepped():
        for step in range(1, 101):
            now[0] += 1.0
            yield SimpleNamespace(step=step)

    def save(at):
        now[0] += cost
        saved.append(at.step)

    options = {"steps": 100, "start": 0, "every": 10.0, "save": save, "came": watch.Signals(), "folder": tmp_path}
    for _ in watch.watch(stepped(), **options):
        pass
    assert len(saved) == saves
