"""replicas: each network is the one it would be alone, by a loop written by hand; resume; annealing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from lntrain import DivergenceError, GaussianNoise, LabelFlips, LabelNoiseSGD, quadratic
from lntrain.models.networks import mlp, resnet18
from lntrain.models.replicas import Replicas, Rows
from lntrain.noise.labels import Draw
from lntrain.noise.philox import sampled_rows
from lntrain.training.ensemble import Anneal, descend, schedule

F64 = torch.float64
X = torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
CLASSES = torch.arange(12) % 3
FLIPS = LabelFlips(0.4, 3)
ONE_HOT = one_hot(CLASSES, 3).to(F64)
SEEDS = [5, 0, 9]


def _net(seed):
    return mlp((1, 4, 4), 3, widths=[6], seed=seed).to(F64)


def _quadratic_net(seed):
    net = _net(seed)
    quadratic(net[1], keep=True)
    return net


CASES = {
    "flips": (_net, CLASSES, cross_entropy, FLIPS),
    "rows": (_net, ONE_HOT, mse_loss, GaussianNoise(0.3)),
    "quadratic": (_quadratic_net, ONE_HOT, mse_loss, GaussianNoise(0.3)),
    "convolutions": (lambda s: resnet18((1, 4, 4), 3, width=8, seed=s).to(F64), CLASSES, cross_entropy, FLIPS),
}  # fmt: skip


def _make(case, seeds=SEEDS, lr=0.05, **options):
    build, targets, criterion, noise = CASES[case]
    nets = Replicas([build(seed) for seed in seeds])
    optimizer = LabelNoiseSGD(nets.parameters(), lr=lr, noise=noise, seed=list(seeds), momentum=0.5)
    run = {"batch_size": 4, **options}
    return nets, lambda steps, **more: descend(nets, optimizer, Rows(X, targets), criterion, steps, **{**run, **more})


def _by_hand(case, seed, steps, lr=0.05):
    build, targets, criterion, noise = CASES[case]
    net = build(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.5)
    rows = sampled_rows(seed, 0, 0, steps, n=12, batch_size=4, sampling="replacement")
    for step in range(steps):
        batch = torch.from_numpy(rows[step])
        optimizer.zero_grad()
        criterion(net(X[batch]), noise.perturb(targets[batch], Draw(((seed, 0),), step))).backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("case", list(CASES))
def test_each_replica_is_the_run_alone(case):
    nets, run = _make(case)
    steps = 4 if case == "convolutions" else 30
    *_, last = run(steps)
    assert last.step == steps
    for r, seed in enumerate(SEEDS):
        alone, start = _by_hand(case, seed, steps), CASES[case][0](seed)
        for ours, theirs, first in zip(
            nets.replica(r).parameters(), alone.parameters(), start.parameters(), strict=True
        ):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)
            assert not torch.equal(ours, first)


@pytest.mark.parametrize("case", ["flips", "rows"])
@pytest.mark.parametrize("what", ["lr", "noise"])
def test_a_resumed_run_is_bit_equal(case, what, equal):
    options = {"anneal": Anneal(40, what), "scheduled": [50], "sampling": "shuffle"}
    whole, run = _make(case, **options)
    middle = next(p for p in run(60) if p.step == 50).state_dict()
    for _ in run(60, state=middle):
        pass
    again, run_again = _make(case, **options)
    for _ in run_again(60, state=middle):
        pass
    straight, run_straight = _make(case, **options)
    for _ in run_straight(60):
        pass
    assert equal([*again.parameters()], [*straight.parameters()])
    assert equal([*again.parameters()], [*whole.parameters()])


def test_annealed_noise_ends_at_the_clean_targets():
    """The loss ends lower than at constant noise, and the control's rows become the clean ones."""
    nets, run = _make("rows", lr=0.2)
    for _ in run(400):
        pass
    constant = nets.losses(mse_loss, X.expand(3, *X.shape), ONE_HOT.expand(3, 12, 3))
    nets, run = _make("rows", lr=0.2, anneal=Anneal(200, "noise"))
    for _ in run(400):
        pass
    annealed = nets.losses(mse_loss, X.expand(3, *X.shape), ONE_HOT.expand(3, 12, 3))
    assert bool((annealed < constant / 1.5).all())
    rows = Rows(X, ONE_HOT * 0.5 + 0.1, clean=ONE_HOT)
    assert torch.allclose(rows.batch(None, 2, 0.0)[1][0], ONE_HOT)
    assert torch.allclose(rows.batch(torch.tensor([[3], [4]]), 2, 0.5)[1][1, 0], 0.75 * ONE_HOT[4] + 0.05)


