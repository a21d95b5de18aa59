"""noise.stream=gram in a command: what the plan says, what it settles, a resume, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

from lntrain import Problem
from lntrain.cli import _register
from lntrain.runs.settled import settle
from lntrain.theory.dynamics import Dynamics

SMALL = ("problem.n=40", "problem.d=6", "problem.k=2", "figures=false", "model.replicas=2", "noise.stream=gram")
LINE = "note      noise: drawn in the 6 directions of X's columns: same law of every gradient, another stream"


def test_a_run_says_its_stream_and_a_resume_ends_where_the_whole_run_ends(lntrain, tmp_path):
    code, out, _ = lntrain(*SMALL, "steps=600", "run_dir=a")
    assert code == 0
    assert LINE in out.splitlines()
    assert lntrain(*SMALL, "steps=300", "run_dir=b")[0] == 0
    code, out, _ = lntrain("resume=b", "steps=600")
    assert code == 0
    assert LINE in out.splitlines()
    assert (tmp_path / "b" / "result.npz").read_bytes() == (tmp_path / "a" / "result.npz").read_bytes()
    assert lntrain(*SMALL[:-1], "steps=600", "run_dir=c")[0] == 0
    with np.load(tmp_path / "a" / "result.npz") as one, np.load(tmp_path / "c" / "result.npz") as other:
        assert not np.array_equal(one["last_coef"], other["last_coef"])  # another stream


def test_a_path_says_its_stream(lntrain):
    code, out, _ = lntrain("experiment=path", "path.points=2", "steps=60", "run_dir=a", *SMALL[:4], SMALL[-1])
    assert code == 0
    assert LINE in out.splitlines()


def test_an_x_of_few_rows_has_nothing_to_save(lntrain):
    out = lntrain(*SMALL, "problem.n=5", "problem.d=6", "steps=20", "run_dir=a")[1]
    assert "note      noise.stream=gram saves nothing: X has n=5 rows and d=6 columns" in out.splitlines()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("noise.stream=columns", "noise.stream='columns' is unknown: choose labels or gram"),
        ("noise=rademacher", "noise.stream=gram is Gaussian only, not lntrain.RademacherNoise: take noise=gaussian"),
        ("noise=none", "Gaussian only, not lntrain.NoNoise"),
        ("batch_size=4", "needs whole batches, not batch_size=4, sampling=null: leave both out"),
        ("batch_size=40 sampling=shuffle", "needs whole batches, not batch_size=40, sampling=shuffle"),
        ("batch_size=4 sampling=noisy_rows", "noise.stream=gram needs whole batches"),
        ("experiment=selectivity noise=gaussian noise.std=1", "models linear in X, not for task=selectivity"),
    ],
)
def test_what_it_cannot_be_is_refused_in_one_line(override, says, lntrain):
    given = (SMALL[-1], "run_dir=a") if "experiment" in override else (*SMALL, "steps=20", "run_dir=a")
    code, _, err = lntrain(*given, *override.split())
    assert code == 2
    assert len(err.splitlines()) == 1
    assert says in err


@pytest.mark.parametrize(
    "override", ["sampling=full", "sampling=full batch_size=40", "noise=gaussian", "model.depth=2"]
)
def test_whole_batches_by_any_name_are_taken(override, lntrain):
    assert lntrain(*SMALL, "steps=20", "run_dir=a", *override.split())[0] == 0


def test_auto_chooses_no_batches_and_a_step_costs_as_many_rows_as_columns():
    rng = torch.Generator().manual_seed(0)
    X = torch.randn(5000, 6, generator=rng, dtype=torch.float64)
    _register()
    with initialize_config_module("lntrain.conf", version_base="1.3"):
        sizes = [
            settle(compose("config", [f"noise.stream={stream}"]), Problem(X, X[:, 0].clone())).sizes
            for stream in ("labels", "gram")
        ]
    assert sizes == [(None, 1250, 312), (None,)]
    assert Dynamics(stream="gram").cost(3000, 12) == Dynamics().cost(12, 12)
    assert Dynamics(stream="gram").cost(12, 3000) == Dynamics().cost(12, 3000)
