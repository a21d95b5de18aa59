"""sweep: a multirun goes on after any death, no folder has two writers, and one job's end is not another's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from hydra.core.global_hydra import GlobalHydra

from lntrain import cli
from lntrain.runs import folders, locks
from lntrain.sweeps import jobs as sweep_jobs
from lntrain.sweeps import sweeper as sweep
from lntrain.sweeps import table

SMALL = ["problem.n=12", "problem.d=8", "problem.k=2", "model.replicas=null", "penalty.alpha_ratio=0.2"]
SIX = ["optimizer.lr=0.002,0.003", "seed=0,1,2", *SMALL, "steps=300"]
BASIC = "hydra/launcher=basic"
LONG = "40000000"  # steps
PATIENCE = 900  # seconds until a process that does not answer fails the test


@pytest.fixture
def lntrain(lntrain):
    """The command as a multirun, its jobs one after the other in this process."""
    return partial(lntrain, "-m", BASIC)


def _times(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def _jobs(tmp_path, name):
    return tmp_path / "outputs" / "sweeps" / name


def _csv(folder):
    return table.as_csv(table.collect(folder))


# names


def test_the_folder_follows_from_the_overrides_in_any_order(lntrain, tmp_path):
    assert lntrain(*SIX)[0] == 0
    code, out, _ = lntrain(*reversed(SIX), "checkpoint_every=3", "sweep.changed=keep")
    assert code == 0
    assert "skipped   6 jobs" in out
    assert len(list(_jobs(tmp_path, "").iterdir())) == 1
    lntrain(*SIX, "target_distance=0.02")
    assert len(list(_jobs(tmp_path, "").iterdir())) == 2


def test_a_job_is_named_by_what_was_swept(lntrain, tmp_path):
    assert lntrain(*SIX, "sweep.name=mine")[0] == 0
    names = {path.parent.name for path in _jobs(tmp_path, "mine").glob("*/summary.json")}
    assert names == {f"lr={lr},seed={seed}" for lr in ("0.002", "0.003") for seed in (0, 1, 2)}


def test_names_differ_where_overrides_do():
    values = ["[1,2]", "[1,3]", "a/b", "a_b", "a b", "x" * 300, "x" * 301]
    names = [sweep_jobs.job_name({"model.init": value}) for value in values]
    assert len(set(names)) == len(values)
    assert all("/" not in name and len(name) <= 140 for name in names)


# again


def test_the_same_command_again_touches_nothing(lntrain, tmp_path):
    lntrain(*SIX, "sweep.name=a")
    before = {f: t for f, t in _times(_jobs(tmp_path, "a")).items() if f.parent != _jobs(tmp_path, "a")}
    code, out, err = lntrain(*SIX, "sweep.name=a")
    assert (code, err) == (0, "")
    assert "skipped   6 jobs are finished" in out
    assert {f: t for f, t in _times(_jobs(tmp_path, "a")).items() if f.parent != _jobs(tmp_path, "a")} == before


def test_more_seeds_in_a_named_sweep_run_alone(lntrain, tmp_path):
    lntrain("seed=0,1", *SMALL, "steps=300", "sweep.name=a")
    before = _times(_jobs(tmp_path, "a") / "seed=0")
    code, out, _ = lntrain("seed=0,1,2,3", *SMALL, "steps=300", "sweep.name=a")
    assert code == 0
    assert "skipped   2" in out
    assert _times(_jobs(tmp_path, "a") / "seed=0") == before
    assert len(table.collect(_jobs(tmp_path, "a")).rows) == 4


@pytest.mark.parametrize("what", ["config", "code"])
def test_another_configuration_or_code_is_never_mixed_in_silently(what, lntrain, tmp_path, monkeypatch):
    lntrain("seed=0,1", *SMALL, "steps=300", "sweep.name=a")
    before = _times(_jobs(tmp_path, "a") / "seed=0")
    other = ["seed=0,1", *SMALL, "steps=400" if what == "config" else "steps=300", "sweep.name=a"]
    if what == "code":
        monkeypatch.setattr(folders, "code_hash", lambda: "another")
    code, out, err = lntrain(*other)
    assert code == 2
    assert f"changed   seed=1: made by another {what}" in out
    assert len(err.strip().splitlines()) == 1
    assert "sweep.changed=rerun" in err
    assert lntrain(*other, "sweep.changed=keep")[0] == 0
    assert _times(_jobs(tmp_path, "a") / "seed=0") == before
    assert lntrain(*other, "sweep.changed=rerun")[0] == 0
    assert _times(_jobs(tmp_path, "a") / "seed=0") != before
    assert lntrain(*other)[0] == 0


def test_a_changed_data_file_is_another_configuration(lntrain, tmp_path):
    (tmp_path / "d.csv").write_text("a,b,y\n1,2,3\n2,1,5\n4,4,4\n")
    data = [
        "problem=file",
        "problem.path=d.csv",
        "problem.target=y",
        "model.replicas=null",
        "steps=200",
        "optimizer.lr=0.002",
    ]
    assert lntrain(*data, "seed=0,1", "sweep.name=a")[0] == 0
    (tmp_path / "d.csv").write_text("a,b,y\n1,2,3\n2,1,5\n4,4,5\n")
    code, out, _ = lntrain(*data, "seed=0,1", "sweep.name=a")
    assert code == 2
    assert "made by another config" in out


def test_an_unknown_choice_is_a_mistake(lntrain):
    code, _, err = lntrain(*SIX, "sweep.changed=perhaps")
    assert code == 2
    assert "sweep.changed='perhaps'" in err


# failures


def test_a_diverging_job_and_one_with_bad_data_do_not_stop_the_others(lntrain, tmp_path):
    """Show 3: exit code 1, both named with their reason; mended, the next command runs those two alone."""
    good = "a,b,y\n1,2,3\n2,1,5\n4,4,4\n5,1,2\n"
    for name, text in (("good", good), ("bad", good + "1,red,2\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    command = [
        "problem=file",
        "problem.path=good.csv,bad.csv",
        "problem.target=y",
        "optimizer.lr=0.002,50",
        "steps=2000",
        "model.replicas=null",
        "sweep.name=a",
    ]
    code, out, err = lntrain(*command)
    assert code == 1
    assert "Traceback" not in err
    status = {path.parent.name: json.loads(path.read_text()) for path in _jobs(tmp_path, "a").glob("*/summary.json")}
    assert {name: s["status"] for name, s in status.items()} == {
        "lr=0.002,path=good.csv": "done",
        "lr=50,path=good.csv": "diverged",
        "lr=0.002,path=bad.csv": "failed",
        "lr=50,path=bad.csv": "failed",
    }
    assert len(err.strip().splitlines()) == 3
    assert "lntrain: lr=50,path=good.csv: diverged: diverged by step" in err
    assert "'red'" in err
    assert "1 of 4 jobs" in out
    before = _times(_jobs(tmp_path, "a") / "lr=0.002,path=good.csv")
    (tmp_path / "bad.csv").write_text(good)
    code, out, _ = lntrain(*command)
    assert code == 1
    assert out.count("again     ") == 3
    assert _times(_jobs(tmp_path, "a") / "lr=0.002,path=good.csv") == before
    assert json.loads((_jobs(tmp_path, "a") / "lr=0.002,path=bad.csv" / "summary.json").read_text())["status"] == "done"


def test_a_mistake_in_an_axis_shows_before_anything_runs(lntrain, tmp_path):
    code, _, err = lntrain(*SMALL, "problem=sparse,sprase", "seed=0,1")
    assert code == 2
    assert "sprase" in err
    assert not (tmp_path / "outputs").exists()


# locks


def test_a_swept_experiment_takes_its_own_keys_and_no_others(lntrain, tmp_path):
    sweep = ["experiment=reparametrise,momentum_path", "hydra/launcher=basic", "figures=false"]
    code, _, err = lntrain(*sweep, "study.replicas=2")
    assert code == 2
    assert "experiment=gallery does not read study.replicas" in err
    assert not list(tmp_path.iterdir())
    code, out, err = lntrain(*sweep, "gallery.size=quick")
    assert (code, err) == (0, "")
    assert "done      2 of 2 jobs" in out


def test_a_held_folder_is_refused_and_a_dead_holder_is_none(tmp_path):
    code = f"""
