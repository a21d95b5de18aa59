"""The fused engine against its slow twin, and against itself cut into pieces."""

from __future__ import annotations

import copy
import os
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from lntrain import (
    Antithetic,
    ColumnSpaceNoise,
    DiagonalLinear,
    GaussianNoise,
    LabelNoiseSGD,
    Problem,
    RademacherNoise,
    sparse_regression,
    train,
)
from lntrain.engine import Path, choose, choose_path, cpu, cuda, lanes, loop, panels, paths, single_row, threads
from lntrain.noise.labels import NoNoise
from lntrain.noise.schedules import Cosine, PowerDecay
from lntrain.training.loop import _begin

MODELS = {
    "difference": {"parametrisation": "difference"},
    "square": {"parametrisation": "square"},
    "hadamard": {"parametrisation": "hadamard"},
    "depth3": {"parametrisation": "difference", "depth": 3},
}
BATCHES = {
    "full": (None, None), "replacement": (3, "replacement"), "one": (1, "replacement"),
    "without": (5, "without"), "shuffle": (3, "shuffle"), "noisy_rows": (2, "noisy_rows"),
}  # fmt: skip
OPTIMIZERS = {
    "plain": {},
    "momentum": {"momentum": 0.7},
    "dampening": {"momentum": 0.7, "dampening": 0.3, "weight_decay": 0.01},
    "nesterov": {"momentum": 0.7, "nesterov": True, "weight_decay": 0.01},
}
NOISES = {
    "gaussian": GaussianNoise(0.5),
    "rademacher": RademacherNoise(0.5, schedule=PowerDecay(1.0, 50)),
    "antithetic": Antithetic(GaussianNoise(0.5, schedule=PowerDecay(1.0, 50))),
    "none": NoNoise(),
}
# rows of the default suite; the slow one takes all
SOME = [(m, b, o, x) for k, (m, b) in enumerate((m, b) for m in MODELS for b in BATCHES)
        for o, x in [(list(OPTIMIZERS)[k % 4], list(NOISES)[k // 2 % len(NOISES)])]]  # fmt: skip
ALL = [(m, b, o, x) for m in MODELS for b in BATCHES for o in OPTIMIZERS for x in NOISES]
FACTORS = (MODELS, BATCHES, OPTIMIZERS, NOISES)
# a quarter in which each two values meet takes 10^4 steps; LNTRAIN_LONG=1 gives them to all, in ten minutes more
LONG = {case for case in ALL if sum(list(f).index(name) for f, name in zip(FACTORS, case, strict=True)) % 4 == 0}


def make(model="difference", batch="full", optimizer="plain", noise="gaussian", *, dtype=torch.float64, n=12, d=21,
         replicas=None, schedule=None, init=0.3, device="cpu", **options):  # fmt: skip
    """A run; d is no multiple of the vector, n none of the block of rows."""
    problem = sparse_regression(n=n, d=d, k=2, noise=0.1, seed=3).to(dtype).to(device)
    net = DiagonalLinear(d, init=init, replicas=replicas, dtype=dtype, device=device, **MODELS[model])
    settings = {"lr": 0.005, "noise": NOISES.get(noise, noise), "seed": 1, **OPTIMIZERS[optimizer], **options}
    return _begin(net, LabelNoiseSGD(net.parameters(), **settings), problem, *BATCHES[batch], 0.5, schedule)


def both(steps, *case, engine=cpu, path=None, **options):
    """The run by the loop and by the fused engine, there by a path that is named."""
    runs = make(*case, **options), make(*case, **options)
    loop.advance(runs[0], steps)
    engine.advance(runs[1], steps, *([] if path is None else [path]))
    return runs


def state_of(run):
    group = run.optimizer.param_groups[0]
    tensors = {**run.sums, **dict(run.model.named_parameters())}
    for name, w in run.model.named_parameters():
        if "momentum_buffer" in run.optimizer.state[w]:
            tensors[f"buffer_{name}"] = run.optimizer.state[w]["momentum_buffer"]
    tensors = {name: value.detach().clone() for name, value in tensors.items()}
    return tensors, {name: group[name] for name in ("lr", "noise_step", "noise_draw")} | {"step": run.step}


def assert_same(one, other, tolerance=0.0):
    (tensors, numbers), (others, other_numbers) = state_of(one), state_of(other)
    assert tensors.keys() == others.keys()
    assert numbers == other_numbers
    for name, value in tensors.items():
        # antithetic noise sums to 0, and what is left is the rounding of its terms, which are of order 1
        scale = max(float(value.abs().max()), 1e-2)
        torch.testing.assert_close(others[name], value, rtol=tolerance, atol=tolerance * scale, msg=name)


def assert_trajectories_agree(case, steps, engine=cpu):
    reference, fused = both(steps, *case, engine=engine)
    assert_same(reference, fused, 1e-10)
    coef, seen = reference.coef, reference.coef.abs() > 1e-200
    assert bool(seen.any())
    assert float(((fused.coef - coef).abs() / coef.abs())[seen].max()) <= 1e-10


@pytest.mark.parametrize("case", SOME, ids="-".join)
def test_fused_follows_the_loop(case):
    assert_trajectories_agree(case, 600)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids="-".join)
def test_fused_follows_the_loop_for_long(case):
    assert_trajectories_agree(case, 10_000 if case in LONG or os.environ.get("LNTRAIN_LONG") else 1500)


def assert_means_agree_in_float32(case, steps):
    reference, fused = both(steps, *case, dtype=torch.float32)
    error = (fused.mean("coef") - reference.mean("coef")).norm() / reference.mean("coef").norm()
    assert float(error) <= 1e-3


@pytest.mark.parametrize("batch", ["full", "one"])
def test_float32_agrees_in_the_mean(batch):
    assert_means_agree_in_float32(("difference", batch), 3000)


@pytest.mark.slow
@pytest.mark.parametrize("case", SOME, ids="-".join)
def test_float32_agrees_in_the_mean_for_long(case):
    assert_means_agree_in_float32(case, 10_000)


def test_long_rows_and_large_problems_follow_the_loop():
    """Beyond the second cache X is read in place, through other passes; then rows one by one."""
    for n, d in ((37, 6001), (3, 100_003)):
        reference, fused = both(20, n=n, d=d, dtype=torch.float64, lr=1e-7)
        assert_same(reference, fused, 1e-10)


# (n, d, vectors of a panel in float64): one panel or several, 16, 8 and 4 rows at a time, the last one not full
PANELS = ((40, 60, 8), (13, 300, 8), (29, 61, 8), (101, 95, 4), (3, 9, 2), (2, 2, 1))


@pytest.mark.parametrize(("n", "d", "width"), PANELS)
@pytest.mark.parametrize("model", ["difference", "square", "hadamard"])
def test_panels_follow_the_loop(model, n, d, width):
    assert panels.width(n, d, 8) == width
    for noise in ("gaussian", "antithetic"):
        assert_same(*both(300, model, noise=noise, n=n, d=d, lr=1e-3), 1e-10)


GRAM = (  # R in one panel, in several that are not full, and by rows
    ("difference", 90, 21),
    ("square", 600, 130),
    ("hadamard", 850, 2),
    ("difference", 1300, 300),
)


@pytest.mark.parametrize(("model", "n", "d"), GRAM)
def test_the_gram_path_follows_the_loop(model, n, d):
    """R of X = Q R for X, the labels' noise projected; its sum over the labels is the same."""
    for noise in ("gaussian", "antithetic", "rademacher", "none"):
        reference, fused = both(100, model, noise=noise, n=n, d=d, lr=1e-3, schedule=Cosine(900))
        assert choose_path(fused) == Path.GRAM
        assert_same(reference, fused, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gram_path_leaves_no_trace_of_chunks_and_replicas(dtype):
    whole, cut = (make(n=90, noise="antithetic", replicas=9, dtype=dtype) for _ in range(2))
    cpu.advance(whole, 1100)
    for stop in (1, 7, 255, 256, 640, 1100):
        cpu.advance(cut, stop)
    assert_same(whole, cut)
    alone = make(n=90, noise="antithetic", dtype=dtype, rank=1)
    cpu.advance(alone, 1100)
    assert torch.equal(alone.coef, whole.coef[1])
    assert torch.equal(alone.mean("noise"), whole.mean("noise")[1])


def test_the_gram_path_sees_another_x_and_takes_columns_that_depend_on_each_other():
    runs = make(n=90), make(n=90)
    for run, engine in zip(runs, (loop, cpu), strict=True):
        run.X[:, 3] = run.X[:, 4]  # then R is singular
        engine.advance(run, 5)
        run.X.mul_(0.5)
        engine.advance(run, 10)
    assert_same(*runs, 1e-10)


def in_columns(*case, n=90, d=21, std=0.5, noise_schedule=None, paired=False, **options):
    """A run whose noise is drawn in the directions of X's columns."""
    X = sparse_regression(n=n, d=d, k=2, noise=0.1, seed=3).X  # of make's problem
    noise = ColumnSpaceNoise(std, noise_schedule, X=X.to(options.get("dtype", torch.float64)))
    model, batch, optimizer = (*case, *("difference", "full", "plain")[len(case) :])
    return make(model, batch, optimizer, Antithetic(noise) if paired else noise, n=n, d=d, **options)


IN_COLUMNS = (  # B in one panel, in several that are not full, by rows; momentum, depth; n <= d, where B is X
    ("difference", "plain", 90, 21), ("square", "plain", 600, 130), ("hadamard", "plain", 25, 21),
    ("difference", "plain", 1300, 300), ("depth3", "dampening", 90, 21), ("hadamard", "nesterov", 90, 21),
    ("difference", "plain", 12, 21),
)  # fmt: skip


@pytest.mark.parametrize(("model", "optimizer", "n", "d"), IN_COLUMNS)
def test_noise_in_the_columns_directions_follows_the_loop(model, optimizer, n, d):
    for paired in (False, True):
        options = {"noise_schedule": PowerDecay(1.0, 50), "schedule": Cosine(900), "lr": 1e-3, "paired": paired}
        reference, fused = (in_columns(model, "full", optimizer, n=n, d=d, **options) for _ in range(2))
        assert choose_path(fused) == Path.GRAM
        loop.advance(reference, 100)
        cpu.advance(fused, 100)
        assert_same(reference, fused, 1e-10)
        torch.testing.assert_close(fused.mean("noise"), reference.mean("noise"), rtol=1e-10, atol=1e-12)


def test_noise_in_the_columns_directions_is_that_of_as_many_labels():
    """The run on B = Q' X and Q' y, d labels with noise of their own, bit for bit: n = 4 d halves the loss twice."""
    run = in_columns(n=84)
    B, y = (torch.from_numpy(run.column_space.coordinates(values)) for values in (run.X, run.X @ run.X[0]))
    run.y.copy_(run.X @ run.X[0])
    model = DiagonalLinear(21, init=0.3)
    twin = _begin(
        model, LabelNoiseSGD(model.parameters(), lr=0.005, noise=0.5, seed=1), Problem(B, y), None, None, 0.125, None
    )
    cpu.advance(run, 600)
    cpu.advance(twin, 600)
    assert torch.equal(run.coef, twin.coef)
    assert torch.equal(run.sums["noise_total"], twin.sums["noise_total"])


def test_the_mean_noise_of_the_labels_is_the_mean_of_what_was_added():
    run = in_columns()
    cpu.advance(run, 300)
    added = 0.5 * run.noise.unit(1, 0, 0, 300, 90)
    np.testing.assert_allclose(run.mean("noise").numpy(), added.mean(0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("optimizer", ["plain", "nesterov"])
def test_noise_in_the_columns_directions_leaves_no_trace_of_chunks_and_replicas(optimizer, dtype):
    """Nine replicas of two levels, which would fill a vector's lanes."""
    stds = (0.5, 0.7) + (0.5,) * 7
    whole, cut = (in_columns("difference", "full", optimizer, std=stds, replicas=9, dtype=dtype) for _ in range(2))
    cpu.advance(whole, 1100)
    for stop in (1, 7, 255, 256, 640, 1100):
        cpu.advance(cut, stop)
    assert_same(whole, cut)
    alone = in_columns("difference", "full", optimizer, std=0.7, dtype=dtype, rank=1)
    cpu.advance(alone, 1100)
    for name in ("coef", "noise"):
        assert torch.equal(alone.mean(name), whole.mean(name)[1])
    assert torch.equal(alone.coef, whole.coef[1])


def test_engines_hand_noise_in_the_columns_directions_over():
    reference, mixed = in_columns(paired=True), in_columns(paired=True)
    loop.advance(reference, 400)
    for stop, engine in ((150, loop), (333, cpu), (400, loop)):
        engine.advance(mixed, stop)
    assert_same(reference, mixed, 1e-10)


def test_noise_in_the_columns_directions_sees_another_x():
    """A scaled one; where its columns have left the space of the noise, nothing is trained."""
    runs = in_columns(), in_columns()
    for run, engine in zip(runs, (loop, cpu), strict=True):
        engine.advance(run, 5)
        run.X.mul_(0.5)
        engine.advance(run, 10)
    assert_same(*runs, 1e-10)
    runs[1].X[3, 4] += 1
    with pytest.raises(ValueError, match="another X"):
        cpu.advance(runs[1], 11)
    assert runs[1].step == 10


def _of_stream(noise, state=None, steps=600):
    problem = sparse_regression(n=90, d=21, k=2, noise=0.1, seed=3)
    model = DiagonalLinear(21, replicas=2)
    noise = ColumnSpaceNoise(noise, X=problem.X) if isinstance(noise, float) else noise
    optimizer = LabelNoiseSGD(model.parameters(), lr=0.005, noise=noise, seed=4)
    return list(train(model, optimizer, problem, steps, snapshots=[333], state=state))


def test_a_state_of_the_other_stream_is_refused_and_a_resume_is_bit_equal():
    middle, last = (shot for shot in _of_stream(0.5) if shot.scheduled)
    *_, again = _of_stream(0.5, middle.state_dict())
    for name in ("coef", "mean_coef", "mean_noise", "tail_noise", "loss"):
        assert torch.equal(getattr(again, name), getattr(last, name)), name
    labels = GaussianNoise(0.5)
    *_, other = _of_stream(labels)
    former = {key: value for key, value in other.state_dict().items() if key != "stream"}  # of a release before
    assert _of_stream(labels, former, 700)[-1].step == 700
    for state in (former, other.state_dict()):
        with pytest.raises(ValueError, match="stream='gram' differs from the state's 'labels': go on with the same"):
            _of_stream(0.5, state)
    with pytest.raises(ValueError, match="stream='labels' differs from the state's 'gram'"):
        _of_stream(labels, middle.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_panels_and_rows_by_rows_are_one_trajectory(dtype):
    """The plain pass over rows, which large X take, on the same problem; and chunks leave no trace in it either."""
    runs = [make(n=37, d=70, dtype=dtype) for _ in range(3)]
    assert choose_path(runs[0]) == Path.PANELS
    cpu.advance(runs[0], 700)
    cpu.advance(runs[1], 700, Path.WHOLE_BATCH)
    for stop in (1, 100, 256, 300, 700):
        cpu.advance(runs[2], stop, Path.WHOLE_BATCH)
    assert_same(runs[1], runs[0], 1e-10 if dtype == torch.float64 else 1e-4)
    assert_same(runs[1], runs[2])


@pytest.mark.parametrize("model", ["difference", "square", "hadamard"])
@pytest.mark.parametrize(("d", "width"), [(72, 9), (73, 0)])
def test_single_rows_follow_the_loop(model, d, width):
    """Weights in registers, or in memory."""
    assert single_row.width(d, 8) == width
    reference, fused = both(300, model, "one", d=d, lr=1e-3)
    assert_same(reference, fused, 1e-10)


@pytest.mark.parametrize("model", ["difference", "square", "hadamard"])
def test_single_rows_of_a_large_x_follow_the_loop(model):
    """It is read where it is, its rows without padding, and chunks leave no trace."""
    reference, fused = both(300, model, "one", n=850, d=301, lr=1e-3)
    assert not paths.copied(fused.X)
    cut = make(model, "one", n=850, d=301, lr=1e-3)
    for stop in (1, 2, 100, 257, 300):
        cpu.advance(cut, stop)
    assert_same(reference, fused, 1e-10)
    assert_same(fused, cut)


def test_replicas_share_rows_that_the_cache_holds():
    """Rows split over threads, of a length of which a few fill SHARED_BYTES."""
    d = threads.SHARED_BYTES // 64 + 3
    assert_same(*both(4, n=150, d=d, replicas=2, lr=1e-7, path=Path.THREADS), 1e-10)


@pytest.mark.parametrize("case", SOME, ids="-".join)
def test_rows_split_over_threads_follow_the_loop(case):
    reference, fused = both(300, *case, n=37, path=Path.THREADS)
    assert_same(reference, fused, 1e-10)


@pytest.mark.parametrize("batch", ["full", "shuffle"])
def test_rows_split_over_threads_leave_no_trace(batch):
    """Of the number of threads, of chunks, and of other replicas."""
    runs = [make(batch=batch, n=69, replicas=2, optimizer="momentum", dtype=torch.float32) for _ in range(2)]
    torch.set_num_threads(1)  # conftest puts it back
    cpu.advance(runs[0], 300, Path.THREADS)
    torch.set_num_threads(2)
    for stop in (1, 2, 77, 256, 300):
        cpu.advance(runs[1], stop, Path.THREADS)
    assert_same(*runs)
    alone = make(batch=batch, n=69, optimizer="momentum", dtype=torch.float32, rank=1)
    cpu.advance(alone, 300, Path.THREADS)
    assert torch.equal(alone.coef, runs[0].coef[1])
    assert torch.equal(alone.mean("coef"), runs[0].mean("coef")[1])


@pytest.mark.parametrize("case", SOME, ids="-".join)
def test_steps_for_a_gpu_follow_the_loop(case):
    """The operations that a graph captures, on the CPU and without one."""
    assert_trajectories_agree(case, 600, engine=cuda)


@pytest.mark.parametrize("batch", list(BATCHES))
def test_steps_for_a_gpu_leave_no_trace_of_chunks(batch):
    whole, cut = (make("difference", batch, "dampening", "antithetic", schedule=Cosine(900)) for _ in range(2))
    cuda.advance(whole, 600)
    for stop in (1, 2, 255, 256, 257, 600):
        cuda.advance(cut, stop)
    assert_same(whole, cut)


@pytest.mark.parametrize("batch", ["full", "replacement", "noisy_rows"])
def test_steps_for_a_gpu_take_replicas_at_once(batch):
    options = {"replicas": 3, "lr": (0.001, 0.003, 0.005), "noise": GaussianNoise((0.0, 0.5, 1.0)), "seed": (4, 5, 6)}
    assert_same(*both(500, "hadamard", batch, "momentum", engine=cuda, **options), 1e-10)


@pytest.mark.parametrize("engine", [cpu, cuda])
def test_options_changed_between_calls_count(engine):
    reference, fused = make(), make()
    for run, advance in ((reference, loop.advance), (fused, engine.advance)):
        advance(run, 100)
        run.optimizer.param_groups[0].update(lr=0.002, momentum=0.9, weight_decay=0.01)
        advance(run, 400)
    assert_same(reference, fused, 1e-10)


def test_a_graph_is_captured_once_and_replayed(monkeypatch):
    """Warming up and capturing leave no trace, in the middle of a run with momentum either."""
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(cuda, "captures", lambda tensor: True)
    plain, graphed = make(optimizer="nesterov"), make(optimizer="nesterov")
    loop.advance(plain, 300)
    for stop in (100, 300):
        cuda.advance(graphed, stop)
        torch.cuda.CUDAGraph.assert_called_once()
    # a mocked graph replays nothing: the run stands where it began, but for its counts
    fresh = make(optimizer="nesterov")
    assert torch.equal(graphed.coef, fresh.coef)
    assert torch.cuda.CUDAGraph.return_value.replay.call_count == 300
    assert graphed.step == plain.step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the captured graph was NOT run here")
@pytest.mark.parametrize("case", SOME, ids="-".join)
def test_the_graph_on_a_gpu_follows_the_loop(case):
    reference, fused = make(*case), make(*case, device="cuda")
    loop.advance(reference, 600)
    assert choose("fused", fused)[1] is cuda.advance
    cuda.advance(fused, 600)
    torch.testing.assert_close(fused.mean("coef").cpu(), reference.mean("coef"), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(fused.coef.cpu(), reference.coef, rtol=1e-10, atol=1e-14)


def test_learning_rate_schedule():
    assert_same(*both(600, "hadamard", "one", "momentum", schedule=Cosine(500, final=0.1)), 1e-10)


def test_plain_torch_sgd_has_no_noise_and_no_counters():
    problem = sparse_regression(n=12, d=21, k=2, seed=3)
    coefs = []
    for engine in ("torch", "fused"):
        model = DiagonalLinear(21)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        *_, last = train(model, optimizer, problem, 300, batch_size=2, engine=engine, snapshots=[300])
        coefs.append(last.coef)
        assert "noise_step" not in optimizer.param_groups[0]
    torch.testing.assert_close(coefs[1], coefs[0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", list(BATCHES))
@pytest.mark.parametrize("noise", ["gaussian", "antithetic"])
def test_chunks_leave_no_trace(dtype, batch, noise):
    optimizer = "nesterov" if noise == "antithetic" else "plain"
    whole, cut = (make("difference", batch, optimizer, noise, dtype=dtype, schedule=Cosine(900)) for _ in range(2))
    cpu.advance(whole, 1100)
    for stop in (1, 2, 5, 7, 100, 255, 256, 257, 511, 700, 1100):
        cpu.advance(cut, stop)
    assert_same(whole, cut)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("model", ["difference", "square", "hadamard"])
def test_replicas_in_lanes_are_the_runs_alone(model, noise, dtype):
    """A vector of them and three more, which run alone: lr, std, seed and init of their own, n and d of no multiple."""
    torch.set_num_threads(1)  # conftest puts it back; more threads than vectors would take each replica alone
    width = lanes.count(dtype.itemsize)
    own = torch.arange(1, width + 4, dtype=dtype)
    kinds = {"rademacher": RademacherNoise, "none": lambda *_, **__: NoNoise()}
    stds = (0.3 * own).tolist()
    drawn = kinds.get(noise, GaussianNoise)(stds, schedule=PowerDecay(1.0, 50))
    drawn = Antithetic(drawn) if noise == "antithetic" else drawn
    options = {"n": 29, "d": 61, "dtype": dtype, "schedule": Cosine(1000)}
    rates, seeds = (0.0005 * own).tolist(), [int(r) + 3 for r in own]
    many = make(model, replicas=width + 3, lr=rates, noise=drawn, seed=seeds, init=0.05 * own, **options)
    assert paths.in_lanes(many, 1) == width
    cpu.advance(many, 300)
    for r in (0, 1, width - 1, width, width + 2):
        single = kinds.get(noise, GaussianNoise)(stds[r], schedule=PowerDecay(1.0, 50))
        single = Antithetic(single) if noise == "antithetic" else single
        alone = make(model, lr=rates[r], noise=single, seed=seeds[r], init=float(0.05 * own[r]), **options)
        (loop if dtype is torch.float64 else cpu).advance(alone, 300)
        tolerance = 1e-10 if dtype is torch.float64 else 1e-4
        for name in ("coef", "noise"):
            found, wanted = many.mean(name)[r], alone.mean(name)
            assert float((found - wanted).norm()) <= tolerance * max(float(wanted.norm()), 1e-2), name
        assert float((many.coef[r] - alone.coef).norm()) <= tolerance * float(alone.coef.norm())


def test_replicas_in_lanes_leave_no_trace_of_chunks_and_threads():
    """Bit-equal, whole blocks or not; momentum, batches and few replicas take other ways."""
    whole, cut, other = (make(replicas=19, noise="antithetic") for _ in range(3))
    torch.set_num_threads(1)  # conftest puts it back
    cpu.advance(whole, 1100)
    for stop in (1, 7, 255, 256, 640, 1100):
        cpu.advance(cut, stop)
    assert_same(whole, cut)
    torch.set_num_threads(2)
    assert paths.in_lanes(other, 2) == 16
    cpu.advance(other, 1100)
    assert_same(whole, other)
    assert paths.in_lanes(make(replicas=15), 2) == 0  # two threads have more to gain from each replica alone
    assert paths.in_lanes(make(optimizer="momentum", replicas=16), 2) == 0
    assert paths.in_lanes(make(batch="one", replicas=16), 2) == 0


def test_lanes_see_another_x():
    torch.set_num_threads(1)  # conftest puts it back
    runs = make(replicas=8), make(replicas=8)
    assert choose_path(runs[1]) == Path.LANES
    for run, engine in zip(runs, (loop, cpu), strict=True):
        engine.advance(run, 5)
        run.X.mul_(0.5)
        engine.advance(run, 10)
    assert_same(*runs, 1e-10)


def test_lanes_run_under_inference_mode():
    """Its tensors count no versions."""
    torch.set_num_threads(1)  # conftest puts it back
    with torch.inference_mode():
        run = make(replicas=8)
        assert choose_path(run) == Path.LANES
        cpu.advance(run, 5)
        run.X.mul_(0.5)
        cpu.advance(run, 10)
    other = make(replicas=8)
    cpu.advance(other, 5)
    other.X.mul_(0.5)
    cpu.advance(other, 10)
    assert torch.equal(run.coef, other.coef)


def test_resume_is_bit_equal():
    def fresh():
        model = DiagonalLinear(21, replicas=2)
        noise = Antithetic(GaussianNoise(0.5))
        return model, LabelNoiseSGD(model.parameters(), lr=0.005, noise=noise, momentum=0.5, seed=4)

    problem = sparse_regression(n=12, d=21, k=2, seed=3)
    options = {"batch_size": 3, "engine": "fused", "snapshots": [333, 1000]}
    middle, last = (s for s in train(*fresh(), problem, 1000, **options) if s.scheduled)
    *_, again = train(*fresh(), problem, 1000, state=middle.state_dict(), **options)
    for name in ("coef", "mean_coef", "mean_noise", "log_weights", "loss"):
        assert torch.equal(getattr(again, name), getattr(last, name)), name


@pytest.mark.parametrize("batch", ["full", "replacement", "shuffle"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_replica_equals_the_same_run_alone(batch, threads):
    """lr, std, seed and init each a vector; bit-equal, for these lr are exact multiples of one another."""
    rates, stds, seeds, scales = (0.002, 0.008), (0.0, 0.7), (5, 9), (0.1, 0.4)
    torch.set_num_threads(threads)  # conftest puts it back
    many = make(
        "hadamard",
        batch,
        replicas=2,
        lr=rates,
        noise=GaussianNoise(stds),
        seed=seeds,
        init=torch.tensor(scales, dtype=torch.float64),
    )
    cpu.advance(many, 700)
    for r in range(2):
        alone = make("hadamard", batch, lr=rates[r], noise=GaussianNoise(stds[r]), seed=seeds[r], init=scales[r])
        cpu.advance(alone, 700)
        assert torch.equal(many.coef[r], alone.coef)
        assert torch.equal(many.mean("coef")[r], alone.mean("coef"))
        assert torch.equal(many.mean("noise")[r], alone.mean("noise"))


def test_one_seed_gives_replicas_streams_of_their_own():
    many = make(replicas=3)
    cpu.advance(many, 300)
    alone = make(rank=2)
    cpu.advance(alone, 300)
    assert torch.equal(many.coef[2], alone.coef)
    assert not torch.equal(many.coef[1], alone.coef)


def test_replicas_follow_the_loop():
    assert_same(*both(500, "difference", "replacement", "momentum", replicas=3, lr=(0.001, 0.003, 0.005)), 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decaying_weights_stop_at_the_floor_and_above_denormals(dtype):
    """With strong noise all weights decay; at denormals a step would take ten times as long."""
    run, number = make(noise=GaussianNoise(20.0), dtype=dtype, lr=0.003), torch.finfo(dtype)
    floor = paths.FLOOR[dtype] ** 0.5
    for stop in range(200_000, 1_000_001, 200_000):
        cpu.advance(run, stop)
        lowest = min(float(w.detach().abs().min()) for w in run.model.weights)
        assert 0.01 * floor < lowest < 100 * floor  # it was reached, and held
        assert lowest**2 * number.eps > number.tiny  # of the least coefficient the last bit is no denormal either
    assert bool(torch.isfinite(run.mean("coef")).all())


def test_divergence_shows():
    run = make(lr=5.0)
    cpu.advance(run, 2000)
    assert not all(bool(torch.isfinite(w).all()) for w in run.model.parameters())


def test_numbers_drawn_are_the_streams_bit_for_bit():
    """numba hands a caller's fastmath down to what it calls: the normals would change in their last bit."""
    run = make(noise=GaussianNoise(1.0))
    cpu.advance(run, 1)
    assert np.array_equal(run.mean("noise").numpy(), GaussianNoise(1.0).unit(1, 0, 0, 1, 12)[0])


def _module():
    run = make()
    run.model = torch.nn.Linear(21, 1)
    return run


def _adagrad():
    run = make()
    run.optimizer = torch.optim.Adagrad(run.model.parameters())
    return run


def _groups():
    run = make()
    run.optimizer = torch.optim.SGD([{"params": [w]} for w in run.model.weights], lr=0.1)
    return run


def _half():
    run = make()
    run.X = run.X.half()
    return run


def _hook():
    run = make()
    run.optimizer.register_step_pre_hook(lambda *_: None)
    return run


def _subclass():
    run = make()
    run.model.__class__ = type("Mine", (DiagonalLinear,), {})
    return run


REFUSED = {
    "Linear": _module, "Adagrad": _adagrad, "one group": _groups, "float16": _half, "hooks": _hook, "Mine": _subclass,
    "maximize": lambda: make(maximize=True), "differentiable": lambda: make(differentiable=True),
}  # fmt: skip


@pytest.mark.parametrize("word", list(REFUSED))
def test_fused_says_what_it_cannot_run_and_auto_falls_back(word):
    run = REFUSED[word]()
    with pytest.raises(ValueError, match=rf'engine="fused".*{word}.*engine="torch"'):
        choose("fused", run)
    assert choose("auto", run) == ("torch", loop.advance)


def test_auto_takes_the_fused_engine():
    assert choose("auto", make()) == ("fused", cpu.advance)
    assert choose("torch", make()) == ("torch", loop.advance)


def test_engines_hand_over_to_each_other():
    """Part by one, part by the other: counters, buffers and sums carry over."""
    reference, mixed = make("difference", "shuffle", "momentum"), make("difference", "shuffle", "momentum")
    loop.advance(reference, 600)
    for stop, engine in ((150, loop), (333, cpu), (400, loop), (600, cpu)):
        engine.advance(mixed, stop)
    assert_same(reference, mixed, 1e-10)
    before = copy.deepcopy(state_of(mixed))
    cpu.advance(mixed, 600)  # nothing is left to do
    for name, value in state_of(mixed)[0].items():
        assert torch.equal(value, before[0][name])


UNFIT = {  # what is run -> a path that cannot, and the word that says why
    "momentum": ({"optimizer": "momentum"}, Path.PANELS, "plain"),
    "a batch": ({"batch": "one"}, Path.WHOLE_BATCH, "whole batch"),
    "all rows": ({}, Path.SINGLE_ROW, "one drawn row"),
    "three rows": ({"batch": "shuffle"}, Path.SINGLE_ROW, "one drawn row"),
    "many rows": ({"n": 400}, Path.PANELS, "first cache"),
    "seven replicas": ({"replicas": 7}, Path.LANES, "8 replicas"),
    "few rows": ({"n": 83}, Path.GRAM, "4 rows a column"),
    "a small X": ({"n": 30, "d": 7}, Path.GRAM, "1500 numbers"),
    "a dense X": ({}, Path.SPARSE, "dense"),
    "no GPU": ({}, Path.CUDA, "on the CPU"),
    "noise in the columns": ({"noise": ColumnSpaceNoise(1.0, X=sparse_regression(12, 21, 2, noise=0.1, seed=3).X)},
                             Path.PANELS, "gram alone"),
}  # fmt: skip


@pytest.mark.parametrize("shape", UNFIT)
def test_a_path_that_does_not_fit_is_refused_before_a_step(shape):
    options, path, word = UNFIT[shape]
    run = make(**options)
    with pytest.raises(ValueError, match=f'engine="{path}" cannot run this: .*{word}'):
        choose(str(path), run)
    with pytest.raises(ValueError, match=f"path='{path}' cannot run this: .*{word}"):
        cpu.advance(run, 5, path)
    assert run.step == 0


def test_a_path_is_an_engine_by_name():
    problem, coefs = sparse_regression(n=12, d=21, k=2, seed=3), []
    for engine in ("auto", "general", "whole_batch", "panels"):
        model = DiagonalLinear(21)
        optimizer = LabelNoiseSGD(model.parameters(), lr=0.01, noise=GaussianNoise(0.5))
        *_, last = train(model, optimizer, problem, 300, engine=engine, snapshots=[300])
        assert last.engine == "fused"
        coefs.append(last.coef)
    for coef in coefs[1:]:
        torch.testing.assert_close(coef, coefs[0], rtol=1e-10, atol=1e-14)
    with pytest.raises(ValueError, match=r"engine='fast' is unknown: choose one of auto.*lanes"):
        choose("fast", make())


SHAPES = {  # what is run -> its path on one thread, and on two
    "all rows": ({}, Path.PANELS, Path.PANELS),
    "all of many rows": ({"n": 160, "d": 41}, Path.WHOLE_BATCH, Path.WHOLE_BATCH),
    "four rows a column": ({"n": 84}, Path.GRAM, Path.GRAM),
    "four rows a column, many replicas": ({"n": 84, "replicas": 16}, Path.GRAM, Path.GRAM),
    "four rows a column, momentum": ({"n": 84, "optimizer": "momentum"}, Path.GENERAL, Path.GENERAL),
    "a large X of few columns": ({"n": 300_000, "d": 21}, Path.GRAM, Path.GRAM),
    "eight replicas": ({"replicas": 8}, Path.LANES, Path.PANELS),
    "sixteen replicas": ({"replicas": 16}, Path.LANES, Path.LANES),
    "seven replicas": ({"replicas": 7}, Path.PANELS, Path.PANELS),
    "one row": ({"batch": "one"}, Path.SINGLE_ROW, Path.SINGLE_ROW),
    "rows of an epoch": ({"batch": "shuffle"}, Path.GENERAL, Path.GENERAL),
    "momentum": ({"optimizer": "momentum"}, Path.GENERAL, Path.GENERAL),
    "momentum, eight replicas": ({"optimizer": "momentum", "replicas": 8}, Path.GENERAL, Path.GENERAL),
    "a large X": ({"n": 500, "d": 9000}, Path.THREADS, Path.THREADS),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_path_is_a_pure_function_of_shape_and_threads(shape):
    options, one, two = SHAPES[shape]
    run = make(**options)
    assert (choose_path(run, many=1), choose_path(run, many=2)) == (one, two)


@pytest.mark.parametrize("options", [{}, {"batch": "one"}, {"noise": "antithetic"}, {"model": "hadamard"}], ids=str)
def test_the_general_path_is_the_twin_of_the_leaner_ones(options):
    lean, general = make(**options), make(**options)
    assert choose_path(lean) != Path.GENERAL
    cpu.advance(lean, 600)
    cpu.advance(general, 600, Path.GENERAL)
    assert_same(lean, general, 1e-10)
