"""TensorBoard's event files without its thread, queue and open file for each: a sweep writes hundreds at once."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import FileWriter, SummaryWriter

from lntrain.runs.files import EVENTS, append

LATENCY = 5.0  # seconds that an event may wait for its file
_numbers = itertools.count()  # several files of one folder, process and second


@cache
def _table() -> NDArray[np.uint32]:
    """What each byte does to a CRC-32C (Castagnoli, reflected polynomial 0x82f63b78)."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ np.uint32(0x82F63B78), values >> 1)
    return values


@nb.njit(cache=True, nogil=True)
def _crc32c(data, table):  # type: ignore[no-untyped-def]
    crc = np.uint32(0xFFFFFFFF)
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)


def masked_crc32c(data: bytes) -> int:
    """The checksum of a record, rotated and shifted as TFRecord wants it.

    >>> hex(masked_crc32c(b"123456789"))
    '0xc78ab0e5'
    """
    crc = int(_crc32c(np.frombuffer(data, np.uint8), _table()))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """A TFRecord: length and data, each with its checksum."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))


def sizes(folder: Path) -> dict[str, int]:
    """The event files of a folder, as a checkpoint remembers them."""
    return {path.name: path.stat().st_size for path in folder.glob(f"{EVENTS}*")}


def restore(folder: Path, remembered: Mapping[str, int]) -> None:
    """Take away what was written since: a resume writes it again."""
    for path in folder.glob(f"{EVENTS}*"):
        size = remembered.get(path.name, 0)
        if size == 0:
            path.unlink()
        elif path.stat().st_size > size:
            os.truncate(path, size)


def _second(path: Path) -> int:
    """When an event file was begun, by its name; 0 for a name of another kind."""
    digits = path.name.removeprefix(EVENTS).partition(".")[0]
    return int(digits) if digits.isdigit() else 0


class EventFile:
    """What tensorboard's EventFileWriter does, in the caller's thread; the file is open only while it is written."""

    def __init__(self, folder: Path) -> None:
        # TensorBoard reads a folder's files in the order of their names: this one comes after those that are there
        second = max(round(time.time()), 1 + max(map(_second, folder.glob(f"{EVENTS}*")), default=0))
        name = f"{second:010}.{socket.gethostname()}.{os.getpid()}.{next(_numbers):06}"
        self.path, self.size = folder / f"{EVENTS}{name}", 0
        self.pending, self.flushed = [], time.time()  # type: ignore[var-annotated]
        self.add_event(Event(wall_time=self.flushed, file_version="brain.Event:2"))

    def add_event(self, event: Event) -> None:
        """Keep an event, and write what waits too long."""
        self.pending.append(record(event.SerializeToString()))
        if event.wall_time - self.flushed > LATENCY:
            self.flush()

    def flush(self) -> None:
        """Append what is kept; where that fails it is kept, and no half of it stays."""
        self.flushed = time.time()
        if self.pending:
            self.size = append(self.path, b"".join(self.pending), at=self.size)
            self.pending.clear()

    close = flush


class Writer(SummaryWriter):
    """torch's SummaryWriter onto an EventFile."""

    def _get_file_writer(self) -> Any:
        if self.file_writer is None:
            writer = FileWriter.__new__(FileWriter)  # its __init__ would start the thread
            writer.event_writer = EventFile(Path(self.log_dir))
            self.file_writer, self.all_writers = writer, {self.log_dir: writer}  # type: ignore[assignment]
            if self.purge_step is not None:  # as torch's: what was written from this step on is void
                writer.add_event(Event(step=self.purge_step, file_version="brain.Event:2"))
                log = SessionLog(status=SessionLog.START)
                writer.add_event(Event(step=self.purge_step, session_log=log))
                self.purge_step = None
        return self.file_writer
