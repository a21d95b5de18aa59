"""Hydra's launchers for clusters, Slurm and Ray: their settings, and patience with jobs that were killed."""

from __future__ import annotations

import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

LOOK_AGAIN = 10.0  # seconds
# Not a file of conf/, where Hydra would complain that the plugin has one of the same name
RAY = {
    "_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "ray": {
        # address: null is a Ray of this machine's own, auto the cluster of `ray start`, for which Ray refuses
        # an object_store_memory, which the plugin would set
        "init": {"address": None, "object_store_memory": None},
        # a job whose node or process died starts again elsewhere, from its checkpoint
        "remote": {"num_cpus": 1, "max_retries": 3},
    },
}


def register() -> None:
    """Make `hydra/launcher=ray` ours. Called when the plugins have been found: the last word counts."""
    ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RAY, provider="lntrain")


@contextmanager
def patience(launcher: Launcher) -> Iterator[None]:
    """In here a job that submitit or Ray has lost is a failed job, and the launcher asks for the next one.

    Both plugins end by asking for each job's result in turn, and offer no other way to be told of a loss. The others
    come through; joblib's warning of a worker that stopped is not shown, since it has begun another in its place.
    """
    plugin = type(launcher).__module__
    if "submitit" in plugin:
        from submitit.core.core import Job

        with patch.object(Job, "results", _patient(Job.results, still=_queued_again, wrap=lambda lost: [lost])):
            yield
    elif "ray" in plugin:
        import ray

        with patch.object(ray, "get", _patient(ray.get, still=lambda job: False, wrap=lambda lost: lost)):
            yield
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A worker stopped")
            yield


def _patient(
    ask: Callable[[Any], Any], *, still: Callable[[Any], bool], wrap: Callable[[JobReturn], Any]
) -> Callable[[Any], Any]:
    def answer(job: Any) -> Any:
        while True:
            try:
                return ask(job)
            except Exception as error:
                if not still(job):
                    return wrap(JobReturn(status=JobStatus.FAILED, _return_value=error))
            time.sleep(LOOK_AGAIN)

    return answer


def _queued_again(job: Any) -> bool:
    """Slurm's accounting says NODE_FAIL, and submitit takes it for the end, while the job waits to start again."""
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job.job_id}"]
    try:
        states = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.split()
    except (OSError, subprocess.TimeoutExpired):  # no Slurm: submitit_local
        return False
    return bool(set(states) & {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"})
