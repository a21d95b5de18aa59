"""The jobs of a sweep: their names, their first files, and what becomes of them."""

from __future__ import annotations

import hashlib
import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lntrain.runs import folders, keys, locks
from lntrain.runs.files import Damaged, read_json, write_atomically, write_json

LONGEST = 120  # characters of a job's name, beyond which a hash stands for the rest


@dataclass
class Job:
    """One job of a sweep: its overrides, and those that were swept (key -> value as text)."""

    name: str
    folder: Path
    overrides: list[str]
    swept: dict[str, str]
    state: str = "new"
    before: int | None = field(default=None, repr=False)  # when the last try began, to tell a new one

    def mark(self) -> None:
        """From here on `begun` speaks of new tries."""
        self.before = self._began()

    def begun(self) -> bool:
        """A try began after `mark`."""
        return self._began() != self.before

    def _began(self) -> int | None:
        path = self.folder / "job.json"
        return path.stat().st_mtime_ns if path.is_file() else None

    def status(self) -> str | None:
        """What the last try ended with; None while it runs, or when it was killed."""
        return folders.summary_of(self.folder).get("status")


def listed_jobs(folder: Path) -> dict[str, dict[str, str]]:
    """job -> key -> value of what was swept, from a sweep's sweep.json; empty where there is none.

    Raises:
        Damaged: it is no table of jobs.
    """
    path = folder / "sweep.json"
    jobs = (read_json(path) or {}).get("jobs", {})
    if not isinstance(jobs, dict) or not all(isinstance(values, dict) for values in jobs.values()):
        raise Damaged(f"{path} is damaged (it holds no table of jobs): remove it, or bring back an older one")
    return jobs


def job_name(swept: Mapping[str, str]) -> str:
    """A folder's name from the swept overrides, readable, and another one for other overrides.

    >>> job_name({"optimizer.lr": "0.01", "seed": "3"})
    'lr=0.01,seed=3'
    """
    keys = folders.short_keys(list(swept))
    text = ",".join(f"{keys[key].replace('/', '.')}={value}" for key, value in swept.items()) or "job"
    name = re.sub(r"[^\w.+=,-]+", "_", text)
    if name != text or len(name) > LONGEST:
        name = f"{name[:LONGEST]}_{short_hash(text)}"
    return name


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def plain(text: str) -> Any:
    """The number that an override's text says, else the text.

    >>> plain("3"), plain("1e-3"), plain("auto")
    (3, 0.001, 'auto')
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def task_config(cfg: DictConfig) -> DictConfig:
    """What the task sees of a composed configuration."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def begin_job(
    cfg: DictConfig, folder: Path, overrides: Sequence[str], *, own: Mapping[str, str] | None = None, fresh: bool
) -> None:
    """The first files of a run, `own` its identity; with the lock held (Hydra itself would write `.hydra` without)."""
    folders.begin(folder, identity_of(cfg) if own is None else own, fresh=fresh)
    write_config(folder, OmegaConf.to_yaml(cfg), overrides)


def identity_of(cfg: DictConfig) -> dict[str, str]:
    """folders.identity of a composed configuration."""
    return folders.identity(settings(cfg))


def settings(cfg: DictConfig) -> dict[str, Any]:
    """What makes the numbers of a run, as plain values."""
    kept = {str(key): cfg[key] for key in cfg if key not in ("hydra", *folders.SILENT_KEYS)}
    return {key: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for key, v in kept.items()}


def varied(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A plain configuration with other values; what does not change is shared.

    >>> varied({"a": {"b": 1, "c": 2}, "d": 3}, {"a.b": 5})
    {'a': {'b': 5, 'c': 2}, 'd': 3}
    """
    out = dict(config)
    for key, value in values.items():
        *parents, last = key.split(".")
        inner = out
        for name in parents:
            inner[name] = dict(inner[name])
            inner = inner[name]
        inner[last] = value
    return out


class Text:
    """A configuration as YAML with other numbers at some of `keys`: PyYAML takes as long as 10,000 steps."""

    def __init__(self, cfg: DictConfig, keys: Sequence[str]) -> None:
        self.marks = {
            key: f"lntrain-varies-{k}-"
            for k, key in enumerate(keys)
            if not OmegaConf.is_list(OmegaConf.select(cfg, key))
        }
        plain: Any = OmegaConf.to_container(cfg, enum_to_str=True)
        self.text = OmegaConf.to_yaml(OmegaConf.create(varied(plain, self.marks)))

    def __call__(self, *values: Mapping[str, Any]) -> str:
        """The last of `values` that has a key counts."""
        text, chosen = self.text, ChainMap(*map(dict, reversed(values)))
        for key, mark in self.marks.items():
            text = text.replace(mark, _line(chosen[key]).removeprefix("- ").strip())
        return text


@cache
def _line(value: Any) -> str:
    return OmegaConf.to_yaml(OmegaConf.create([value]))


def sparing(cfg: DictConfig) -> DictConfig:
    """As a job of many: fewer points and no figures, unless asked for; a network experiment says its own points."""
    sparse = cfg.points_per_octave is None and "study" not in keys.READ.get(cfg.task, ())
    fewer: Any = {"figures": bool(cfg.figures), "points_per_octave": 1 if sparse else cfg.points_per_octave}
    return OmegaConf.merge(cfg, fewer)  # type: ignore[return-value]


def write_config(folder: Path, config: str, overrides: Sequence[str]) -> None:
    """`.hydra` of a run folder, as Hydra writes it."""
    lines = "".join(map(_line, overrides)) or "[]\n"
    (folder / ".hydra").mkdir(exist_ok=True)
    write_atomically(folder / ".hydra" / "config.yaml", config.encode(), durable=False)
    write_atomically(folder / ".hydra" / "overrides.yaml", lines.encode(), durable=False)


def record_killed(job: Job) -> None:
    """A job whose process died twice, the second time alone."""
    reason = "its process was killed (by signal 9, perhaps for want of memory)"
    try:
        with locks.lock(job.folder):
            write_json(job.folder / "summary.json", {"status": "killed", "reason": reason})
    except locks.Locked:
        return
