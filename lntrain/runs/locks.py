"""A folder has one writer: the system lets go of its lock when the process ends, however it ends."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lntrain.runs.files import write_atomically

LOCK, OWNER = ".lock", ".owner"  # two files: Windows lets nobody read what is locked
PATIENCE = 1.0  # seconds, in which somebody who only looks is gone


class Locked(ValueError):  # noqa: N818
    """Another process is writing to this folder."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder`, which is made where there is none, for this process.

    On NFS Linux makes it a lock of the server, so it holds between machines too, unless the mount says `nolock` or
    `local_lock`.

    Raises:
        Locked: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = FileLock(folder / LOCK)
    try:
        held.acquire(timeout=PATIENCE, poll_interval=0.01)
    except Timeout:
        raise Locked(f"{folder} is in use by {_owner(folder)}: wait for it, or take another folder") from None
    try:
        write_atomically(folder / OWNER, f"process {os.getpid()} on {platform.node()}".encode(), durable=False)
        yield
    finally:
        held.release()


def holder(folder: Path) -> str | None:
    """Who is writing to `folder` now; None when nobody is. Whoever wants to write meanwhile waits a moment."""
    if not (folder / LOCK).is_file():
        return None
    try:
        with FileLock(folder / LOCK, timeout=0):
            return None
    except Timeout:
        return _owner(folder)


def _owner(folder: Path) -> str:
    path = folder / OWNER
    return path.read_text(errors="replace") if path.is_file() else "another process"


def wait_for(folder: Path) -> None:
    """Return when nobody writes to `folder`; nothing is written."""
    if (folder / LOCK).is_file():
        with FileLock(folder / LOCK):
            return
