"""A real Slurm and a real Ray of two nodes on this host: one process's table, whatever happens to a node."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from lntrain.sweeps import table

ROOT = Path(__file__).parents[2]
LNTRAIN = [sys.executable, "-c", "from lntrain.cli import main; main()", "-m"]
SMALL = ["problem.n=12", "problem.d=8", "problem.k=2", "model.replicas=null", "penalty.alpha_ratio=0.2", "engine=torch"]
SHORT = [*SMALL, "optimizer.lr=0.002,0.003", "seed=0,1", "steps=300"]
# half a minute: Slurm takes a pre-empted job's node away some fifteen seconds after its notice
LONG = [*SMALL, "optimizer.lr=0.002", "seed=0,1", "steps=100000", "checkpoint_every=0.2"]
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--net", "true"]

pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """scripts/NAME-local, brought up for this module, and how a sweep is sent to it."""

    name: str
    folder: Path
    overrides: list[str]
    prefix: list[str] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    begun: list[subprocess.Popen] = field(default_factory=list)

    @property
    def script(self):
        return str(ROOT / "scripts" / f"{self.name}-local")

    @property
    def env(self):
        return {**os.environ, "OMP_NUM_THREADS": "1", **self.extra}

    def do(self, *arguments):
        subprocess.run([self.script, *arguments], env=self.env, timeout=180, check=True, stdout=subprocess.DEVNULL)

    def ask(self, *command):
        return subprocess.run(command, env=self.env, timeout=30, check=True, capture_output=True, text=True).stdout

    def on(self, node):
        """Slurm's jobs there."""
        return self.ask("squeue", "--noheader", f"--nodelist={node}", "--format=%i").split()

    def begin(self, folder, sweep):
        """Start a sweep; it ends with the cluster at the latest."""
        command = [*self.prefix, *LNTRAIN, *self.overrides, *sweep, f"hydra.sweep.dir={folder}"]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.begun.append(subprocess.Popen(command, env=self.env, cwd=folder.parent, **options))
        return self.begun[-1]

    def nudge(self):
        """Slurm holds a job that is queued again for two minutes: not here."""
        if self.name == "slurm":
            for line in self.ask("squeue", "--noheader", "--states=PENDING", "--format=%i %r").splitlines():
                job, reason = line.split(maxsplit=1)
                if reason == "BeginTime":
                    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=self.env, check=False)

    def end(self, sweep, seconds=400):
        """Wait for a sweep: (exit code, what it printed)."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.nudge()
            try:
                printed, _ = sweep.communicate(timeout=2)
            except subprocess.TimeoutExpired:
                continue
            return sweep.returncode, printed
        sweep.kill()
        raise AssertionError(f"no end within {seconds} s:\n{sweep.communicate()[0]}")


def _need(*tools):
    missing = [tool for tool in tools if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin") is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: run .ci/packages as root")
    if subprocess.run(NAMESPACE, capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("namespaces may not be made here: run as root")


def _slurm(folder):
    _need("unshare", "slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sbatch", "srun")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="lntrain[slurm] is not installed")
    port = 20000 + os.getpid() % 1000 * 10
    extra = {"SLURM_LOCAL_DIR": str(folder), "SLURM_LOCAL_PORT": str(port), "SLURM_CONF": str(folder / "slurm.conf")}
    return Cluster("slurm", folder, ["hydra/launcher=slurm", "hydra.launcher.timeout_min=10"], extra=extra)


def _ray(folder):
    _need("unshare", "nsenter", "ip")
    if importlib.util.find_spec("ray") is None:
        pytest.skip("lntrain[ray] is not installed")
    overrides = ["hydra/launcher=ray", "hydra.launcher.ray.init.address=auto"]
    cluster = Cluster("ray", folder, overrides, extra={"RAY_LOCAL_DIR": str(folder)})
    cluster.prefix = [cluster.script, "run"]
    return cluster


@contextmanager
def _up(make):
    folder = Path(tempfile.mkdtemp(prefix="ln", dir="/tmp"))  # the path of a socket has at most 107 characters
    folder.chmod(0o755)
    try:
        cluster = make(folder / "c")
        cluster.do("start")
        try:
            yield cluster
        finally:
            for sweep in cluster.begun:
                with sweep:
                    sweep.kill()
            cluster.do("stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def up():
    """Bring a cluster up at its first use, and down at the end of this file."""
    with ExitStack() as stack:
        yield cache(lambda make: stack.enter_context(_up(make)))


@pytest.fixture(params=[_slurm, _ray], ids=["slurm", "ray"])
def cluster(request, up):
    return up(request.param)


@pytest.fixture
def slurm(up):
    return up(_slurm)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The tables of SHORT and LONG as this host makes them in one process, undisturbed."""
    tables = {}
    for name, sweep in (("short", SHORT), ("long", LONG)):
        folder = tmp_path_factory.mktemp("alone") / name
        command = [*LNTRAIN, "hydra/launcher=basic", *sweep, f"hydra.sweep.dir={folder}"]
        subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL, cwd=folder.parent)
        tables[name] = _csv(folder)
    return tables


