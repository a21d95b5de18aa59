"""study and its tasks: equal expected objectives, each experiment from the command line, interruption and resume."""

from __future__ import annotations

import json
import signal
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from lntrain import GaussianNoise, LabelFlips, LabelNoiseSGD, RademacherNoise
from lntrain.data.teachers import few_useful_inputs, sensing_problem
from lntrain.experiments import figures
from lntrain.experiments.arms_board import pm
from lntrain.experiments.selectivity import selectivity
from lntrain.models.networks import MatrixSensing
from lntrain.models.replicas import Replicas, Rows, squared_loss
from lntrain.noise.labels import Draw
from lntrain.runs.history import Curves
from lntrain.sharpness.expected import expected_targets
from lntrain.training.ensemble import Anneal, descend

TINY = {
    "digits": ["data.test=0.95", "network.widths=[6]", "classification.trace_draws=2"],
    "selectivity": ["selectivity.n=20", "selectivity.d=12", "selectivity.useful=3", "selectivity.test=9"],
    "matrix_sensing": ["matrix_sensing.d=4", "matrix_sensing.rank=1", "matrix_sensing.measurements=[5,8]"],
}
FIGURES = {"digits": ["classification"], "selectivity": ["selectivity"], "matrix_sensing": ["matrix_sensing"]}
RUN = ["steps=40", "study.replicas=2", "study.anneal=0.25", "study.points=1", "batch_size=4", "optimizer.lr=0.01"]


