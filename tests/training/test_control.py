"""train: which snapshots come, heartbeats, divergence, any nn.Module and any optimiser, bad input."""

from __future__ import annotations

import contextlib
import importlib
import math

import pytest
import torch
from torch import nn

from lntrain import (
    Antithetic,
    DiagonalLinear,
    DivergenceError,
    GaussianNoise,
    LabelFlips,
    LabelNoiseSGD,
    RademacherNoise,
    sparse_regression,
    train,
)
from lntrain.noise.schedules import PowerDecay
from lntrain.theory.support import fallen

training = importlib.import_module("lntrain.training.loop")  # the package's own name `train` is the function


def _start(problem, lr=0.002, **options):
    model = DiagonalLinear(problem.d, init=0.3, replicas=options.pop("replicas", None))
    return model, LabelNoiseSGD(model.parameters(), lr=lr, **{"noise": 1.0, "seed": 5, **options})


def _steps(run):
    return [s.step for s in run if s.scheduled]


def test_snapshots_at_the_steps_asked_for_and_the_last(problem):
    assert _steps(train(*_start(problem), problem, 50, snapshots=[30, 3, 3, 70, 0])) == [3, 30, 50]
    assert _steps(train(*_start(problem), problem, 50, snapshots=[])) == [50]
    assert _steps(train(*_start(problem), problem, 1)) == [1]


@pytest.mark.parametrize("steps", [7, 1000, 1234])
def test_log_snapshots_are_four_an_octave(problem, steps):
    got = _steps(train(*_start(problem), problem, steps))
    assert got == sorted({int(steps * 2 ** (-k / 4)) for k in range(4 * 20)} - {0})


