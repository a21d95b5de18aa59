"""files: written whole or not at all, valid JSON whatever the numbers, checkpoints that say what is wrong with them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from lntrain.runs.files import read_checkpoint, to_json, write_arrays, write_atomically, write_checkpoint, write_json


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"first")
    write_atomically(path, b"second", durable=False)
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lntrain.runs.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_what_is_not_finite_becomes_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": math.nan, "b": math.inf, "c": 1.5, "d": None, "e": "text"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": None, "c": 1.5, "d": None, "e": "text"}
    assert to_json({"a": -math.inf}) == '{"a": null}\n'


def test_arrays_come_back(tmp_path):
    arrays = {"x": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "b"])}
    write_arrays(tmp_path / "a.npz", arrays)
    with np.load(tmp_path / "a.npz") as found:
        assert set(found) == set(arrays)
        assert all((found[key] == arrays[key]).all() for key in arrays)


def test_a_checkpoint_comes_back_and_a_bad_one_is_named(tmp_path):
    content = {"config": "steps: 1", "state": {"step": 3, "coef": torch.arange(3.0)}, "history": {"rows": []}}
    write_checkpoint(tmp_path, content)
    found = read_checkpoint(tmp_path)
    assert found["config"] == content["config"]
    assert torch.equal(found["state"]["coef"], content["state"]["coef"])
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        (tmp_path / "checkpoint.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint.pt is no whole checkpoint of lntrain") as error:
            read_checkpoint(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match="stopped before its first one"):
        read_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        read_checkpoint(tmp_path / "nowhere")