@pytest.mark.parametrize("experiment", list(TINY))
def test_an_experiment_runs_and_writes_all_it_promises(experiment, lntrain, tmp_path):
    code, out, err = lntrain(f"experiment={experiment}", *TINY[experiment], *RUN, "run_dir=here")
    assert (code, err) == (0, "")
    folder = tmp_path / "here"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["replicas"]) == ("done", 40, 2)
    assert len([name for name in summary if name.startswith("final_")]) >= 8
    assert (folder / "table.md").read_text().strip() in out
    for figure in FIGURES[experiment]:
        assert (folder / "figures" / f"{figure}.png").stat().st_size > 10_000
    assert list(folder.glob("events.out.tfevents.*"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    arms = {line["arm"] for line in lines}
    assert len(arms) == {"digits": 2, "selectivity": 3, "matrix_sensing": 6}[experiment]
    with np.load(folder / "result.npz") as result:
        for line in lines:  # each number of each seed is kept
            name = next(key for key in line if key not in ("arm", "step"))
            assert len(line[name]) == 2
            assert line[name] in result[f"{line['arm']}/{name}"].tolist()


@pytest.mark.parametrize("experiment", list(TINY))
def test_an_interrupted_experiment_says_what_is_done_and_resumes_bit_for_bit(
    experiment, lntrain, tmp_path, monkeypatch
):
    arguments = [f"experiment={experiment}", *TINY[experiment], *RUN]
    assert lntrain(*arguments, "run_dir=whole")[0] == 0
    add, calls = Curves.add, []

    def add_and_interrupt(curves, name, step, values):
        add(curves, name, step, values)
        calls.append(step)
        if len(calls) == 17:  # in the second arm
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Curves, "add", add_and_interrupt)
        code, _, err = lntrain(*arguments, "run_dir=cut")
    assert code == 130
    assert "go on with: lntrain resume=" in err
    summary = json.loads((tmp_path / "cut" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert sorted(value for name, value in summary.items() if name.startswith("steps "))[-1] == 40
    assert lntrain("resume=cut")[0] == 0
    with np.load(tmp_path / "cut" / "result.npz") as cut, np.load(tmp_path / "whole" / "result.npz") as whole:
        assert set(cut.files) == set(whole.files)
        assert all(np.array_equal(cut[name], whole[name]) for name in whole.files)


def test_the_first_seeds_do_not_depend_on_how_many_there_are(lntrain, tmp_path):
    for replicas in (1, 3):
        options = [*RUN, f"study.replicas={replicas}", f"run_dir={replicas}", "seed=4"]
        assert lntrain("experiment=selectivity", *TINY["selectivity"], *options)[0] == 0
    with np.load(tmp_path / "1" / "result.npz") as one, np.load(tmp_path / "3" / "result.npz") as three:
        for name in (name for name in one.files if not name.endswith("/step")):
            assert np.allclose(one[name][:, 0], three[name][:, 0], rtol=1e-3)
            assert not np.allclose(one[name][-1, 0], three[name][-1, 1], rtol=1e-2)


NOISES = {
    "flips": LabelFlips(0.3, 4),
    "flips to any class": LabelFlips(0.3, 4, include_true=True),
    "gaussian": GaussianNoise(0.5),
    "rademacher": RademacherNoise(0.5),
}


@pytest.mark.parametrize("name", list(NOISES))
@pytest.mark.parametrize("loss", [cross_entropy, squared_loss])
def test_the_control_trains_on_the_expected_gradient_of_the_noisy_loss(name, loss):
    """Over 40,000 draws the mean noisy gradient meets the control's within 5 standard errors."""
    noise, rows = NOISES[name], one_hot(torch.tensor([1, 3]), 4).double()
    logits = torch.tensor([[0.3, -1.0, 0.5, 0.1], [1.5, 0.2, 0.0, -0.4]], dtype=torch.float64, requires_grad=True)

    def gradient(targets):
        return torch.autograd.grad(loss(logits, targets), logits)[0]

    draws = 40_000
    many = rows.repeat(draws, 1)
    noisy = noise.perturb(many, Draw(((7, 0),), 0)).reshape(draws, 2, 4)
    mean, sd = noisy.mean(0), noisy.std(0)  # both gradients are linear in the target
    error = (gradient(mean) - gradient(expected_targets(rows, noise))).abs()
    assert bool((error <= 5 * sd / draws**0.5 + 1e-12).all())
    if "flips" in name:  # and the bare labels would not do
        assert float((gradient(mean) - gradient(rows)).abs().max()) > 0.05


@pytest.mark.parametrize("teacher", [0, 3])
def test_the_regression_has_mean_0_and_variance_1_and_uses_the_useful_inputs_alone(teacher):
    few = partial(few_useful_inputs, teacher=teacher)
    X, y = few(40_000, 12, 3, seed=2)
    assert float(y.mean()) == pytest.approx(0, abs=0.03)
    assert float(y.var()) == pytest.approx(1, rel=0.05)
    first, again = few(10, 12, 3, seed=2), few(10, 12, 3, seed=3)
    assert torch.equal(first[0], X[:10])
    torch.testing.assert_close(first[1], y[:10], rtol=1e-6, atol=1e-6)  # a product of more rows may round another way
    assert not torch.equal(first[1], again[1])
    correlation = (X * y).mean(0) / X.std(0)
    assert float(correlation[3:].abs().max()) < 5 / 40_000**0.5
    assert float(correlation[:3].abs().max()) > 0.1


def test_selectivity_is_the_ratio_of_mean_column_norms():
    weight = torch.tensor([[3.0, 0.0, 1.0], [4.0, 5.0, 0.0]])
    assert selectivity(weight, 1) == pytest.approx(5 / 3)
    assert selectivity(weight, 2) == pytest.approx(5.0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_measured_matrix_has_its_rank_and_singular_values_1(symmetric):
    A, y, W = sensing_problem(6, 2, 7, symmetric=symmetric, seed=1)
    values = torch.linalg.svdvals(W)
    assert values.tolist() == pytest.approx([1, 1, 0, 0, 0, 0], abs=1e-12)
    assert torch.allclose(W, W.T) == symmetric
    assert torch.allclose(y, torch.einsum("mij,ij->m", A, W))
    assert torch.equal(sensing_problem(6, 2, 3, symmetric=symmetric, seed=1)[0], A[:3])


def test_label_noise_recovers_a_low_rank_matrix_that_gd_misses():
    """14 measurements of a 6 x 6 symmetric matrix of rank 1 (6 free numbers of 21): 3 seeds, each one."""
    data = [sensing_problem(6, 1, 14, seed=seed) for seed in range(3)]
    rows = Rows(torch.stack([A for A, _, _ in data]), torch.stack([y for _, y, _ in data]), own=True)
    truth, errors = torch.stack([W for _, _, W in data]), {}
    for std in (0.0, 2.0):
        nets = Replicas([MatrixSensing(6, init=0.3, seed=seed) for seed in range(3)])
        optimizer = LabelNoiseSGD(nets.parameters(), lr=0.01, noise=std, seed=[0, 1, 2])
        options = {"batch_size": 4, "anneal": Anneal(1000, "noise")} if std else {}
        for _ in descend(nets, optimizer, rows, squared_loss, 2000 if std else 400, **options):
            pass
        found = torch.stack([nets.replica(r).matrix.detach() for r in range(3)])
        errors[std] = (found - truth).norm(dim=(1, 2))
    assert bool((errors[2.0] < errors[0.0] / 1.5).all()), errors


def test_the_figure_shows_the_mean_and_one_standard_deviation():
    values = np.array([[1.0, 3.0], [2.0, 6.0]])
    figure = figures.arms([figures.Panel("error", {"noise": ([1, 10], values)}, mark=5.0, mark_label="here")])
    (ax,) = figure.axes
    assert ax.lines[0].get_ydata().tolist() == [2.0, 4.0]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((2 - 2**0.5, 4 + 8**0.5))
    assert ax.lines[1].get_xdata() == [5.0, 5.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["noise", "here"]


@pytest.mark.parametrize(("values", "text"), [([2.0, 4.0], "3 ± 1.4"), ([0.001], "0.001 ± 0")])
def test_a_cell_of_the_table(values, text):
    assert pm(values) == text
