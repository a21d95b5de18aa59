"""A run folder has one writer, and knows by which configuration and code it was made."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lntrain.runs.files import CHECKPOINTS, EVENTS, Damaged, clear_unfinished, has_checkpoint, read_json, write_json
from lntrain.runs.locks import LOCK, OWNER, lock

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
    "experiments",
)
DRAWINGS = ("figures.py", "figure_names.py", "path_figure.py", "run_figures.py", "page.py", "main.py")  # they make none
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


FIRST = {LOCK, OWNER, ".hydra", "job.json"}  # what a run's folder holds before its first number


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
            aside = _moved_aside(folder) if overwrite and _content(folder) else None
            try:
                held.enter_context(lock(folder))
            except OSError:
                _withdraw(folder, aside, missing)
                raise
            _refuse_taken(folder, False)  # by a run that began, and perhaps ended, since the look above
            held.callback(_withdraw, folder, aside, missing)
        except OSError as error:
            raise ValueError(f"run_dir={folder} cannot be written ({error.strerror}): name another folder") from None
        yield


def _withdraw(folder: Path, aside: Path | None, missing: Sequence[Path]) -> None:
    """Take back a run that has no number yet: its folder goes, and what was there before comes back."""
    held = list(folder.iterdir()) if folder.is_dir() else []
    if not {path.name for path in held if not path.name.startswith(EVENTS)} <= FIRST:
        return
    with suppress(PermissionError):  # of Windows, which removes no lock that is held
        for path in held:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in [folder] if aside is not None else missing:
            if path.is_dir():
                path.rmdir()
    if aside is not None:
        aside.rename(folder)


def _refuse_taken(folder: Path, overwrite: bool) -> None:
    held = {path.name for path in _content(folder)}
    if not held or overwrite:
        return
    if not held & {"job.json", "summary.json", *CHECKPOINTS}:
        raise ValueError(f"run_dir={folder} is not empty and holds no run: name another folder, or clear it")
    status = summary_of(folder).get("status") or "unfinished"
    goes_on = f"resume={folder} goes on with it, " if held & set(CHECKPOINTS) else ""
    raise ValueError(
        f"run_dir={folder} holds a run ({status}), which is left as it is: "
        f"{goes_on}overwrite=true moves it aside, or name another folder"
    )


def _content(folder: Path) -> list[Path]:
    """What is in a folder, but for the lock that a look at it may have made."""
    return [path for path in folder.iterdir() if path.name not in (LOCK, OWNER)] if folder.is_dir() else []


def _moved_aside(folder: Path) -> Path:
    """Its new name; nobody writes to it meanwhile."""
    with lock(folder):
        clear_unfinished(folder)
        number = next(k for k in itertools.count(1) if not folder.with_name(f"{folder.name}.{k}").exists())
    aside = folder.rename(folder.with_name(f"{folder.name}.{number}"))  # not within: Windows moves no lock that is held
    print(f"moved     {folder} to {aside}", flush=True)
    return aside


@cache
def code_hash(root: Path = Path(__file__).parents[1]) -> str:
    """Of the modules that make numbers, and of the versions they compute with."""
    digest, parts = hashlib.sha256(), [root / part for part in NUMBERS]
    for path in sorted(path for part in parts for path in ([part] if part.suffix else part.rglob("*.py"))):
        if path.name in DRAWINGS:
            continue
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


def summary_of(folder: Path) -> dict[str, Any]:
    """summary.json; empty where there is none, and of status "damaged" where it cannot be read."""
    return _tolerant(folder / "summary.json") or {}


def record_of(folder: Path) -> dict[str, Any] | None:
    """job.json; None where there is none, and of status "damaged" where it cannot be read."""
    return _tolerant(folder / "job.json")


def damage_of(record: Mapping[str, Any] | None) -> str:
    """What is wrong with the file that a record was read from; empty where nothing is."""
    return str(record["reason"]) if record is not None and record.get("status") == "damaged" else ""


def _tolerant(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except Damaged as error:
        return {"status": "damaged", "reason": str(error)}


def state(folder: Path, own: Mapping[str, str], *, changed: str = "stop") -> str:
    """Where a job stands: "new", "finished", "interrupted" (it can go on), "failed" or "changed".

    "changed": it is finished, or could go on, but by another configuration or code than `own`. `changed`
    says what that makes it: "rerun" new, "keep" what it is.
    """
    record, status = record_of(folder), summary_of(folder).get("status")
    if record is None:
        return "new"
    goes_on = has_checkpoint(folder) and status in (None, "interrupted", "killed", "damaged")
    if damage_of(record) or (status not in DONE and not goes_on):
        return "failed"
    if changed != "keep" and any(record.get(key) != value for key, value in own.items()):
        return "new" if changed == "rerun" else "changed"
    return "finished" if status in DONE else "interrupted"


def differs(folder: Path, own: Mapping[str, str]) -> str:
    """What of `own` is not what `folder` was made by: "code", "config" or "config and code"."""
    record = record_of(folder) or {}
    return " and ".join(key for key, value in own.items() if record.get(key) != value)


def begin(folder: Path, own: Mapping[str, str], *, fresh: bool) -> None:
    """Say who writes here and by what, before the first number; `fresh` takes an earlier try's files away."""
    if fresh and (folder / "job.json").is_file():  # else they are not ours to take
        for path in [folder / name for name in OURS] + list(folder.glob(f"{EVENTS}*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    clear_unfinished(folder)
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
    """key -> value of `.hydra/overrides.yaml`, a list of "key=value"; what is no such line is passed over."""
    lines = (folder / ".hydra" / "overrides.yaml").read_text(errors="replace").splitlines()
    pairs = (line.removeprefix("- ").strip("'\"").lstrip("+").split("=", 1) for line in lines if "=" in line)
    return {key: value for key, value in pairs if not key.startswith("hydra")}