@pytest.mark.parametrize(("what", "lr", "p"), [("noise", 1.0, 0.1), ("lr", 0.25, 0.4)])
def test_annealing_reaches_the_optimiser_and_leaves_it_as_it_was(what, lr, p):
    nets = Replicas([_net(0)])
    optimizer = LabelNoiseSGD(nets.parameters(), lr=1.0, noise=LabelFlips(0.4, 3), seed=[0])
    run = descend(nets, optimizer, Rows(X, CLASSES), cross_entropy, 8, anneal=Anneal(4, what), scheduled=[7, 8])
    *_, last = run  # at step 7 the factor is 1/4; the hook sees it before the end resets it
    assert last.step == 8
    assert (optimizer.param_groups[0]["lr"], optimizer.noise.p) == (1.0, 0.4)
    run = descend(nets, optimizer, Rows(X, CLASSES), cross_entropy, 8, anneal=Anneal(4, what), scheduled=[8])
    seen = [(optimizer.param_groups[0]["lr"], optimizer.noise.p) for progress in run if progress.step == 8]
    assert seen == [(pytest.approx(lr), pytest.approx(p))]


def test_anneal_falls_linearly():
    assert [Anneal(10, "noise").factors(step, 100) for step in (0, 90, 95, 99)] == [(1, 1), (1, 1), (1, 0.5), (1, 0.1)]
    assert Anneal().factors(99, 100) == (1, 1)


def test_scheduled_steps_are_reported_once_and_the_last_one_always():
    _, run = _make("rows")
    assert [p.step for p in run(20, scheduled=[3, 7, 25]) if p.scheduled] == [3, 7, 20]
    assert schedule(100, 2, 90)[-3:] == [70, 90, 100]


def test_rows_of_their_own():
    nets = Replicas([nn.Linear(1, 1).to(F64) for _ in range(2)])
    targets = torch.tensor([1.0, -2.0], dtype=F64)[:, None, None].expand(2, 6, 1)
    optimizer = LabelNoiseSGD(nets.parameters(), lr=0.2, seed=[0, 1])
    for _ in descend(
        nets, optimizer, Rows(torch.ones(2, 6, 1, dtype=F64), targets, own=True), mse_loss, 80, batch_size=2
    ):
        pass
    assert nets(torch.ones(2, 1, 1, dtype=F64)).flatten().tolist() == pytest.approx([1, -2], abs=1e-6)


def test_divergence_is_told():
    _, run = _make("rows", lr=1e9)
    with pytest.raises(DivergenceError, match="take a smaller lr"):
        for _ in run(500, scheduled=range(500)):
            pass


MISTAKES = {
    "no network": (lambda: Replicas([]), "at least one"),
    "networks that differ": (lambda: Replicas([nn.Linear(1, 1), nn.Linear(2, 1)]), "the same parameters"),
    "batch norm": (lambda: Replicas([nn.BatchNorm1d(3)]), "norm=group"),
    "no steps": (lambda: _make("rows")[1](0), "steps=0"),
    "annealing longer than the run": (lambda: _make("rows")[1](5, anneal=Anneal(6)), "steps=6 exceeds"),
    "something else annealed": (lambda: Anneal(3, "batch"), "what='batch'"),
    "another sampling": (lambda: _make("rows")[1](5, sampling="noisy_rows"), "noisy_rows"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_told_by_name(name):
    call, says = MISTAKES[name]
    with pytest.raises(ValueError, match=says):
        call()
