"""Multiruns that can be run again: what is finished stays, what was interrupted goes on, what failed is tried anew."""

from __future__ import annotations

import itertools
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from lntrain.runs import folders, keys, locks, trust
from lntrain.runs.files import Damaged, clear_unfinished, write_atomically, write_json
from lntrain.sweeps.batch import BATCHABLE, batchable, run_batch
from lntrain.sweeps.jobs import (
    LONGEST,
    Job,
    identity_of,
    job_name,
    listed_jobs,
    plain,
    record_killed,
    short_hash,
    task_config,
)
from lntrain.sweeps.launchers import patience
from lntrain.sweeps.members import Place

PACKAGE = "hydra_plugins.lntrain"  # Hydra takes plugins of hydra_plugins alone
CHANGED = ("stop", "rerun", "keep")
SILENT = tuple(f"{key}." if key == "sweep" else f"{key}=" for key in folders.SILENT_KEYS)  # they make no other sweep


class ResumableSweeper(Sweeper):
    """The product of all values, as Hydra's own sweeper has it, in a folder that the same overrides find again."""

    __module__ = PACKAGE

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None) -> None:
        self.max_batch_size, self.params = max_batch_size, dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if not re.fullmatch(r"[\w.+=,-]*\w[\w.+=,-]*", config.sweep.name):
            raise ValueError(f"sweep.name={config.sweep.name!r} is a folder's name: letters, digits and . _ + = , -")
        if not config.trust:
            trust.check(task_config(config))
        if config.sweep.changed not in CHANGED:
            raise ValueError(f"sweep.changed={config.sweep.changed!r}: choose one of {', '.join(CHANGED)}")
        parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        task = list(OmegaConf.to_container(config.hydra.overrides.task))  # type: ignore[arg-type]
        self._overrides: list[Override] = parser.parse_overrides([*(f"{k}={v}" for k, v in self.params.items()), *task])
        if config.sweep.name == "auto":
            with flag_override(config, "readonly", False):
                config.sweep.name = self._automatic_name()  # hydra.sweep.dir holds it
        self.cfg, self.loader = config, hydra_context.config_loader
        self.starter: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def _automatic_name(self) -> str:
        """The swept keys, and a hash of every override in any order."""
        axes = folders.short_keys(self._axes()).values()
        lines = sorted(
            str(o.input_line) for o in self._overrides if not str(o.input_line).lstrip("+").startswith(SILENT)
        )
        readable = re.sub(r"[^\w.-]+", "_", "-".join(axes))[:LONGEST]
        return f"{readable or 'sweep'}_{short_hash(' '.join(lines))}"

    def _axes(self) -> list[str]:
        """The swept keys in an order of our own, seeds last: names do not depend on the command's."""
        keys = [o.get_key_element().lstrip("+") for o in self._overrides if o.is_sweep_override()]
        return sorted(keys, key=lambda key: (key.endswith("seed"), key.rpartition(".")[2], key))

    def sweep(self, arguments: list[str]) -> None:
        """Run what there is to run; leaves by SystemExit(1) when a job is not done at the end."""
        self.folder = Path(self.cfg.hydra.sweep.dir)
        jobs = self._jobs()
        self._validate(jobs)
        try:
            with locks.lock(self.folder):
                self._remember(jobs)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be written ({error.strerror}): give another sweep.name") from None
        print(f"sweep     {len(jobs)} jobs in {self.folder}", flush=True)
        todo = self._judge(jobs)
        before = signal.signal(signal.SIGTERM, _terminate)
        try:
            if self.cfg.sweep.batched:
                todo = self._batch(todo)
            self._run(todo)
        except KeyboardInterrupt:
            print("lntrain: interrupted; the same command goes on", file=sys.stderr)
            raise SystemExit(130) from None
        finally:
            signal.signal(signal.SIGTERM, before)
        self._conclude(jobs)

    def _jobs(self) -> list[Job]:
        jobs, keys = [], self._axes()
        for overrides in map(list, itertools.product(*map(_values, self._overrides))):
            values = dict(line.lstrip("+").split("=", 1) for line in overrides)
            swept = {key: values[key] for key in keys}
            name = job_name(swept)
            hydra = [f"hydra.sweep.dir='{self.folder.resolve()}'", f"hydra.sweep.subdir='{name}'"]
            jobs.append(Job(name, self.folder / name, [*overrides, *hydra], swept))
        return jobs

    def _validate(self, jobs: Sequence[Job]) -> None:
        """Compose so many jobs that each value of each axis was seen: a mistake shows before anything runs.

        One number of a kind speaks for all: what composing can say against a number is its type.
        """
        seen: set[str] = set()
        for job in jobs:
            kinds = {_kind(line) for line in job.overrides[:-1]}
            if not seen >= kinds:
                seen |= kinds
                keys.check(self._compose(job).task, job.overrides[:-2])  # the task may be swept: experiment=digits,path

    def _compose(self, job: Job) -> DictConfig:
        return self.loader.load_sweep_config(self.cfg, list(job.overrides))

    def _remember(self, jobs: Sequence[Job]) -> None:
        """sweep.json: every job that belongs to the sweep, those of earlier commands in this folder too."""
        clear_unfinished(self.folder)
        write_atomically(self.folder / "multirun.yaml", OmegaConf.to_yaml(self.cfg).encode(), durable=False)
        try:
            earlier = listed_jobs(self.folder)
        except Damaged as error:
            print(f"lntrain: {error}; it is made anew, of this command's jobs", file=sys.stderr)
            earlier = {}
        write_json(self.folder / "sweep.json", {"jobs": {**earlier, **{job.name: job.swept for job in jobs}}})

    def _judge(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs to run, in words; a finished job of another configuration or code stops the sweep."""
        choice, changed = self.cfg.sweep.changed, 0
        for job in jobs:
            if (job.folder / "job.json").is_file():
                own = identity_of(self._compose(job))
                job.state = folders.state(job.folder, own, changed=choice)
                if folders.state(job.folder, own) == "changed":
                    changed += 1
                    print(f"changed   {job.name}: made by another {folders.differs(job.folder, own)}", flush=True)
        if changed and choice == "stop":
            raise ValueError(
                f"{changed} of {len(jobs)} jobs in {self.folder} were made by another code or configuration: "
                "sweep.changed=rerun runs them anew, keep takes them as they are, sweep.name=NAME starts another sweep"
            )
        finished = sum(job.state == "finished" for job in jobs)
        if finished:
            print(f"skipped   {finished} jobs are finished", flush=True)
        for state, word in (("interrupted", "resumed"), ("failed", "again")):
            for job in jobs:
                if job.state == state:
                    print(f"{word:<10}{job.name}: {self._why(job)}", flush=True)
        return [job for job in jobs if job.state != "finished"]

    @staticmethod
    def _why(job: Job) -> str:
        if damage := folders.damage_of(folders.record_of(job.folder)):
            return damage
        summary = folders.summary_of(job.folder)
        reason = summary.get("reason")
        return str(summary.get("status") or "it was cut off") + (f": {reason}" if reason else "")

    def _run(self, jobs: Sequence[Job]) -> None:
        """Launch; what another process holds is waited for, and looked at again."""
        free = [job for job in jobs if locks.holder(job.folder) is None]
        self._launch(free)
        for job in jobs:
            held = locks.holder(job.folder)
            if held is None and (job in free or job.status() in folders.DONE):
                continue
            if held is not None:
                print(f"waiting   {job.name}: {held} is at it", flush=True)
                locks.wait_for(job.folder)
            if job.status() not in folders.DONE:
                self._launch([job])

    def _batch(self, jobs: Sequence[Job]) -> list[Job]:
        """Run together what differs in numbers of BATCHABLE alone; the jobs that are left for the launcher."""
        left, groups = [], {}  # type: ignore[var-annotated]
        for job in jobs:
            own = {key: value for key, value in job.swept.items() if key in BATCHABLE}
            rest = tuple(line for line in job.overrides[:-1] if line.split("=", 1)[0].lstrip("+") not in own)
            if job.state == "interrupted" or not all(isinstance(plain(value), (int, float)) for value in own.values()):
                left.append(job)
            else:
                groups.setdefault(rest, []).append(job)
        for same in groups.values():
            base = task_config(self._compose(same[0]))
            left += self._batch_of(base, same) if batchable(base) else same
        return left

    def _batch_of(self, base: DictConfig, jobs: Sequence[Job]) -> list[Job]:
        """One batch: lock what is free, run it; the jobs that did not finish."""
        with ExitStack() as stack:
            held = []
            for job in jobs:
                if locks.holder(job.folder) is None:
                    with suppress(locks.Locked):  # since
                        stack.enter_context(locks.lock(job.folder))
                        held.append(job)
            run_batch(
                base,
                [
                    Place(job.folder, job.overrides[:-2], {k: plain(job.swept[k]) for k in BATCHABLE if k in job.swept})
                    for job in held
                ],
            )
        done = [job for job in jobs if job.status() in folders.DONE]
        print(f"batched   {len(done)} jobs at once", flush=True)
        return [job for job in jobs if job not in done]

    def _launch(self, jobs: Sequence[Job]) -> None:
        """Give jobs to the launcher. A worker that dies takes others with it: they go on, suspects last, alone."""
        rest, suspects = list(jobs), []
        for job in jobs:
            job.mark()
        while rest:
            if self._completed(rest):
                break
            died = [job for job in rest if job.begun() and job.status() is None]
            if not died:  # before it began: the next one may be luckier, but not for ever
                died = rest[:1]
            suspects += died
            rest = [job for job in rest if not job.begun() and job not in died]
        for job in suspects:
            print(f"again     {job.name}: its process died", flush=True)
            job.mark()
            if not self._completed([job]) and job.status() is None:
                record_killed(job)

    def _completed(self, jobs: Sequence[Job]) -> bool:
        """Whether the launcher came through; False where a worker's death broke it."""
        size = self.max_batch_size or len(jobs)
        for first in range(0, len(jobs), size):
            try:
                with patience(self.starter):
                    self.starter.launch([job.overrides for job in jobs[first : first + size]], initial_job_idx=first)
            except BrokenExecutor:
                return False
            except (HydraException, OmegaConfBaseException, ValueError):
                raise
            except Exception as error:  # a launcher's own trouble: the folders tell what became of the jobs
                print(f"lntrain: {type(error).__name__}: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        return True

    def _conclude(self, jobs: Sequence[Job]) -> None:
        """The list of what is not done, and the exit code."""
        missing = [job for job in jobs if job.status() not in folders.DONE]
        for job in missing:
            print(f"lntrain: {job.name}: {self._why(job)}", file=sys.stderr)
        print(
            f"done      {len(jobs) - len(missing)} of {len(jobs)} jobs; next: lntrain-report {self.folder}", flush=True
        )
        if missing:
            raise SystemExit(1)


def _kind(line: str) -> str:
    key, _, text = line.partition("=")
    value = plain(text)
    return line if isinstance(value, str) else f"{key}={type(value).__name__}"


def _values(override: Override) -> list[str]:
    """key=value for each value that is swept."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise HydraException(f"{override.input_line}: an interval has no values; write a list or range(...)")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def register() -> None:
    """Make `hydra/sweeper=lntrain` known to Hydra."""
    sys.modules.setdefault(PACKAGE, sys.modules[__name__])
    Plugins.instance().register(ResumableSweeper)


def _terminate(signum: int, _: FrameType | None) -> None:
    print("lntrain: terminated; the same command goes on", file=sys.stderr)
    raise SystemExit(128 + signum)
