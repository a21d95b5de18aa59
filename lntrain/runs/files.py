"""Files of a run folder: written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write beside, flush to disk, then rename: a reader or a kill never sees half a file.

    What no later run depends on need not be `durable`, flushed before a loss of power.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    beside.replace(path)


def to_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Valid JSON, a line's end after it: a number that is not finite becomes null."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(clean, indent=indent) + "\n"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON file."""
    write_atomically(path, to_json(values, indent=2).encode())


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """An .npz of named arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def write_figures(folder: Path, drawn: Mapping[str, Any]) -> None:
    """A PNG of each of matplotlib's figures, by its name."""
    for name, figure in drawn.items():
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png")


CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")  # the two newest, the newest first
MARK = b"lntrain sha256 "  # before the digest of all that is before it, at the end of a checkpoint


def write_checkpoint(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """checkpoint.pt with a digest at its end, which loads with weights_only=True; the one before is kept."""
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.seek(0, io.SEEK_END)
    buffer.write(MARK + digest.encode())
    newest, before = (folder / name for name in CHECKPOINTS)
    if newest.is_file():
        before.unlink(missing_ok=True)
        try:
            os.link(newest, before)  # a kill at any moment leaves one under the newest's name
        except OSError:  # a file system without links
            newest.replace(before)
    write_atomically(newest, buffer.getvalue())


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to go on from."""
    return any((folder / name).is_file() for name in CHECKPOINTS)


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run folder that is whole; a line to stderr where that is the older one.

    Raises:
        ValueError: no such folder, no checkpoint in it, or none that is whole.
    """
    if not has_checkpoint(folder):
        stopped = "has no checkpoint.pt: the run was stopped before its first one"
        raise ValueError(f"resume={folder} {stopped if folder.is_dir() else 'is no folder'}")
    damage: list[str] = []
    for path in (folder / name for name in CHECKPOINTS if (folder / name).is_file()):
        try:
            checkpoint = _checkpoint(path)
        except Exception as error:  # whatever a damaged file makes torch raise
            damage.append(f"{path.name} is no whole checkpoint of lntrain ({_brief(error)})")
            continue
        if damage:
            print(f"lntrain: resume={folder}: {damage[0]}; {path.name} is used", file=sys.stderr)
        return checkpoint
    raise ValueError(f"resume={folder}: {', '.join(damage)}") from None


def _checkpoint(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    size = len(content) - len(MARK) - 2 * hashlib.sha256().digest_size
    if size >= 0 and content[size:].startswith(MARK):  # those of 0.1.0's first days have none
        if hashlib.sha256(content[:size]).hexdigest().encode() != content[size + len(MARK) :]:
            raise ValueError("its digest does not fit: it was altered, or the disk erred")
        content = content[:size]
    checkpoint: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    kinds: dict[str, Any] = {"config": str, "state": (dict, type(None)), "history": dict}
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(k, 0), kinds[k]) for k in kinds):
        raise ValueError("config, state or history is missing")
    return checkpoint


def _brief(error: Exception) -> str:
    text = str(error).partition("\n")[0] if isinstance(error, (ValueError, OSError)) else ""
    return text or type(error).__name__
