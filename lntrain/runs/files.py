"""Every file of a run is written and read here: whole or not at all, checked, and named where something is wrong.

Nothing here makes a run's folder: one that is deleted while its run goes on is not made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Damaged(ValueError):  # noqa: N818
    """A file that cannot be what was written, by name."""


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write beside, flush to disk, then rename: a reader or a kill never sees half a file.

    What no later run depends on need not be `durable`, flushed before a loss of power.

    Raises:
        OSError: it names the file.
    """
    _write_beside(path, content, durable=durable).replace(path)


def _write_beside(path: Path, content: bytes, *, durable: bool = True) -> Path:
    """A new file of this content, to be renamed to `path`; none is left where it fails."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _naming(path):
            _put(beside, content, durable=durable)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return beside


def append(path: Path, content: bytes, *, at: int | None = None) -> int:
    """Add to the end of a file, what stands beyond `at` (a write that failed) cut off first; its new size."""
    with _naming(path):
        return _put(path, content, durable=False, at=-1 if at is None else at)


def _put(path: Path, content: bytes, *, durable: bool, at: int | None = None) -> int:
    """All bytes that lntrain writes to a disk; `at`: keep so many of what is there, -1 for all."""
    with path.open("wb" if at is None else "ab") as file:
        if at is not None and 0 <= at < file.tell():
            file.truncate(at)
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
        return file.tell()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def clear_unfinished(folder: Path) -> None:
    """Remove what killed writers left beside their files; the folder must be held.

    A run's own folders too, but not those of a sweep's jobs, whose owners may be at work.
    """
    for path in (own for part in ("", "figures/", ".hydra/") for own in folder.glob(f"{part}.*.tmp")):
        path.unlink(missing_ok=True)


class Printed(io.TextIOBase):
    """A stream whose lines are appended to a file; a full disk is no error: what a job prints is not worth its life."""

    def __init__(self, path: Path) -> None:
        self.path, self.pending = path, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.pending += text
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        if self.pending:
            text, self.pending = self.pending, ""
            try:
                append(self.path, text.encode())
            except OSError:
                return


def to_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Valid JSON, a line's end after it: a number that is not finite becomes null."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(clean, indent=indent) + "\n"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON file."""
    write_atomically(path, to_json(values, indent=2).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file; None where there is none.

    Raises:
        Damaged: it is no JSON object.
    """
    try:
        return _object(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged ({_brief(error)}): remove it, or bring back an older one") from None


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON object a line; none where there is no file.

    Raises:
        Damaged: a line is no JSON object.
    """
    found = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        try:
            found.append(_object(line))
        except (ValueError, RecursionError) as error:
            raise Damaged(f"{path}, line {number} is damaged ({_brief(error)})") from None
    return found


def _object(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """An .npz of named arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz; none where there is no file.

    Raises:
        Damaged: it is no whole .npz.
    """
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except Exception as error:  # whatever a damaged archive makes zipfile, zlib and NumPy raise
        raise Damaged(f"{path} is damaged ({_brief(error)})") from None


def write_figures(folder: Path, drawn: Mapping[str, Any]) -> None:
    """A PNG of each of matplotlib's figures, by its name, in a folder whose parent is there."""
    for name, figure in drawn.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{name}.png", buffer.getvalue(), durable=False)


EVENTS = "events.out.tfevents."  # how the names of TensorBoard's files begin
CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")  # the two newest, the newest first
MARK = b"lntrain sha256 "  # before the digest of all that is before it, at the end of a checkpoint


def write_checkpoint(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """checkpoint.pt with a digest at its end, which loads with weights_only=True; the one before is kept."""
    buffer = io.BytesIO()
    torch.save({**checkpoint, "digested": True}, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.seek(0, io.SEEK_END)
    buffer.write(MARK + digest.encode())
    newest, before = (folder / name for name in CHECKPOINTS)
    beside = _write_beside(newest, buffer.getvalue())  # first of all: where the disk is full both old ones stay
    if newest.is_file():
        before.unlink(missing_ok=True)
        try:
            os.link(newest, before)  # a kill at any moment leaves one under the newest's name
        except OSError:  # a file system without links
            newest.replace(before)
    beside.replace(newest)


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
    digested = size >= 0 and content[size:].startswith(MARK)
    if digested:
        if hashlib.sha256(content[:size]).hexdigest().encode() != content[size + len(MARK) :]:
            raise ValueError("its digest does not fit: it was altered, or the disk erred")
        content = content[:size]
    elif content[-22:-18] != b"PK\5\6":  # those of 0.1.0's first days have no digest, and end as torch's archives do
        raise ValueError("its end is damaged")
    checkpoint: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    kinds: dict[str, Any] = {"config": str, "state": (dict, type(None)), "history": dict}
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(k, 0), kinds[k]) for k in kinds):
        raise ValueError("config, state or history is missing")
    if checkpoint.pop("digested", False) and not digested:
        raise ValueError("its digest is cut off")
    return checkpoint


def _brief(error: BaseException) -> str:
    text = str(error).partition("\n")[0] if isinstance(error, (ValueError, OSError)) else ""
    return text or type(error).__name__
