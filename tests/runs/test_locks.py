"""locks: one writer, told by name; looking disturbs nobody; and it works where there is no fcntl, as on Windows."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from lntrain.runs.locks import Locked, holder, lock

ELSEWHERE = """
import sys, warnings
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
import signal
for name in ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM"):
    if hasattr(signal, name):
        delattr(signal, name)
import os
del os.fork
def no_links(*_):
    raise OSError("a file system without links")
os.link = no_links
warnings.simplefilter("ignore")  # filelock says that its locks are softer there
from lntrain.cli import main
main()
"""
SMALL = ("problem.n=12", "problem.d=8", "problem.k=2", "steps=40", "model.replicas=null", "figures=false")


def test_looking_disturbs_nobody(tmp_path):
    """While others look all the time, a writer gets the folder each time that it asks."""
    stop = threading.Event()

    def look():
        while not stop.wait(0.001):  # a machine that is busy must not make a crowd of three
            holder(tmp_path)

    with lock(tmp_path):
        pass
    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(50):
            with lock(tmp_path):
                assert holder(tmp_path) is not None
    finally:
        stop.set()
        for looker in lookers:
            looker.join()
    assert holder(tmp_path) is None


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    with lock(tmp_path), pytest.raises(Locked, match="in use by process"), lock(tmp_path):
        pass


def _elsewhere(folder, *arguments):
    command = [sys.executable, "-c", ELSEWHERE, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_run_a_resume_and_a_sweep_where_unix_ends(tmp_path):
    done = _elsewhere(tmp_path, *SMALL, "run_dir=a")
    assert done.returncode == 0, done.stderr
    done = _elsewhere(tmp_path, "resume=a", "steps=60")
    assert done.returncode == 0, done.stderr
    done = _elsewhere(tmp_path, "-m", *SMALL, "seed=0,1", "sweep.name=s", "hydra/launcher=basic")
    assert done.returncode == 0, done.stderr
    assert "done      2 of 2 jobs" in done.stdout
    assert _elsewhere(tmp_path, *SMALL, "run_dir=a").returncode == 2
    assert _elsewhere(tmp_path, *SMALL, "run_dir=a", "overwrite=true").returncode == 0
    assert (tmp_path / "a.1" / "result.npz").is_file()
