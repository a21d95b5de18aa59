"""Files of a run folder: written whole or not at all."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
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


def write_checkpoint(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """checkpoint.pt, which loads with weights_only=True."""
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    write_atomically(folder / "checkpoint.pt", buffer.getvalue())


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The checkpoint of a run folder.

    Raises:
        ValueError: no such folder, no checkpoint in it, or one that cannot be read.
    """
    path = Path(folder) / "checkpoint.pt"
    if not path.is_file():
        what = (
            "has no checkpoint.pt: the run was stopped before its first one" if path.parent.is_dir() else "is no folder"
        )
        raise ValueError(f"resume={folder} {what}")
    try:
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
        if not {"config", "state", "history"} <= set(checkpoint):
            raise ValueError("keys are missing")
    except (RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"resume={folder}: checkpoint.pt is no checkpoint of lntrain ({type(error).__name__})"
        ) from None
    return checkpoint