def _csv(folder):
    return table.as_csv(table.collect(folder))


def _hosts(folder):
    return {path.parent.name: json.loads(path.read_text())["host"] for path in folder.glob("*/job.json")}


def _statuses(folder):
    return sorted(json.loads(path.read_text())["status"] for path in folder.glob("*/summary.json"))


def _until_both_run(folder, sign="checkpoint.pt", seconds=120):
    """Both jobs have written the file `sign` and neither has ended: {node: job}."""
    deadline = time.monotonic() + seconds
    while sum(path.stat().st_size > 0 for path in folder.glob(f"*/{sign}")) < 2:
        assert time.monotonic() < deadline, f"no two {sign} within {seconds} s"
        time.sleep(0.1)
    assert not list(folder.glob("*/summary.json")), "too quick to be disturbed"
    return {host: job for job, host in _hosts(folder).items()}


def _resumed(folder, job):
    return "resume    at step" in (folder / job / "output.txt").read_text()


def test_two_nodes_make_the_table_of_one_process(cluster, alone, tmp_path):
    code, printed = cluster.end(cluster.begin(tmp_path / "sweep", SHORT))
    assert code == 0, printed
    assert "done      4 of 4 jobs" in printed
    assert _csv(tmp_path / "sweep") == alone["short"]
    assert set(_hosts(tmp_path / "sweep").values()) == {"node1", "node2"}
    if cluster.name == "slurm":
        accounted = cluster.ask(
            "sacct", "--allocations", "--noheader", "--parsable2", "--format=State,NodeList"
        ).split()
        assert {"COMPLETED|node1", "COMPLETED|node2"} <= set(accounted)


def test_a_node_killed_in_mid_run_loses_nothing(cluster, alone, tmp_path):
    sweep = cluster.begin(tmp_path / "sweep", LONG)
    lost = _until_both_run(tmp_path / "sweep")["node2"]
    cluster.do("kill", "node2")
    try:
        code, printed = cluster.end(sweep)
    finally:
        cluster.do("boot", "node2")
    assert code == 0, printed
    assert _resumed(tmp_path / "sweep", lost)
    assert _csv(tmp_path / "sweep") == alone["long"]


def test_a_pre_empted_job_and_one_out_of_time_write_a_checkpoint_and_go_on(slurm, alone, tmp_path):
    sweep = slurm.begin(tmp_path / "sweep", [*LONG, "checkpoint_every=1000"])
    jobs = _until_both_run(tmp_path / "sweep", "output.txt")
    time.sleep(1)
    slurm.ask("sbatch", "--partition=urgent", "--nodelist=node1", "--output=/dev/null", "--wrap=sleep 1")
    slurm.ask("scancel", "--signal=USR2", *slurm.on("node2"))
    code, printed = slurm.end(sweep)
    assert code == 0, printed
    assert all(_resumed(tmp_path / "sweep", job) for job in jobs.values())
    assert _csv(tmp_path / "sweep") == alone["long"]


def test_a_cancelled_job_is_named_and_the_same_command_finishes_it(slurm, alone, tmp_path):
    sweep = slurm.begin(tmp_path / "sweep", LONG)
    lost = _until_both_run(tmp_path / "sweep")["node2"]
    slurm.ask("scancel", *slurm.on("node2"))
    code, printed = slurm.end(sweep)
    assert code == 1
    assert f"lntrain: {lost}:" in printed
    assert _statuses(tmp_path / "sweep") == ["done"]
    code, printed = slurm.end(slurm.begin(tmp_path / "sweep", LONG))
    assert code == 0, printed
    assert "skipped   1 jobs" in printed
    assert _csv(tmp_path / "sweep") == alone["long"]
