"""Adam, AdamW and RMSprop in compiled code, against torch's own steps and against themselves cut into pieces."""

from __future__ import annotations

import copy

import pytest
import torch

from lntrain import Antithetic, DiagonalLinear, GaussianNoise, LabelNoiseSGD, RademacherNoise, sparse_regression, train
from lntrain.engine import Path, choose, choose_path, cpu, loop, paths
from lntrain.noise.labels import NoNoise
from lntrain.noise.schedules import Cosine, PowerDecay
from lntrain.training.loop import _begin

Adam, AdamW, RMSprop = torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop
# mild ones: with beta2 below .95 an ulp grows to 1e-2 in 200 steps of torch's own loop as well
OPTIMISERS = {
    "adam": (Adam, {}),
    "adam decay": (Adam, {"betas": (0.9, 0.99), "weight_decay": 0.01, "eps": 1e-4}),
    "adamw": (AdamW, {"betas": (0.0, 0.99), "weight_decay": 0.1}),
    "adam decoupled": (Adam, {"decoupled_weight_decay": True, "weight_decay": 0.2, "foreach": True}),
    "rmsprop": (RMSprop, {"alpha": 0.999}),
    "rmsprop decay": (RMSprop, {"alpha": 0.9, "weight_decay": 0.01}),
}
MODELS = {
    "difference": {},
    "square": {"parametrisation": "square"},
    "hadamard": {"parametrisation": "hadamard"},
    "depth3": {"depth": 3},
}
BATCHES = {"full": (None, None), "one": (1, "replacement"), "shuffle": (3, "shuffle"), "noisy_rows": (2, "noisy_rows")}
NOISES = {
    "gaussian": GaussianNoise(0.5),
    "rademacher": RademacherNoise(0.5, schedule=PowerDecay(1.0, 50)),
    "antithetic": Antithetic(GaussianNoise(0.5)),
    "none": NoNoise(),
}
SOME = [  # each optimiser with each model; each batch and noise among them
    (o, m, list(BATCHES)[(i + k) % 4], list(NOISES)[(i + k // 2) % 4])
    for i, o in enumerate(OPTIMISERS)
    for k, m in enumerate(MODELS)
]


def make(optimiser="adam", model="difference", batch="full", noise="gaussian", *, seed=1, dtype=torch.float64, n=12,
         d=21, init=0.3, replicas=None, schedule=None, **options):  # fmt: skip
    """A run; d is no multiple of the vector, n none of the block of rows."""
    problem = sparse_regression(n=n, d=d, k=2, noise=0.1, seed=3).to(dtype)
    net = DiagonalLinear(d, init=init, replicas=replicas, dtype=dtype, **MODELS[model])
    kind, own = OPTIMISERS[optimiser]
    run = _begin(net, kind(net.parameters(), **{"lr": 0.01, **own, **options}), problem, *BATCHES[batch], 0.5, schedule)
    run.carry(NOISES.get(noise, noise), seed)
    return run


def state_of(run):
    kept = {f"{k}.{name}": v for k, held in run.optimizer.state_dict()["state"].items() for name, v in held.items()}
    return {**run.sums, **dict(run.model.named_parameters()), **kept}


def assert_same(one, other, tolerance=0.0):
    """Weights, sums and all that torch's optimiser keeps, by its names and in its order."""
    assert (one.step, one.optimizer.param_groups[0]["lr"]) == (other.step, other.optimizer.param_groups[0]["lr"])
    tensors, others = state_of(one), state_of(other)
    assert list(tensors) == list(others)
    for name, value in tensors.items():
        assert value.dtype == others[name].dtype
        limit = tolerance * max(float(value.detach().abs().max()), 1e-2)
        torch.testing.assert_close(others[name], value, rtol=tolerance, atol=limit, msg=name)


@pytest.mark.parametrize("case", SOME, ids="-".join)
def test_the_fused_steps_are_torchs(case):
    runs = make(*case, schedule=Cosine(500, final=0.1)), make(*case, schedule=Cosine(500, final=0.1))
    assert choose("auto", runs[1]) == ("fused", cpu.advance)
    loop.advance(runs[0], 300)
    cpu.advance(runs[1], 300)
    assert_same(*runs, 1e-10)


@pytest.mark.parametrize("batch", ["full", "one"])
def test_float32_agrees(batch):
    runs = make("adam", batch=batch, dtype=torch.float32), make("adam", batch=batch, dtype=torch.float32)
    loop.advance(runs[0], 100)
    cpu.advance(runs[1], 100)
    assert_same(*runs, 1e-4)


def test_an_x_that_is_read_in_place():
    runs = make(n=40, d=6301, lr=1e-4), make(n=40, d=6301, lr=1e-4)
    assert not paths.copied(runs[0].X)
    loop.advance(runs[0], 5)
    cpu.advance(runs[1], 5)
    assert_same(*runs, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("optimiser", "batch"), [("adam", "full"), ("rmsprop", "one"), ("adamw", "shuffle")])
def test_chunks_leave_no_trace(optimiser, batch, dtype):
    whole, cut = (make(optimiser, "difference", batch, "antithetic", dtype=dtype) for _ in range(2))
    cpu.advance(whole, 1100)
    for stop in (1, 2, 5, 7, 100, 255, 256, 257, 511, 700, 1100):
        cpu.advance(cut, stop)
    assert_same(whole, cut)


@pytest.mark.parametrize("batch", ["full", "one"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_replica_equals_the_same_run_alone(batch, threads):
    """std, seed and init each a vector."""
    torch.set_num_threads(threads)  # conftest puts it back
    stds, seeds, inits = (0.1, 0.7), (5, 9), (0.1, 0.4)
    scales = torch.tensor(inits, dtype=torch.float64)
    many = make("adam", batch=batch, noise=GaussianNoise(stds), seed=seeds, init=scales, replicas=2)
    cpu.advance(many, 700)
    for r in range(2):
        alone = make("adam", batch=batch, noise=GaussianNoise(stds[r]), seed=seeds[r], init=inits[r])
        cpu.advance(alone, 700)
        for name, value in state_of(alone).items():
            held = state_of(many)[name]
            assert torch.equal(held[r] if held.ndim else held, value), name


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
def test_engines_hand_over_to_each_other(optimiser):
    """Part by one, part by the other: torch's state carries over, which either may create."""
    reference, mixed, other = make(optimiser), make(optimiser), make(optimiser)
    loop.advance(reference, 600)
    for stop, engine in ((150, loop), (333, cpu), (400, loop), (600, cpu)):
        engine.advance(mixed, stop)
    for stop, engine in ((150, cpu), (600, loop)):
        engine.advance(other, stop)
    assert_same(reference, mixed, 1e-10)
    assert_same(reference, other, 1e-10)


def test_resume_is_bit_equal_and_crosses_engines():
    problem = sparse_regression(n=12, d=21, k=2, seed=3)

    def last(engine, state=None):
        model = DiagonalLinear(21)
        options = {"noise": 0.5, "seed": 4, "engine": engine, "snapshots": [333, 800], "state": state}
        return [s for s in train(model, AdamW(model.parameters(), lr=0.01), problem, 800, **options) if s.scheduled]

    middle, end = last("fused")
    assert end.engine == "fused"
    *_, again = last("fused", middle.state_dict())
    *_, across = last("torch", middle.state_dict())
    for name in ("coef", "mean_coef", "mean_noise", "log_weights", "loss"):
        assert torch.equal(getattr(again, name), getattr(end, name)), name
        torch.testing.assert_close(getattr(across, name), getattr(end, name), rtol=1e-9, atol=1e-12)
    held, own = (s.state_dict()["optimizer"]["state"][0] for s in (across, end))
    assert list(held) == list(own)
    assert held["step"] == own["step"] == 800


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_the_count_of_steps_is_torchs(default, monkeypatch):
    """In torch's dtype; in float32 it stays at 2^24, so the bias correction does as well."""
    torch.set_default_dtype(default)
    try:
        runs = [make("adam", betas=(0.9, 1 - 1e-7)) for _ in range(2)]
        for run, engine in zip(runs, (loop, cpu), strict=True):
            engine.advance(run, 2)
            for held in run.optimizer.state.values():
                held["step"].fill_(2**24 - 3)
            engine.advance(run, 12)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(*runs, 1e-10)
    ends = {torch.float32: 2**24, torch.float64: 2**24 + 7}
    assert int(runs[1].optimizer.state[runs[1].model.weights[0]]["step"]) == ends[default]


def test_weights_far_below_the_floor_of_plain_steps_are_followed():
    """They come back by factors, the later the deeper they fell; v and beta underflow meanwhile."""
    runs = make("rmsprop"), make("rmsprop")
    loop.advance(runs[0], 1500)
    cpu.advance(runs[1], 1500)
    for w, other in zip(runs[0].model.weights, runs[1].model.weights, strict=True):
        torch.testing.assert_close(other, w, rtol=1e-8, atol=0)
    lowest = min(float(w.detach().abs().min()) for w in runs[0].model.weights)
    assert paths.FLOOR[torch.float64] < lowest < 0.01 * paths.FLOOR[torch.float64] ** 0.5


def test_in_float32_no_weight_dies():
    """torch's own steps leave weights at 0 for good here."""
    run = make("rmsprop", batch="one", dtype=torch.float32)
    floor = paths.FLOOR[torch.float32]
    reached = False
    for stop in range(5000, 60_001, 5000):
        cpu.advance(run, stop)
        sizes = torch.stack([w.detach().abs() for w in run.model.weights])
        assert float(sizes.min()) > 0.99 * floor
        reached |= float(sizes.min()) < 1.01 * floor
    assert reached


def test_denormals_are_flushed_in_the_engines_own_threads_alone():
    """A mean square that decays would stay denormal for good: 0.999 times a few units in the last place is as many."""
    run = make("rmsprop")
    cpu.advance(run, 1)
    for w, held in run.optimizer.state.items():
        w.data[0], held["square_avg"][0] = 0.0, 1e-320
    cpu.advance(run, 2)
    assert all(held["square_avg"][0] == 0 for held in run.optimizer.state.values())
    assert float(torch.tensor([1e-310], dtype=torch.float64) * 0.5) > 0


def _tensor_lr():
    return make(lr=torch.tensor(0.01))


def _steps_differ():
    run = make()
    loop.advance(run, 3)
    next(iter(run.optimizer.state.values()))["step"].add_(1)
    return run


def _sub():
    run = make()
    run.optimizer.__class__ = type("Mine", (Adam,), {})
    return run


REFUSED = {
    "amsgrad=True": lambda: make(amsgrad=True),
    "maximize=True": lambda: make(maximize=True),
    "capturable=True": lambda: make(capturable=True),
    "differentiable=True": lambda: make(differentiable=True),
    "centered=True of RMSprop": lambda: make("rmsprop", centered=True),
    "momentum=0.5 of RMSprop": lambda: make("rmsprop", momentum=0.5),
    "lr, betas or weight_decay of Adam is a tensor": _tensor_lr,
    "eps=0 of Adam is below": lambda: make(eps=0),
    "different numbers of steps": _steps_differ,
    "the optimizer is Mine": _sub,
}


@pytest.mark.parametrize("words", REFUSED)
def test_fused_says_what_it_cannot_run_and_auto_falls_back(words):
    run = REFUSED[words]()
    with pytest.raises(ValueError, match=rf'engine="fused".*{words}.*engine="torch"'):
        choose("fused", run)
    assert choose("auto", run) == ("torch", loop.advance)


def test_hooks_groups_of_options_and_grouped_models_are_torchs():
    hooked, parts = make(), make()
    hooked.optimizer.register_step_post_hook(lambda *_: None)
    parts.optimizer = Adam([{"params": [w]} for w in parts.model.weights])
    grouped = DiagonalLinear(21, groups=[0] * 3 + [1] * 18)
    problem = sparse_regression(n=12, d=21, k=2, seed=3)
    blocks = _begin(grouped, Adam(grouped.parameters()), problem, None, None, 0.5, None)
    for run in (hooked, parts, blocks):
        assert choose("auto", run) == ("torch", loop.advance)


def test_other_paths_are_refused_by_name():
    assert choose("adaptive", make())[0] == "fused"
    for path in (Path.GENERAL, Path.PANELS, Path.SINGLE_ROW, Path.GRAM, Path.THREADS):
        with pytest.raises(ValueError, match=rf'engine="{path}" cannot run this: the optimizer is Adam'):
            choose(str(path), make())
    plain = make()
    plain.optimizer = LabelNoiseSGD(plain.model.parameters(), lr=0.01)
    with pytest.raises(ValueError, match='engine="adaptive" cannot run this: the optimizer is LabelNoiseSGD'):
        choose("adaptive", plain)
    for shape in ({"n": 84}, {"replicas": 16}, {"batch": "one"}, {"n": 500, "d": 9000}):
        assert choose_path(make(**shape), many=1) == Path.ADAPTIVE


def test_a_fused_run_can_be_copied_and_goes_on():
    run = make("adam")
    cpu.advance(run, 10)
    twin = make("adam")
    twin.model.load_state_dict(run.model.state_dict())
    twin.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    twin.step, twin.sums = run.step, copy.deepcopy(run.sums)
    loop.advance(run, 50)
    cpu.advance(twin, 50)
    assert_same(run, twin, 1e-10)
