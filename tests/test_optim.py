"""optim: torch's SGD bit for bit without noise, a noise state that survives every way of saving, the counters."""

from __future__ import annotations

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from lntrain import Antithetic, GaussianNoise, LabelFlips, LabelNoiseSGD, RademacherNoise
from lntrain.noise import Draw
from lntrain.schedule import PowerDecay

OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.5},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True, "lr": 1e-3},
    "foreach": {"momentum": 0.5, "foreach": True},
    "single": {"momentum": 0.5, "foreach": False},
    "fused": {"momentum": 0.5, "fused": True},
}
NOISES = [GaussianNoise(0.3), RademacherNoise(0.3), Antithetic(GaussianNoise(0.3)), GaussianNoise(0.3, PowerDecay())]
X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def _net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def _optimizer(net, **options):
    return LabelNoiseSGD(net.parameters(), **{"lr": 0.05, "noise": 0.3, "seed": 1, **options})


def _go(net, optimizer, steps, perturb=None):
    for _ in range(steps):
        optimizer.zero_grad()
        mse_loss(net(X), (perturb or optimizer.perturb)(Y)).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def _equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("options", list(OPTIONS.values()), ids=list(OPTIONS))
def test_without_noise_it_is_torch_sgd_bit_for_bit(options):
    ours, theirs = _net(), _net()
    plain = torch.optim.SGD(theirs.parameters(), **{"lr": 0.05, **options})
    noisy = _optimizer(ours, noise=0.0, **options)
    assert _equal(_go(ours, noisy, 20), _go(theirs, plain, 20, perturb=lambda y: y))
    assert isinstance(noisy, torch.optim.SGD)


def test_the_noise_is_the_streams_and_enters_the_gradient():
    """One step on a linear model: w <- w - lr * (2/n) X^T (X w - (y + eps))."""
    net = nn.Linear(3, 1, bias=False).double()
    start, x, y = net.weight.detach().clone(), X.double(), Y.double()
    optimizer = _optimizer(net, rank=4)
    mse_loss(net(x), optimizer.perturb(y)).backward()
    optimizer.step()
    noisy = GaussianNoise(0.3).perturb(y, Draw(((1, 4),), 0))
    gradient = 2 / 16 * (x @ start.T - noisy).T @ x
    torch.testing.assert_close(net.weight.detach(), start - 0.05 * gradient, rtol=0, atol=1e-15)


def _saved(optimizer, net):
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "net": net.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = _net(5)
    twin = _optimizer(other, noise=optimizer.noise, momentum=0.9, seed=77)  # the seed comes from the state
    other.load_state_dict(state["net"])
    twin.load_state_dict(state["optimizer"])
    return twin, other


def _deep(optimizer, net):
    return copy.deepcopy((optimizer, net))


def _pickled(optimizer, net):
    return pickle.loads(pickle.dumps((optimizer, net)))


@pytest.mark.parametrize("noise", NOISES, ids=["gaussian", "rademacher", "antithetic", "annealed"])
@pytest.mark.parametrize("way", [_saved, _deep, _pickled])
@pytest.mark.parametrize("steps", [0, 7])
def test_a_copy_goes_on_bit_for_bit(way, noise, steps):
    net = _net()
    optimizer = _optimizer(net, noise=noise, momentum=0.9)
    _go(net, optimizer, steps)
    optimizer.perturb(Y)  # in the middle of a step: the draw within it counts too
    twin, other = way(optimizer, net)
    assert twin.noise == noise
    assert _equal(_go(net, optimizer, 5), _go(other, twin, 5))


def test_param_groups_hold_plain_scalars_only():
    net = _net()
    groups = [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters()}]
    optimizer = LabelNoiseSGD(groups, lr=0.05, noise=Antithetic(GaussianNoise(0.3)), seed=2)
    _go(net, optimizer, 3)
    for group in optimizer.state_dict()["param_groups"]:
        assert {k: group[k] for k in ("noise_std", "seed", "noise_step", "noise_draw")} == {
            "noise_std": 0.3, "seed": 2, "noise_step": 3, "noise_draw": 0,
        }  # fmt: skip
        assert "rank" not in group
        assert {type(v) for k, v in group.items() if k != "params"} <= {int, float, bool, type(None)}