def test_earlier_log_weights_are_those_of_half_way(problem):
    record = {s.step: s for s in train(*_start(problem), problem, 400, snapshots=range(1, 401)) if s.scheduled}
    for step in (2, 10, 101, 400):
        snapshot = record[step]
        assert snapshot.earlier_step == step // 2
        assert torch.equal(snapshot.earlier_log_weights, record[step // 2].log_weights)
    *_, last = train(*_start(problem), problem, 400)
    assert torch.equal(last.earlier_log_weights, record[200].log_weights)
    assert fallen(last.log_weights, last.earlier_log_weights, 400, 200).shape == (problem.d,)


def test_heartbeats_come_and_do_not_change_the_trajectory(problem, monkeypatch):
    quiet = [s for s in train(*_start(problem), problem, 700, batch_size=3) if s.scheduled]
    monkeypatch.setattr(training, "HEARTBEAT", 0.0)
    everything = list(train(*_start(problem), problem, 700, batch_size=3, snapshots=[s.step for s in quiet]))
    beats = [s for s in everything if not s.scheduled]
    assert beats
    for a, b in zip(quiet, [s for s in everything if s.scheduled], strict=True):
        assert torch.equal(a.coef, b.coef)
        assert torch.equal(a.mean_coef, b.mean_coef)
        assert torch.equal(a.earlier_log_weights, b.earlier_log_weights)
    resumed = list(train(*_start(problem), problem, 700, batch_size=3, state=beats[0].state_dict()))
    assert torch.equal(resumed[-1].mean_coef, quiet[-1].mean_coef)
    assert torch.equal(resumed[-1].mean_noise, quiet[-1].mean_noise)


@pytest.mark.parametrize(
    ("noise", "options"), [(1.0, {}), (0.0, {}), (1.0, {"batch_size": 2})], ids=["full", "noiseless", "batches"]
)
@pytest.mark.parametrize("parametrisation", ["difference", "square", "hadamard"])
def test_divergence_is_one_line_with_step_lr_and_a_stable_lr(problem, parametrisation, noise, options):
    model = DiagonalLinear(problem.d, parametrisation=parametrisation)
    optimizer = LabelNoiseSGD(model.parameters(), lr=3.0, noise=noise)
    with pytest.raises(
        DivergenceError, match=r"diverged by step \d+ with lr=3: .* a stable lr .* at most [\d.e-]+"
    ) as error:
        list(train(model, optimizer, problem, 5000, **options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_the_stable_lr_that_the_message_names_is_stable_and_a_larger_one_is_not(problem, factor):
    with pytest.raises(DivergenceError) as error:
        list(train(*_start(problem, lr=3.0, noise=0.0), problem, 5000))
    named = float(str(error.value).split("at most ")[1].split(",")[0])
    run = train(*_start(problem, lr=factor * named, noise=0.0), problem, 5000)
    last = None
    with contextlib.suppress(DivergenceError):
        *_, last = run
    settled = last is not None and float(last.loss) < 0.1
    assert settled == (factor < 1)


def test_the_last_snapshot_before_a_divergence_is_good(problem):
    kept = []
    with pytest.raises(DivergenceError):
        kept.extend(train(*_start(problem, lr=3.0), problem, 5000))
    assert kept
    assert all(bool(torch.isfinite(s.coef).all()) for s in kept)


MODULES = {
    "linear": lambda d: nn.Linear(d, 1, bias=False).double(),
    "linear with bias": lambda d: nn.Linear(d, 1).double(),
    "mlp": lambda d: nn.Sequential(nn.Linear(d, 6), nn.Tanh(), nn.Linear(6, 1)).double(),
}


@pytest.mark.parametrize("kind", list(MODULES))
def test_any_module_trains_as_a_plain_loop_would(problem, kind):
    def start():
        torch.manual_seed(0)
        model = MODULES[kind](problem.d)
        return model, LabelNoiseSGD(model.parameters(), lr=0.01, noise=0.5, momentum=0.9, seed=3)

    model, optimizer = start()
    *_, last = train(model, optimizer, problem, 60)
    twin, again = start()
    for _ in range(60):
        again.zero_grad()
        loss = 0.5 * (twin(problem.X)[:, 0] - again.perturb(problem.y)).square().mean()
        loss.backward()
        again.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
    assert (last.coef is None) == (kind != "linear")
    if kind == "linear":
        assert torch.equal(last.coef, model.weight.detach()[0])
        assert last.mean_coef.shape == (problem.d,)
    assert last.log_weights is None


NOISES = [0.0, 1.0, Antithetic(GaussianNoise(1.0)), RademacherNoise(1.0), GaussianNoise(1.0, PowerDecay())]


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_auto_takes_the_fused_engine_where_it_can(problem, noise):
    """A silent fall back to the torch loop would cost a factor of a hundred and show nowhere else."""
    model, optimizer = _start(problem, noise=noise)
    last = list(train(model, optimizer, problem, 5))[-1]
    assert last.engine == "fused"
    again, other = _start(problem, noise=noise)
    assert list(train(again, other, problem, 9, state=last.state_dict()))[-1].engine == "fused"
    linear = MODULES["linear"](problem.d)
    assert list(train(linear, torch.optim.SGD(linear.parameters(), lr=0.01), problem, 5))[-1].engine == "torch"
    assert list(train(*_start(problem), problem, 5, engine="torch"))[-1].engine == "torch"


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_any_optimiser_trains_without_noise(problem, name):
    model = DiagonalLinear(problem.d, init=0.3)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)
    before = float(model(problem.X).detach().sub(problem.y).square().mean() / 2)
    *_, last = train(model, optimizer, problem, 500, batch_size=4)
    assert float(last.loss) < before / 5
    assert (last.std, bool((last.mean_noise == 0).all())) == (0.0, True)


def test_float32_stays_float32_and_its_sums_float64(problem):
    single = problem.to(torch.float32)
    model = DiagonalLinear(8, dtype=torch.float32, init=0.3)
    *_, last = train(model, LabelNoiseSGD(model.parameters(), lr=0.002, noise=1.0, seed=5), single, 300)
    *_, double = train(*_start(problem), problem, 300)
    assert (last.coef.dtype, last.mean_coef.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(last.mean_coef, double.mean_coef, rtol=1e-4, atol=1e-5)


def _bad(problem, call):
    model, optimizer = _start(problem)
    calls = {
        "dtype": lambda: train(model, optimizer, problem.to(torch.float32), 5),
        "width": lambda: train(DiagonalLinear(3), optimizer, problem, 5),
        "another's optimizer": lambda: train(DiagonalLinear(8), optimizer, problem, 5),
        "no steps": lambda: train(model, optimizer, problem, 0),
        "half a step": lambda: train(model, optimizer, problem, 2.5),
        "True steps": lambda: train(model, optimizer, problem, True),
        "batch_size": lambda: train(model, optimizer, problem, 5, batch_size=0),
        "sampling": lambda: train(model, optimizer, problem, 5, batch_size=2, sampling="some"),
        "loss_constant": lambda: train(model, optimizer, problem, 5, loss_constant=-1.0),
        "loss_constant nan": lambda: train(model, optimizer, problem, 5, loss_constant=math.nan),
        "engine": lambda: train(model, optimizer, problem, 5, engine="warp"),
        "snapshots": lambda: train(model, optimizer, problem, 5, snapshots="often"),
        "flips": lambda: train(model, LabelNoiseSGD(model.parameters(), noise=LabelFlips(0.1, 2)), problem, 5),
        "stds": lambda: train(model, LabelNoiseSGD(model.parameters(), noise=GaussianNoise((1.0, 2.0))), problem, 5),
        "lrs": lambda: train(model, LabelNoiseSGD(model.parameters(), lr=[0.1, 0.2]), problem, 5),
        "seeds": lambda: train(model, LabelNoiseSGD(model.parameters(), seed=[1, 2]), problem, 5),
        "state": lambda: train(model, optimizer, problem, 5, state={"step": 1}),
        "another state": lambda: train(model, optimizer, problem, 5, state={**_state(problem), "batch_size": 3}),
    }
    return calls[call]


def _state(problem):
    return list(train(*_start(problem), problem, 3))[-1].state_dict()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("dtype", r"model is torch.float64 .* problem torch.float32"),
        ("width", "in_features=3, the problem d=8"),
        ("another's optimizer", "optimizer holds none of the model's parameters"),
        ("no steps", "steps=0"),
        ("half a step", "steps=2.5"),
        ("True steps", "steps=True"),
        ("batch_size", "batch_size=0"),
        ("sampling", "sampling='some'"),
        ("loss_constant", "loss_constant=-1.0"),
        ("loss_constant nan", "loss_constant=nan"),
        ("engine", "engine='warp'"),
        ("snapshots", "snapshots='often'"),
        ("flips", "LabelFlips perturbs classes"),
        ("stds", "std holds 2 values"),
        ("lrs", "lr holds 2 values"),
        ("seeds", "seed holds 2 values"),
        ("state", "state lacks"),
        ("another state", "batch_size=12 differs from the state's 3"),
    ],
)
def test_bad_input_is_refused_at_the_call_not_at_the_first_step(problem, call, says):
    with pytest.raises(ValueError, match=says) as error:
        _bad(problem, call)()
    assert "\n" not in str(error.value)


KEPT = {"lanes": (None, 8), "panels": (None, 8), "whole_batch": (None, 8), "single_row": (1, 3), "general": (2, 3)}


def many(lrs, path, *, steps=400, state=None, diverged="keep"):
    problem = sparse_regression(n=12, d=21, k=2, seed=3)
    model = DiagonalLinear(21, init=0.3, replicas=len(lrs))
    optimizer = LabelNoiseSGD(model.parameters(), lr=lrs, noise=GaussianNoise(0.2), seed=list(range(len(lrs))))
    options = {"batch_size": KEPT[path][0], "engine": path, "snapshots": [100, 300], "state": state}
    return list(train(model, optimizer, problem, steps, diverged=diverged, **options))


@pytest.mark.parametrize("path", KEPT)
def test_a_replica_that_diverges_is_left_behind_and_the_others_go_on(path):
    tame = [0.004 + 0.001 * r for r in range(KEPT[path][1])]
    wild = [tame[0], 50.0, *tame[2:]]
    whole, kept = many(tame, path)[-1], many(wild, path)
    left = torch.arange(len(tame)) == 1
    assert torch.equal(kept[-1].coef.isnan().all(-1), left)
    assert torch.equal(kept[-1].tail_coef.isnan().all(-1), left)
    assert torch.equal(kept[-1].loss.isnan(), left)
    assert torch.allclose(kept[-1].coef[~left], whole.coef[~left], rtol=1e-9, atol=1e-12)
    middle = next(shot for shot in kept if shot.step == 300)
    resumed = many(wild, path, state=middle.state_dict())[-1]
    assert torch.equal(resumed.coef.isnan().all(-1), left)
    assert torch.allclose(resumed.mean_coef[~left], kept[-1].mean_coef[~left], rtol=1e-12)
    with pytest.raises(DivergenceError, match="diverged by step"):
        many(wild, path, diverged="stop")


def test_when_every_replica_diverges_the_run_stops():
    with pytest.raises(DivergenceError, match="diverged by step"):
        many([50.0, 60.0, 70.0], "general")


def test_a_single_model_that_diverges_cannot_be_kept():
    problem, model = sparse_regression(n=4, d=6, k=2), DiagonalLinear(6)
    for diverged in ("keep", "go on"):
        with pytest.raises(ValueError, match='give "stop", or "keep" for a model with replicas'):
            train(model, torch.optim.SGD(model.parameters(), lr=0.1), problem, 10, diverged=diverged)
