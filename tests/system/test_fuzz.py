"""Malformed files, configurations, checkpoints and arguments are taken or refused by one line: a little of fuzz.py."""

from __future__ import annotations

import shutil

import fuzz
import pytest


@pytest.fixture(scope="module", autouse=True)
def _folder():
    yield
    shutil.rmtree(fuzz.FOLDER, ignore_errors=True)


@pytest.mark.parametrize("name", list(fuzz.PROPERTIES))
def test_a_little(name):
    said = fuzz.run(name, 60, 0)
    assert said is None, said


@pytest.mark.slow
@pytest.mark.parametrize("name", list(fuzz.PROPERTIES))
def test_more(name):
    said = fuzz.run(name, 2000, 1)
    assert said is None, said


def test_a_property_can_fail(monkeypatch):
    """A reader that lets the archive's own error through, and a checkpoint that is taken unseen, are found."""
    from contextlib import nullcontext

    import torch

    from lntrain.data import readers

    def unseen(folder):
        try:
            return torch.load(folder / "checkpoint.pt", weights_only=True)
        except Exception as error:
            raise ValueError("checkpoint.pt is damaged") from error

    monkeypatch.setattr(readers, "_named", lambda path: nullcontext())
    assert "Failing" in (fuzz.run("readers", 400, 0) or "")
    monkeypatch.setattr(fuzz, "read_checkpoint", unseen)
    assert "Failing" in (fuzz.run("checkpoints", 400, 0) or "")
