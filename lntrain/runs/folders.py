"""A run folder has one writer, and knows by which configuration and code it was made."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from lntrain.runs.files import CHECKPOINTS, has_checkpoint, write_json

# what changes no number of a run: neither these keys of the configuration nor these modules
SILENT_KEYS = ("run_dir", "overwrite", "trust", "checkpoint_every", "figures", "points_per_octave", "sweep")
NUMBERS = (  # the modules that make numbers: a page's style, a claim or a launcher make none
    "noise",
    "models",
    "data",
    "optim",
    "penalty",
    "lasso",
    "engine",
    "theory",
    "training",
    "sharpness",
    "runs/build.py",
    "runs/settled.py",
    "runs/regression.py",
    *(
        f"experiments/{task}.py"
        for task in ("train", "figure1", "path", "study", "arms", "arms_board", "classify", "selectivity", "sensing")
    ),
)
DONE = ("done",)
OURS = (
    "summary.json",
    "metrics.jsonl",
    "result.npz",
    "coefficients.csv",
    *CHECKPOINTS,
    "table.md",
    "output.txt",
    "figures",
)


class Locked(ValueError):  # noqa: N818
    """Another process is writing to this folder."""


FIRST = {".lock", ".hydra", "job.json"}  # what a run's folder holds before its first number


@contextmanager
def new_run(folder: Path, *, overwrite: bool) -> Iterator[None]:
    """Hold a folder for a new run; one that ends before its first number leaves everything as it was.

    Args:
        overwrite: move aside what is there, to NAME.1, NAME.2, ...

    Raises:
        ValueError: something is there, or no folder can be made. Locked: another process holds it.
    """
    if not folder.name:
        raise ValueError(f"run_dir={str(folder)!r} names no folder of its own: give one, such as run_dir=outputs/mine")
    with ExitStack() as held:
        try:
            _refuse_taken(folder, overwrite)
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            aside = _moved_aside(folder) if _content(folder) else None
            held.enter_context(lock(folder))
            held.callback(_withdraw, folder, aside, missing)
        except OSError as error:
            raise ValueError(f"run_dir={folder} cannot be written ({error.strerror}): name another folder") from None
        yield


def _withdraw(folder: Path, aside: Path | None, missing: Sequence[Path]) -> None:
    """Take back a run that has no number yet: its folder goes, and what was there before comes back."""
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= FIRST:
        return
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in [folder] if aside is not None else missing:
        path.rmdir()
    if aside is not None:
        aside.rename(folder)


def _refuse_taken(folder: Path, overwrite: bool) -> None:
    held = {path.name for path in _content(folder)}
    if not held or overwrite:
        return
    if not held & {"job.json", "summary.json", *CHECKPOINTS}:
        raise ValueError(f"run_dir={folder} is not empty and holds no run: name another folder, or clear it")
    status = (read_json(folder / "summary.json") or {}).get("status") or "unfinished"
    goes_on = f"resume={folder} goes on with it, " if held & set(CHECKPOINTS) else ""
    raise ValueError(
        f"run_dir={folder} holds a run ({status}), which is left as it is: "
        f"{goes_on}overwrite=true moves it aside, or name another folder"
    )


def _content(folder: Path) -> list[Path]:
    """What is in a folder, but for the lock that a look at it may have made."""
    return [path for path in folder.iterdir() if path.name != ".lock"] if folder.is_dir() else []


def _moved_aside(folder: Path) -> Path:
    """Its new name; nobody writes to it meanwhile."""
    with lock(folder):
        number = next(k for k in itertools.count(1) if not folder.with_name(f"{folder.name}.{k}").exists())
        aside = folder.rename(folder.with_name(f"{folder.name}.{number}"))
    print(f"moved     {folder} to {aside}", flush=True)
    return aside


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process: the kernel lets go of it when the process ends, however it ends.

    flock needs no cleaning after a kill. On NFS Linux makes it a lock of the server, so it holds between
    machines too, unless the mount says `nolock` or `local_lock`.

    Raises:
        Locked: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        for last in (False, False, True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if last:
                    raise Locked(f"{folder} is in use by {_name(file)}: wait for it, or take another folder") from None
                time.sleep(0.05)  # it may be somebody who only looks: see `holder`
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def holder(folder: Path) -> str | None:
    """Who is writing to `folder` now; None when nobody is."""
    path = folder / ".lock"
    if not path.is_file():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _name(file)
        return None


def _name(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or "another process"


def wait_for(folder: Path) -> None:
    """Return when nobody writes to `folder`; nothing is written."""
    if (folder / ".lock").is_file():
        with (folder / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)


@cache
def code_hash(root: Path = Path(__file__).parents[1]) -> str:
    """Of the modules that make numbers, and of the versions they compute with."""
    digest, parts = hashlib.sha256(), [root / part for part in NUMBERS]
    for path in sorted(path for part in parts for path in ([part] if part.suffix else part.rglob("*.py"))):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    for package in ("torch", "numpy", "numba", "scikit-learn", "scipy"):
        digest.update(f"{package} {version(package)}\n".encode())
    return digest.hexdigest()[:16]


def identity(config: Mapping[str, Any]) -> dict[str, str]:
    """Two hashes: of the configuration (resolved, with the data file it names) and of the code."""
    kept = {key: value for key, value in config.items() if key not in SILENT_KEYS}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    path = Path(str((config.get("problem") or {}).get("path", "")))
    if path.is_file():
        digest.update(path.read_bytes())
    return {"config": digest.hexdigest()[:16], "code": code_hash()}


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file; None where there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return content


def state(folder: Path, own: Mapping[str, str], *, changed: str = "stop") -> str:
    """Where a job stands: "new", "finished", "interrupted" (it can go on), "failed" or "changed".

    "changed": it is finished, or could go on, but by another configuration or code than `own`. `changed`
    says what that makes it: "rerun" new, "keep" what it is.
    """
    record, summary = read_json(folder / "job.json"), read_json(folder / "summary.json") or {}
    if record is None:
        return "new"
    status, resumable = summary.get("status"), has_checkpoint(folder)
    goes_on = resumable and status in (None, "interrupted", "killed")
    if status not in DONE and not goes_on:
        return "failed"
    if changed != "keep" and any(record.get(key) != value for key, value in own.items()):
        return "new" if changed == "rerun" else "changed"
    return "finished" if status in DONE else "interrupted"


def differs(folder: Path, own: Mapping[str, str]) -> str:
    """What of `own` is not what `folder` was made by: "code", "config" or "config and code"."""
    record = read_json(folder / "job.json") or {}
    return " and ".join(key for key, value in own.items() if record.get(key) != value)


def begin(folder: Path, own: Mapping[str, str], *, fresh: bool) -> None:
    """Say who writes here and by what, before the first number; `fresh` takes an earlier try's files away."""
    if fresh and (folder / "job.json").is_file():  # else they are not ours to take
        for path in [folder / name for name in OURS] + list(folder.glob("events.out.tfevents.*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)  # whoever finds none knows that this job did not end
    who = {"pid": os.getpid(), "host": platform.node(), "started": time.time()}
    write_json(folder / "job.json", {**own, **who})


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last word of each key, where that is no other's too.

    >>> short_keys(["optimizer.lr", "noise.std", "seed"])
    {'optimizer.lr': 'lr', 'noise.std': 'std', 'seed': 'seed'}
    >>> short_keys(["seed", "problem.seed"])
    {'seed': 'seed', 'problem.seed': 'problem.seed'}
    """
    last = [key.rpartition(".")[2] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def read_overrides(folder: Path) -> dict[str, str]:
    """key -> value of `.hydra/overrides.yaml`, a list of "key=value"."""
    lines = (folder / ".hydra" / "overrides.yaml").read_text().splitlines()
    pairs = (line.removeprefix("- ").strip("'\"").lstrip("+").split("=", 1) for line in lines if "=" in line)
    return {key: value for key, value in pairs if not key.startswith("hydra")}
