"""former words: a run of the release before goes on, to the same numbers, and commands in its words are taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lntrain.runs import former

OLD = Path(__file__).parent / "data" / "checkpoint-0.1.pt"
# replica 0's last iterate after 700 steps, resumed by the release that wrote the checkpoint at step 400
LAST = [-0.043130060246660884, -0.0056274827371846185, -0.012645926666171182, 0.0029474812365968116,
        -0.004696413681875154, -0.5294894639477944, 0.021490171593952206, 0.11862545500945347]  # fmt: skip


def test_a_run_of_the_release_before_goes_on(lntrain, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(OLD, run / "checkpoint.pt")
    code, out, err = lntrain("resume=run", "steps=700")
    assert (code, err) == (0, "")
    assert "at step 400 of 700" in out
    with np.load(run / "result.npz") as result:
        np.testing.assert_allclose(result["last_coef"][0], LAST, rtol=1e-8)
    assert json.loads((run / "summary.json").read_text())["steps"] == 700


def test_a_command_in_former_words_is_taken_and_told(lntrain, tmp_path):
    code, _, err = lntrain(
        "problem.n=6", "problem.d=8", "problem.k=2", "steps=50", "optimizer.lr=0.01", "loss_scale=0.25", "accuracy=0.1",
        "batch_size=2", "sampling=haochen", "figures=false", "run_dir=run",
    )  # fmt: skip
    assert code == 0
    assert [line.split(" is ")[1].split(" now")[0] for line in err.splitlines()] == [
        "loss_constant=0.25", "target_distance=0.1", "sampling=noisy_rows",
    ]  # fmt: skip
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "done"


@pytest.mark.parametrize(
    ("given", "new"),
    [
        ("loss_scale=0.25,0.5", "loss_constant=0.25,0.5"),
        ("+loss_scale=1", "+loss_constant=1"),
        ("sampling=haochen", "sampling=noisy_rows"),
        (
            "model.init._target_=lntrain.model.LogNormalInit",
            "model.init._target_=lntrain.models.diagonal.LogNormalInit",
        ),
        ("problem.path=haochen", "problem.path=haochen"),
        ("-m", "-m"),
        ("classification.loss=accuracy", "classification.loss=accuracy"),
    ],
)
def test_only_former_words_change(given, new, capsys):
    assert former.arguments([given]) == [new]
    assert (capsys.readouterr().err == "") == (given == new)