from lntrain.runs import locks; import pathlib, time
with locks.lock(pathlib.Path({str(tmp_path)!r})):
    print('held', flush=True); time.sleep(600)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert f"process {other.pid} on " in locks.holder(tmp_path)
        with pytest.raises(locks.Locked, match=f"process {other.pid}"), locks.lock(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert locks.holder(tmp_path) is None
    with locks.lock(tmp_path):
        pass


def test_a_run_into_a_held_folder_is_a_mistake(tmp_path, monkeypatch, capfd):
    with locks.lock(tmp_path / "here"):
        monkeypatch.setattr(sys, "argv", ["lntrain", *SMALL, "steps=20", f"run_dir={tmp_path / 'here'}"])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 2
    assert f"in use by process {os.getpid()}" in capfd.readouterr().err
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [".lock", ".owner"]


def test_fresh_takes_away_our_files_alone(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    folders.begin(tmp_path, {"config": "a", "code": "b"}, fresh=True)
    (tmp_path / "checkpoint.pt").write_text("")
    (tmp_path / "my notes").write_text("")
    folders.begin(tmp_path, {"config": "a", "code": "b"}, fresh=True)
    assert {path.name for path in tmp_path.iterdir()} == {"job.json", "my notes"}


STATES = {
    "nothing": ({}, "new"),
    "done": ({"summary": "done"}, "finished"),
    "done by other code": ({"summary": "done", "code": "x"}, "changed"),
    "killed early": ({"summary": None}, "failed"),
    "killed late": ({"summary": None, "checkpoint": True}, "interrupted"),
    "interrupted": ({"summary": "interrupted", "checkpoint": True}, "interrupted"),
    "interrupted, other config": ({"summary": "interrupted", "checkpoint": True, "config": "x"}, "changed"),
    "failed": ({"summary": "failed", "checkpoint": True}, "failed"),
    "diverged": ({"summary": "diverged", "checkpoint": True}, "failed"),
    "failed by other code": ({"summary": "failed", "code": "x"}, "failed"),
}


@pytest.mark.parametrize(("given", "state"), list(STATES.values()), ids=list(STATES))
def test_where_a_job_stands(given, state, tmp_path):
    if given:
        record = {"config": given.get("config", "a"), "code": given.get("code", "b")}
        (tmp_path / "job.json").write_text(json.dumps(record))
    if given.get("summary"):
        (tmp_path / "summary.json").write_text(json.dumps({"status": given["summary"]}))
    if given.get("checkpoint"):
        (tmp_path / "checkpoint.pt").write_text("")
    own = {"config": "a", "code": "b"}
    assert folders.state(tmp_path, own) == state
    if state == "changed":
        assert folders.state(tmp_path, own, changed="rerun") == "new"
        assert folders.state(tmp_path, own, changed="keep") in ("finished", "interrupted")


# deaths


class Breaking:
    """A launcher whose workers die: `deaths` times in its first launches, and always in the job `cursed`."""

    def __init__(self, folder, cursed=None):
        self.folder, self.cursed, self.launches = folder, cursed, []

    def launch(self, job_overrides, initial_job_idx):
        names = [overrides[-1].split("'")[1] for overrides in job_overrides]
        self.launches.append(names)
        for i, name in enumerate(names):
            (self.folder / name).mkdir(exist_ok=True)
            folders.begin(self.folder / name, {"config": "a", "code": "b"}, fresh=True)
            if name == self.cursed or (len(self.launches) == 1 and i == 2):
                folders.begin(self.folder / names[max(i - 1, 0)], {"config": "a", "code": "b"}, fresh=True)
                raise sweep.BrokenExecutor
            (self.folder / name / "summary.json").write_text('{"status": "done"}')


@pytest.mark.parametrize("cursed", [None, "j3"])
def test_a_dead_worker_costs_its_own_job_alone(cursed, tmp_path, capsys):
    jobs = [sweep_jobs.Job(f"j{i}", tmp_path / f"j{i}", [f"hydra.sweep.subdir='j{i}'"], {}) for i in range(6)]
    sweeper = sweep.ResumableSweeper()
    sweeper.starter = Breaking(tmp_path, cursed)
    sweeper._launch(jobs)
    status = {job.name: job.status() for job in jobs}
    assert status == {**dict.fromkeys((f"j{i}" for i in range(6)), "done"), **({cursed: "killed"} if cursed else {})}
    assert all(names in (["j1"], ["j2"], ["j3"]) for names in sweeper.starter.launches[-2:])
    assert "its process died" in capsys.readouterr().out


# the whole


def _start(tmp_path, log, *arguments):
    command = [sys.executable, "-c", "from lntrain.cli import main; main()", "-m", *arguments]
    with (tmp_path / log).open("w") as out:
        return subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT)


def _running(folder):
    """pid of each job that is under way and has a checkpoint."""
    found = {}
    for path in folder.glob("*/job.json"):
        if (path.parent / "checkpoint.pt").is_file() and locks.holder(path.parent) is not None:
            found[path.parent.name] = json.loads(path.read_text())["pid"]
    return found


@pytest.mark.slow
def test_killed_in_the_middle_a_sweep_ends_as_if_it_had_not_been(tmp_path):
    """Show 2, at small size: driver and both workers SIGKILLed; done jobs untouched, the table equal bit for bit."""
    jobs = [  # three short ones, then three that last for seconds: there is a middle to be killed in
        f"steps=100000,{LONG}",
        "seed=0,1,2",
        *SMALL,
        "optimizer.lr=0.002",
        "checkpoint_every=0",
        "hydra.launcher.n_jobs=2",
    ]
    whole = _start(tmp_path, "whole.log", *jobs, "sweep.name=whole")
    assert whole.wait(PATIENCE) == 0, (tmp_path / "whole.log").read_text()
    first, folder = _start(tmp_path, "first.log", *jobs, "sweep.name=cut"), _jobs(tmp_path, "cut")
    until, victims = time.monotonic() + PATIENCE, {}
    try:
        while len(victims) < 2:
            assert time.monotonic() < until
            assert first.poll() is None
            for name, pid in _running(folder).items():
                if LONG in name and name not in victims:
                    os.kill(pid, signal.SIGSTOP)  # it is still there when the other has come as far
                    victims[name] = pid
            time.sleep(0.005)
    finally:
        first.kill()
        for pid in victims.values():
            os.kill(pid, signal.SIGKILL)
    first.wait()
    finished = {path.parent for path in folder.glob("*/summary.json")}
    before = {job: _times(job) for job in finished}
    assert 0 < len(finished) < 6
    again = _start(tmp_path, "again.log", *jobs, "sweep.name=cut")
    again.wait(PATIENCE)
    out = (tmp_path / "again.log").read_text()
    assert again.returncode == 0, out
    assert f"skipped   {len(finished)} jobs" in out
    assert any(f"resumed   {name}" in out for name in victims), out
    assert {job: _times(job) for job in finished} == before
    assert _csv(folder) == _csv(_jobs(tmp_path, "whole"))
    assert table.collect(folder).rows[-1].status == "done"


def test_a_second_owner_takes_no_file_of_a_job_at_work(lntrain, tmp_path):
    """What another owner is about to rename in its job's folder stays; what a killed sweep left is cleared."""
    assert lntrain(*SMALL, "seed=0,1", "sweep.name=s", "steps=20")[0] == 0
    folder = tmp_path / "outputs" / "sweeps" / "s"
    at_work, left = folder / "seed=1" / ".job.json.999.tmp", folder / ".sweep.json.999.tmp"
    at_work.touch()
    left.touch()
    assert lntrain(*SMALL, "seed=0,1", "sweep.name=s", "steps=20")[0] == 0
    assert at_work.exists()
    assert not left.exists()
