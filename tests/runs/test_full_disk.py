"""A disk that is full, or a folder that is gone, at any write: one line, and what was saved stands and goes on."""

from __future__ import annotations

import errno
import itertools
import json
import shutil

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lntrain.runs import files, session
from lntrain.runs.files import has_checkpoint, read_checkpoint

SMALL = ("problem.n=12", "problem.d=8", "problem.k=2", "optimizer.lr=0.002", "steps=4", "model.replicas=null")
OFTEN = ("checkpoint_every=0", "points_per_octave=1", "figures=false")
TASKS = {
    "train": (*SMALL, *OFTEN),
    "figure1": ("experiment=figure1", *SMALL[:-1], "model.replicas=2", "figure1.stds=[0.4]", *OFTEN),
    "selectivity": (
        "experiment=selectivity",
        "selectivity.n=20",
        "selectivity.d=12",
        "selectivity.useful=3",
        "steps=4",
        "study.replicas=1",
        "study.anneal=0",
        *OFTEN,
    ),
}


class Disk:
    """Counts the writes; that of `number` is cut in half and fails, as do all after it until `number` is None."""

    def __init__(self, monkeypatch):
        self.count, self.number, put = 0, None, files._put

        def broken(path, content, **options):
            self.count += 1
            if self.number is not None and self.count >= self.number:
                put(path, content[: len(content) // 2], **options)
                raise OSError(errno.ENOSPC, "No space left on device")
            return put(path, content, **options)

        monkeypatch.setattr(files, "_put", broken)

    def full_from(self, number):
        self.count, self.number = 0, number


def results(folder):
    """What a run leaves, but for its seconds."""
    with np.load(folder / "result.npz") as found:
        arrays = {name: found[name].tobytes() for name in found.files}
    return arrays, (folder / "metrics.jsonl").read_text(), points(folder)


def points(folder):
    """tag -> (step, value) of TensorBoard's scalars, in their order; times are not compared."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {
        tag: [(e.step, e.value) for e in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if not tag.startswith("result/")
    }


LONG = ("figure1", "selectivity")  # of many writes


@pytest.mark.parametrize("task", [pytest.param(t, marks=[pytest.mark.slow] * (t in LONG)) for t in TASKS])
def test_a_write_that_fails_leaves_what_was_saved(task, lntrain, tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    assert lntrain(*TASKS[task], "run_dir=whole")[0] == 0
    seen = set()
    for number in itertools.count(1):  # how many there are hangs on the clock: events wait a few seconds at most
        folder = tmp_path / f"run{number}"
        disk.full_from(number)
        code, _, err = lntrain(*TASKS[task], f"run_dir={folder.name}")
        if code == 0:
            break
        assert len(err.splitlines()) == 1, err
        assert "No space left on device" in err
        disk.full_from(None)
        if code == 2:  # nothing had begun
            assert not folder.exists()
            continue
        assert code == 1
        seen.add(has_checkpoint(folder))
        assert not list(folder.glob(".*.tmp"))
        if has_checkpoint(folder):
            assert f"lntrain resume={folder}" in err
            read_checkpoint(folder)
            assert lntrain(f"resume={folder}")[:1] == (0,)
            assert results(folder) == results(tmp_path / "whole")
    assert number > 10
    assert seen == {False, True}


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 8])
def test_a_resume_into_a_full_disk_leaves_the_checkpoint(number, lntrain, tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    for name in ("whole", "a"):
        assert lntrain(*TASKS["train"], f"run_dir={name}")[0] == 0
    assert lntrain("resume=whole", "steps=32")[0] == 0
    kept = (tmp_path / "a" / "checkpoint.pt").read_bytes()
    disk.full_from(number)
    code, _, err = lntrain("resume=a", "steps=32")
    assert code in (1, 2)
    assert len(err.splitlines()) == 1
    assert kept in [(tmp_path / "a" / name).read_bytes() for name in files.CHECKPOINTS]
    disk.full_from(None)
    assert lntrain("resume=a", "steps=32")[0] == 0
    assert results(tmp_path / "a") == results(tmp_path / "whole")


def test_a_folder_that_is_removed_meanwhile_is_told_and_not_made_again(lntrain, tmp_path, monkeypatch):
    watch = session.watch

    def removing(snapshots, **options):
        for number, snapshot in enumerate(watch(snapshots, **options)):
            if number == 1:
                shutil.rmtree(tmp_path / "a")
            yield snapshot

    monkeypatch.setattr(session, "watch", removing)
    code, _, err = lntrain(*TASKS["train"], "run_dir=a")
    assert code == 1
    assert err.endswith(f"the run folder {tmp_path / 'a'} is gone\n")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "a").exists()


def test_a_figure_that_cannot_be_written_leaves_the_run(lntrain, tmp_path, monkeypatch):
    put = files._put

    def broken(path, content, **options):
        if path.suffix == ".tmp" and ".png" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(path, content, **options)

    monkeypatch.setattr(files, "_put", broken)
    code, _, err = lntrain(*SMALL, "run_dir=a")
    assert (code, len(err.splitlines())) == (1, 1)
    assert f".png: No space left on device; its checkpoint stands, go on with: lntrain resume={tmp_path / 'a'}" in err
    monkeypatch.setattr(files, "_put", put)
    assert lntrain("resume=a")[0] == 0
    assert list((tmp_path / "a" / "figures").glob("*.png"))


def test_a_full_disk_in_one_job_of_a_sweep_leaves_the_others(lntrain, tmp_path, monkeypatch):
    put = files._put

    def broken(path, content, **options):
        if "seed=1" in str(path) and "checkpoint" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(path, content, **options)

    monkeypatch.setattr(files, "_put", broken)
    command = ("-m", *SMALL, "seed=0,1,2", "sweep.name=s", "hydra/launcher=basic")
    code, out, err = lntrain(*command)
    folder = tmp_path / "outputs" / "sweeps" / "s"
    assert code == 1
    assert "done      2 of 3 jobs" in out
    assert "No space left on device" in err
    assert "Traceback" not in err + (folder / "seed=1" / "output.txt").read_text()
    monkeypatch.setattr(files, "_put", put)
    assert lntrain(*command)[0] == 0
    assert json.loads((folder / "seed=1" / "summary.json").read_text())["status"] == "done"


@pytest.mark.parametrize("name", [".checkpoint.pt.999.tmp", ".hydra/.config.yaml.999.tmp", "figures/.a.png.7.tmp"])
def test_what_a_killed_writer_left_is_cleared(name, lntrain, tmp_path):
    assert lntrain(*SMALL, "run_dir=a")[0] == 0
    path = tmp_path / "a" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("half")
    assert lntrain("resume=a", "steps=20")[0] == 0
    assert not path.exists()


def test_events_after_a_failed_write_can_be_read(tmp_path, monkeypatch):
    from lntrain.runs.dashboard import write_scalars
    from lntrain.runs.events import Writer

    disk, writer = Disk(monkeypatch), Writer(str(tmp_path))
    for step, full in zip(range(6), itertools.cycle((None, 1)), strict=False):
        write_scalars(writer, {"loss": float(step)}, step)
        disk.full_from(full)
        if full is None:
            writer.flush()
        else:
            with pytest.raises(OSError, match="No space"):
                writer.flush()
    disk.full_from(None)
    writer.close()
    assert points(tmp_path) == {"loss": [(step, float(step)) for step in range(6)]}


def test_a_lock_that_cannot_be_made_brings_the_old_run_back(lntrain, tmp_path, monkeypatch):
    assert lntrain(*SMALL, "run_dir=a")[0] == 0
    kept = (tmp_path / "a" / "result.npz").read_bytes()
    disk = Disk(monkeypatch)
    disk.full_from(2)  # the first is the lock by which the old run is held and moved
    code, _, err = lntrain(*SMALL, "run_dir=a", "overwrite=true")
    assert (code, len(err.splitlines())) == (2, 1)
    assert (tmp_path / "a" / "result.npz").read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
