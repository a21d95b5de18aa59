"""What makes a finished job stale: an edit of what makes its numbers, and of nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import lntrain
from lntrain.runs.folders import DRAWINGS, code_hash

STAYS = (
    "sweeps/page.py",
    "sweeps/sweeper.py",
    "claims/table.py",
    "experiments/figures.py",
    "runs/dashboard.py",
    "cli.py",
)
CHANGES = ("engine/kernels.py", "noise/philox.py", "lasso/solve.py", "theory/plan.py", "experiments/train.py")


@pytest.fixture
def package(tmp_path):
    root = tmp_path / "lntrain"
    shutil.copytree(Path(lntrain.__file__).parent, root, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_a_new_experiment_counts(package):
    before = code_hash.__wrapped__(package)
    (package / "experiments" / "mine.py").write_text("")
    assert code_hash.__wrapped__(package) != before


def test_every_drawing_is_there():
    names = {path.name for path in (Path(lntrain.__file__).parent / "experiments").rglob("*.py")}
    assert set(DRAWINGS) <= names


@pytest.mark.parametrize("name", [*STAYS, *CHANGES])
def test_an_edit_counts_where_numbers_are_made(name, package):
    before = code_hash.__wrapped__(package)
    assert before == code_hash()
    source = package / name
    source.write_text(source.read_text() + "\nEDITED = True\n")
    assert (code_hash.__wrapped__(package) != before) == (name in CHANGES)
