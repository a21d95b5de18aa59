"""The cache of compiled kernels: as good as new after any edit, and kept where nothing was edited."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lntrain
from lntrain import DiagonalLinear, LabelNoiseSGD, engine, sparse_regression, train

RUN = """
from lntrain import DiagonalLinear, LabelNoiseSGD, sparse_regression, train
problem = sparse_regression(8, 8, 2)
model = DiagonalLinear(8)
optimizer = LabelNoiseSGD(model.parameters(), lr=0.01, noise=1.0)
*_, last = train(model, optimizer, problem, 20, engine="fused", batch_size=2)
print(float(last.coef.norm()))
"""
EDIT = "engine/kernels.py", "target[first + i] = y[row] + noise", "target[first + i] = y[row] + 2 * noise"


@pytest.fixture
def package(tmp_path):
    """A copy of the package whose kernels are compiled: a function that runs it and returns what it prints."""
    shutil.copytree(
        Path(lntrain.__file__).parent, tmp_path / "lntrain", ignore=shutil.ignore_patterns("__pycache__", "*.nb[ic]")
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run():
        command = [sys.executable, "-c", RUN]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return float(done.stdout)

    return run


def _kept(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.nb[ic]")}


@pytest.mark.slow
def test_an_edited_kernel_runs_without_cleaning(package, tmp_path):
    first = package()
    kept = _kept(tmp_path)
    assert kept
    assert package() == pytest.approx(first, rel=1e-12)
    assert _kept(tmp_path) == kept  # compiled once
    name, old, new = EDIT  # a kernel that another file's is compiled with
    source = tmp_path / "lntrain" / name
    assert source.read_text().count(old) == 1
    source.write_text(source.read_text().replace(old, new))
    assert package() != pytest.approx(first, rel=1e-6)
    assert not set(_kept(tmp_path)) & set(kept)  # what was compiled before is cleared
    assert len(_kept(tmp_path)) == len(kept)


def test_without_a_compiler_no_path_is_compiled(monkeypatch):
    monkeypatch.setattr(engine, "NO_COMPILER", "numba compiles nothing")
    model, problem = DiagonalLinear(8), sparse_regression(8, 8, 2)
    optimizer = LabelNoiseSGD(model.parameters(), lr=0.01, noise=1.0)
    *_, last = train(model, optimizer, problem, 3)
    assert last.engine == "torch"
    with pytest.raises(ValueError, match="cannot run this: numba compiles nothing"):
        train(model, optimizer, problem, 3, engine="fused")


@pytest.mark.slow
def test_where_numba_may_not_compile_steps_are_torchs():
    script = (
        RUN.replace(', engine="fused", batch_size=2', "")
        .replace("20", "3")
        .replace("float(last.coef.norm())", "last.engine")
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch"
