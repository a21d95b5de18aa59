"""watch, cluster: a scheduler's signals wait for the checkpoint, its launcher for every job. Without a cluster."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobStatus

from lntrain.runs.watch import Interruption, signals, watch
from lntrain.sweeps import launchers as cluster


@dataclass(frozen=True)
class At:
    step: int


def _steps(sent):
    """Steps 1 to 10; `sent` says which signals this process gets before which."""
    for step in range(1, 11):
        if step in sent:
            os.kill(os.getpid(), sent[step])
        yield At(step)


def _run(sent, events, folder):
    with signals() as came:
        options = {"start": 0, "every": 1e9, "came": came, "folder": folder}
        for _ in watch(_steps(sent), steps=10, save=lambda at: events.append(f"saved {at.step}"), **options):
            pass
    events.append("end")


@pytest.fixture
def submitit(monkeypatch):
    """submitit's handlers: SIGTERM is taken no notice of, SIGUSR2 queues the job again and exits."""
    events: list[str] = []

    def requeue(*_):
        events.append("queued again")
        raise SystemExit(-1)

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: events.append("no notice")),
        signal.SIGUSR2: signal.signal(signal.SIGUSR2, requeue),
    }
    yield events
    for number, handler in before.items():
        signal.signal(number, handler)


def test_submitit_acts_after_the_checkpoint(submitit, tmp_path):
    with pytest.raises(SystemExit):
        _run({3: signal.SIGTERM, 5: signal.SIGTERM, 8: signal.SIGUSR2}, submitit, tmp_path)
    assert submitit == ["saved 3", "no notice", "saved 5", "no notice", "saved 8", "queued again"]
    os.kill(os.getpid(), signal.SIGTERM)
    assert submitit[-1] == "no notice", "its own handler is back"


def test_ctrl_c_stops_a_job_of_submitit_too(submitit, tmp_path):
    with pytest.raises(Interruption):
        _run({4: signal.SIGINT}, submitit, tmp_path)
    assert submitit == ["saved 4"]


def test_without_a_scheduler_sigterm_stops(tmp_path, monkeypatch):
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    events: list[str] = []
    with pytest.raises(Interruption, match="resume="):
        _run({4: signal.SIGTERM}, events, tmp_path)
    assert events == ["saved 4"]


class _Launcher:
    __module__ = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"


def _job(monkeypatch, outcomes, states):
    """A submitit job whose results have these outcomes; Slurm's queue gives `states`, one each time one is missing."""
    core = pytest.importorskip("submitit.core.core")
    outcomes, states = iter(outcomes), iter(states)

    def results(self):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return [outcome]

    monkeypatch.setattr(core.Job, "results", results)
    monkeypatch.setattr(cluster, "LOOK_AGAIN", 0.0)
    monkeypatch.setattr(cluster.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=next(states)))
    return lambda: core.Job.results(SimpleNamespace(job_id="7_1"))


def test_a_lost_job_is_a_failed_one_and_no_exception(monkeypatch):
    lost = RuntimeError("no output")
    ask = _job(monkeypatch, [lost], [""])
    with cluster.patience(_Launcher()):
        (answer,) = ask()
    assert answer.status == JobStatus.FAILED
    with pytest.raises(RuntimeError, match="no output"):
        _ = answer.return_value


def test_a_job_that_is_queued_again_is_waited_for(monkeypatch):
    lost = RuntimeError("NODE_FAIL")
    ask = _job(monkeypatch, [lost, lost, "done"], ["PENDING\n", "RUNNING\n"])
    with cluster.patience(_Launcher()):
        assert ask() == ["done"]


def test_patience_ends(monkeypatch):
    ask = _job(monkeypatch, [RuntimeError("lost")], [""])
    with cluster.patience(_Launcher()):
        pass
    with pytest.raises(RuntimeError, match="lost"):
        ask()
