"""events: records that TensorBoard's own reader takes, in the order they were given, with nothing lost or doubled."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as theirs

from lntrain.runs import events
from lntrain.runs.dashboard import write_hparams, write_scalars
from lntrain.runs.events import EventFile, Writer, masked_crc32c, record


def _read(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return found


@pytest.mark.parametrize("size", [0, 1, 7, 8, 4096, 100_003])
def test_the_checksum_is_tensorboards(size):
    data = np.random.default_rng(size).bytes(size)
    assert masked_crc32c(data) == theirs(data)
    assert record(data) == b"".join(
        (
            struct.pack("<Q", size),
            struct.pack("<I", theirs(struct.pack("<Q", size))),
            data,
            struct.pack("<I", theirs(data)),
        )
    )


def test_scalars_come_back_in_order_over_many_flushes(tmp_path):
    writer = Writer(str(tmp_path))
    for step in range(50):
        write_scalars(writer, {"loss": step / 2, "other": -float(step)}, step)
        if step % 7 == 0:
            writer.flush()
    writer.close()
    for tag, slope in (("loss", 0.5), ("other", -1.0)):
        assert [(e.step, e.value) for e in _read(tmp_path).Scalars(tag)] == [(s, slope * s) for s in range(50)]


@pytest.mark.parametrize("number", [0, 9, 99, 999])
def test_the_purge_step_drops_what_was_written_past_a_checkpoint(number, tmp_path, monkeypatch):
    """However many files this process wrote before: TensorBoard reads them in the order of their names."""
    monkeypatch.setattr(events, "_numbers", itertools.count(number))
    for purge, steps, value in ((None, range(10), 1.0), (6, range(6, 12), 2.0)):
        writer = Writer(str(tmp_path), purge_step=purge)
        for step in steps:
            write_scalars(writer, {"loss": value}, step)
        writer.close()
    assert [(e.step, e.value) for e in _read(tmp_path).Scalars("loss")] == [
        (step, 1.0 if step < 6 else 2.0) for step in range(12)
    ]


def test_hparams_make_no_run_of_their_own(tmp_path):
    writer = Writer(str(tmp_path))
    write_hparams(writer, {"lr": 0.1}, {"result/loss": 0.25}, 7)
    writer.close()
    assert len(list(tmp_path.iterdir())) == 1
    assert [(e.step, e.value) for e in _read(tmp_path).Scalars("result/loss")] == [(7, 0.25)]
    assert "_hparams_/session_start_info" in _read(tmp_path).PluginTagToContent("hparams")


def test_two_files_of_one_folder_have_names_of_their_own(tmp_path):
    first, second = EventFile(tmp_path), EventFile(tmp_path)
    first.flush()
    second.flush()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_later_file_of_the_same_second_comes_after_whatever_its_process(tmp_path, monkeypatch):
    """A resume within a second, by a process whose number sorts before."""
    monkeypatch.setattr(events.time, "time", lambda: 1_700_000_000.2)
    for number, pid in enumerate((9835, 10090, 7)):
        monkeypatch.setattr(events.os, "getpid", lambda pid=pid: pid)
        writer = Writer(str(tmp_path))
        writer.add_scalar("x", float(number), number)
        writer.close()
    assert [event.step for event in _read(tmp_path).Scalars("x")] == [0, 1, 2]
