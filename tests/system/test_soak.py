"""Killed, starved and damaged runs end where they would have ended: scripts/soak.py, a little of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "scripts" / "soak.py"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--kills", "50"), ("--faults", "40")], ids=["kills", "faults"])
def test_nothing_is_lost(arguments):
    if not hasattr(__import__("os"), "fork"):
        pytest.skip("the lives of soak.py are forked")
    command = [sys.executable, str(SOAK), *arguments, "--seed", "7", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 went wrong" in done.stdout