def test_a_group_added_later_carries_the_noise_state():
    net = _net()
    optimizer = LabelNoiseSGD(net[0].parameters(), lr=0.05, noise=0.3)
    optimizer.add_param_group({"params": net[2].parameters()})
    assert optimizer.param_groups[1]["noise_std"] == 0.3


def test_a_plain_sgd_state_loads_and_keeps_our_noise():
    net = _net()
    plain = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.8)
    _go(net, plain, 2, perturb=lambda y: y)
    optimizer = _optimizer(net)
    optimizer.load_state_dict(plain.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.01, 0.8)
    assert (group["noise_std"], group["seed"], group["noise_step"]) == (0.3, 1, 0)
    _go(net, optimizer, 2)


def test_a_scheduler_may_change_the_noise_through_param_groups():
    optimizer = _optimizer(_net(), noise=1.0)
    optimizer.param_groups[0]["noise_std"] = 2.0
    zero = torch.zeros(4)
    assert torch.equal(optimizer.perturb(zero), 2.0 * GaussianNoise(1.0).perturb(zero, Draw(((1, 0),))))


def test_the_counter_moves_only_if_labels_were_perturbed():
    net = _net()
    optimizer = _optimizer(net)
    for _ in range(3):  # as torch's get_optimizer_state_dict does
        optimizer.step()
    assert optimizer.param_groups[0]["noise_step"] == 0
    optimizer.perturb(Y)
    optimizer.perturb(Y)
    assert optimizer.param_groups[0]["noise_draw"] == 2
    optimizer.step()
    assert (optimizer.param_groups[0]["noise_step"], optimizer.param_groups[0]["noise_draw"]) == (1, 0)


def test_calls_within_a_step_and_steps_and_seeds_and_ranks_all_differ():
    zero, drawn = torch.zeros(6, dtype=torch.float64), []
    for seed, rank in itertools.product((0, 1), (0, 1)):
        optimizer = _optimizer(_net(), seed=seed, rank=rank)
        for _ in range(2):
            drawn += [optimizer.perturb(zero), optimizer.perturb(zero)]
            optimizer.step()
    assert len({tuple(d.tolist()) for d in drawn}) == len(drawn) == 16


def test_antithetic_pairs_go_by_step_not_by_call():
    optimizer, zero = _optimizer(_net(), noise=Antithetic(GaussianNoise(1.0))), torch.zeros(6)
    even = [optimizer.perturb(zero), optimizer.perturb(zero)]
    optimizer.step()
    odd = [optimizer.perturb(zero), optimizer.perturb(zero)]
    assert torch.equal(even[0], -odd[0])
    assert torch.equal(even[1], -odd[1])
    assert not torch.equal(even[0], -even[1])  # or gradient accumulation would cancel it


def test_replicas_have_streams_of_their_own():
    many = _optimizer(_net(), rank=2).perturb(torch.zeros(3, 4), replicas=True)
    alone = [GaussianNoise(0.3).perturb(torch.zeros(4), Draw(((1, 2 * 3 + r),))) for r in range(3)]
    assert torch.equal(many, torch.stack(alone))
    seeds = _optimizer(_net(), seed=[5, 6]).perturb(torch.zeros(2, 4), replicas=True)
    assert torch.equal(seeds[1], _optimizer(_net(), seed=6).perturb(torch.zeros(4)))


def test_label_flips_go_through_the_optimiser():
    optimizer = _optimizer(_net(), noise=LabelFlips(1.0, 3))
    targets = torch.tensor([0, 1, 2])
    assert not bool((optimizer.perturb(targets) == targets).any())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": -1.0}, "learning rate"),
        ({"momentum": -0.1}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"nesterov": True}, "Nesterov"),
        ({"noise": "loud"}, "noise='loud'"),
        ({"noise": -1.0}, "std=-1.0"),
        ({"lr": [0.1, 0.0]}, "each must be positive"),
        ({"lr": [0.1, 0.2], "weight_decay": 0.1}, "one lr a replica"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        _optimizer(_net(), **options)


def test_a_step_hook_runs_once_a_step():
    """torch hooks a class's step at its first instance: SGD's own, called by ours, must not run ours again."""
    net, calls = _net(), []
    torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer = _optimizer(net)
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    _go(net, optimizer, 3)
    assert len(calls) == 3
