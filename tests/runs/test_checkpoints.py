"""Checkpoints are whole or refused: a flipped bit, a cut, another's file; the one before is used then."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lntrain import DiagonalLinear, GaussianNoise, LabelNoiseSGD, sparse_regression, train
from lntrain.runs.files import CHECKPOINTS, read_checkpoint, write_checkpoint

SMALL = ("problem.n=12", "problem.d=8", "problem.k=2", "figures=false", "model.replicas=null", "run_dir=a")
SAVED = {"config": "steps: 1", "history": {"rows": []}}


def _step(number):
    return {**SAVED, "state": {"step": number, "coef": torch.arange(200.0)}}


def damaged(whole, seed):
    """One flipped bit, or one cut, of the bytes."""
    rng = random.Random(seed)
    at = rng.randrange(len(whole))
    if seed % 2:
        return whole[:at]
    return whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]


def same(found, number):
    return found["state"]["step"] == number and torch.equal(found["state"]["coef"], _step(number)["state"]["coef"])


@pytest.mark.parametrize("seed", range(300))
def test_a_flipped_bit_or_a_cut_is_told_and_the_one_before_is_used(seed, tmp_path, capsys):
    for number in (1, 2):
        write_checkpoint(tmp_path, _step(number))
    newest = tmp_path / CHECKPOINTS[0]
    newest.write_bytes(damaged(newest.read_bytes(), seed))
    found = read_checkpoint(tmp_path)
    said = capsys.readouterr().err
    assert same(found, 1)
    assert said.startswith(f"lntrain: resume={tmp_path}: checkpoint.pt is no whole checkpoint of lntrain")
    assert said.count("\n") == 1


@pytest.mark.parametrize("end", ["marked", "cut"])
def test_damage_to_the_digest_does_not_hide_damage_to_the_numbers(end, tmp_path):
    write_checkpoint(tmp_path, _step(1))
    newest = tmp_path / CHECKPOINTS[0]
    whole = newest.read_bytes()
    at, mark = whole.index(np.arange(200.0, dtype=np.float32).tobytes()), whole.rindex(b"lntrain sha256 ")
    flipped = bytearray(whole[:mark] if end == "cut" else whole)
    flipped[at + 2] ^= 1
    if end == "marked":
        flipped[mark] ^= 1
    newest.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"its end is damaged|its digest is cut off"):
        read_checkpoint(tmp_path)


def test_where_both_are_damaged_one_line_says_so(tmp_path):
    for number in (1, 2):
        write_checkpoint(tmp_path, _step(number))
    for name in CHECKPOINTS:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is no whole .*checkpoint\.previous\.pt is no whole") as error:
        read_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [{}, [1], {**SAVED, "state": 3}, {**SAVED, "config": None, "state": None}, {"state": {}, "config": ""}],
    ids=str,
)
def test_anothers_file_is_no_checkpoint(content, tmp_path):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="no whole checkpoint of lntrain"):
        read_checkpoint(tmp_path)


def test_between_the_two_renames_the_one_before_is_found(tmp_path):
    write_checkpoint(tmp_path, _step(1))
    (tmp_path / CHECKPOINTS[0]).rename(tmp_path / CHECKPOINTS[1])
    assert same(read_checkpoint(tmp_path), 1)


def test_a_resume_from_the_one_before_ends_where_the_whole_run_ends(lntrain, tmp_path):
    assert lntrain(*SMALL, "steps=600")[0] == 0
    whole = (tmp_path / "a" / "result.npz").read_bytes()
    assert lntrain(*SMALL[:-1], "steps=300", "run_dir=b")[0] == 0
    assert lntrain("resume=b", "steps=400")[0] == 0
    newest = tmp_path / "b" / CHECKPOINTS[0]
    newest.write_bytes(newest.read_bytes()[:-300])
    code, _, err = lntrain("resume=b", "steps=600")
    assert code == 0
    assert "checkpoint.previous.pt is used" in err
    assert (tmp_path / "b" / "result.npz").read_bytes() == whole


def _run(problem, *, lr=0.01, dtype=torch.float64, state=None, steps=20):
    model = DiagonalLinear(problem.d, dtype=dtype)
    optimizer = LabelNoiseSGD(model.parameters(), lr=lr, noise=GaussianNoise(0.5))
    *_, last = train(model, optimizer, problem.to(dtype), steps, state=state)
    return last


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_state_goes_on_in_any_dtype(dtype):
    problem = sparse_regression(12, 8, 2, seed=0)
    assert _run(problem, dtype=dtype, state=_run(problem, dtype=dtype).state_dict(), steps=40).step == 40


def test_a_state_of_another_problem_dtype_or_lr_is_refused():
    problem, other = (sparse_regression(12, 8, 2, seed=seed) for seed in (0, 1))
    state = _run(problem).state_dict()
    assert _run(problem, state=state, steps=40).step == 40
    with pytest.raises(ValueError, match=r"problem=.* differs from the state's"):
        _run(other, state=state, steps=40)
    with pytest.raises(ValueError, match=r"dtype='torch.float32' differs from the state's 'torch.float64'"):
        _run(problem, dtype=torch.float32, state=state, steps=40)
    with pytest.raises(ValueError, match=r"lr=\[0\.02\] differs from the state's \[0\.01\]"):
        _run(problem, lr=0.02, state=state, steps=40)
