"""faults: a real process, interrupted or killed at random moments, resumes bit for bit, however fast the machine is."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch

STEPS = {"torch": 12_000, "fused": 4_000_000}  # a second or two of each engine
# a life that is to be cut short waits, at a share of its steps, for the signal: the machine may be as fast as it likes
HELD = """
import sys, time
from lntrain.runs import session
share, watch = float(sys.argv.pop()), session.watch

def held(snapshots, *, steps, came, **options):
    def waiting():
        for snapshot in snapshots:
            while snapshot.step > share * steps and not came.asked:
                time.sleep(0.01)
            yield snapshot
    return watch(waiting(), steps=steps, came=came, **options)

session.watch = held
from lntrain.cli import main; main()
"""
RUN = [
    "problem.n=12",
    "problem.d=8",
    "problem.k=2",
    "model.replicas=null",
    "optimizer.lr=0.002",
    "penalty.alpha_ratio=0.2",
    "batch_size=4",
    "checkpoint_every=0",
]
SHARES = (0.3, 0.36, 0.45, 0.55, 0.65)  # of the steps, at which lives wait: between any two there is a snapshot
PATIENCE = 600  # seconds until a process that does not answer fails the test


@contextmanager
def _life(folder, *arguments, share=1.0):
    command = [sys.executable, "-c", HELD, *arguments, str(share)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _lives_to_its_end(folder, *arguments):
    with _life(folder, *arguments) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")


def _stamp(path):
    return path.stat().st_mtime_ns if path.exists() else None


def _wait_for(path, process, before=None):
    """Until there is another checkpoint than that of `before` (or the process is gone)."""
    deadline = time.monotonic() + PATIENCE
    while _stamp(path) == before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _arrays(folder):
    with np.load(folder / "result.npz") as result:
        return {name: result[name].tobytes() for name in result.files}


def _steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=["fused", pytest.param("torch", marks=pytest.mark.slow)])
def run(request):
    """The command's arguments."""
    return [*RUN, f"engine={request.param}", f"steps={STEPS[request.param]}", "run_dir=run"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, run):
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    _lives_to_its_end(folder, *run)
    return folder / "run"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_with_its_code_and_a_checkpoint_and_resume_finishes(number, code, tmp_path, run, whole):
    with _life(tmp_path, *run, share=0.5) as process:
        _wait_for(tmp_path / "run" / "checkpoint.pt", process)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert err.strip() == f"lntrain: stopped; go on with: lntrain resume={tmp_path / 'run'}"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert 0 < torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]["step"] < _steps(whole)[-1]
    _lives_to_its_end(tmp_path, "resume=run")
    assert _arrays(tmp_path / "run") == _arrays(whole)
    assert _steps(tmp_path / "run") == _steps(whole)


def test_killed_at_five_random_moments_and_resumed_it_ends_bit_equal(tmp_path, run, whole):
    rng, folder = random.Random(0), tmp_path / "run"
    for share in SHARES:
        before = _stamp(folder / "checkpoint.pt")
        with _life(tmp_path, *(run if before is None else ["resume=run"]), share=share) as process:
            _wait_for(folder / "checkpoint.pt", process, before)  # this life must have got somewhere before it ends
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
            _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL, err
        torch.load(folder / "checkpoint.pt", weights_only=True)  # never half a file
    _lives_to_its_end(tmp_path, "resume=run")
    assert _arrays(folder) == _arrays(whole)
    assert _steps(folder) == _steps(whole)
    assert json.loads((folder / "summary.json").read_text())["status"] == "done"
