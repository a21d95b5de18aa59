"""optim: the noise in the gradient, the state in param_groups, the counters, replicas, bad options."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from lntrain import Antithetic, GaussianNoise, LabelFlips, LabelNoiseSGD
from lntrain.noise.labels import Draw


def _optimizer(**options):
    return LabelNoiseSGD([nn.Parameter(torch.zeros(2))], **{"lr": 0.05, "noise": 0.3, "seed": 1, **options})


def test_without_noise_it_is_torch_sgd_bit_for_bit(gaussian, equal):
    ours, theirs = gaussian.net(), gaussian.net()
    plain = torch.optim.SGD(theirs.parameters(), lr=0.05)
    noisy = gaussian.optimizer(ours, noise=0.0)
    for net, optimizer, y in ((ours, noisy, noisy.perturb), (theirs, plain, lambda y: y)):
        for _ in range(20):
            optimizer.zero_grad()
            mse_loss(net(gaussian.X), y(gaussian.y)).backward()
            optimizer.step()
    assert equal(ours.parameters(), theirs.parameters())
    assert isinstance(noisy, torch.optim.SGD)


def test_the_noise_is_the_streams_and_enters_the_gradient(gaussian):
    """One step on a linear model: w <- w - lr * (2/n) X^T (X w - (y + eps))."""
    net = nn.Linear(3, 1, bias=False).double()
    start, x, y = net.weight.detach().clone(), gaussian.X.double(), gaussian.y.double()
    optimizer = gaussian.optimizer(net, rank=4)
    mse_loss(net(x), optimizer.perturb(y)).backward()
    optimizer.step()
    noisy = GaussianNoise(0.3).perturb(y, Draw(((1, 4),), 0))
    gradient = 2 / 16 * (x @ start.T - noisy).T @ x
    torch.testing.assert_close(net.weight.detach(), start - 0.05 * gradient, rtol=0, atol=1e-15)


def test_param_groups_hold_plain_scalars_only(case):
    net = case.net()
    groups = [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters()}]
    optimizer = LabelNoiseSGD(groups, lr=0.05, noise=case.noise, seed=2)
    case.train(net, optimizer, 3)
    for group in optimizer.state_dict()["param_groups"]:
        assert {k: group[k] for k in ("noise_std", "seed", "noise_step", "noise_draw")} == {
            "noise_std": case.noise.std, "seed": 2, "noise_step": 3, "noise_draw": 0,
        }  # fmt: skip
        assert "rank" not in group
        assert {type(v) for k, v in group.items() if k != "params"} <= {int, float, bool, type(None)}


def test_a_plain_sgd_state_loads_and_keeps_our_noise(gaussian):
    net = gaussian.net()
    plain = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.8)
    gaussian.by_hand(net, plain, 2)
    optimizer = gaussian.optimizer(net)
    optimizer.load_state_dict(plain.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.01, 0.8)
    assert (group["noise_std"], group["seed"], group["noise_step"]) == (0.3, 1, 0)
    gaussian.train(net, optimizer, 2)


def test_a_scheduler_may_change_the_noise_through_param_groups():
    optimizer = _optimizer(noise=1.0)
    optimizer.param_groups[0]["noise_std"] = 2.0
    zero = torch.zeros(4)
    assert torch.equal(optimizer.perturb(zero), 2.0 * GaussianNoise(1.0).perturb(zero, Draw(((1, 0),))))


def test_the_counter_moves_only_if_labels_were_perturbed():
    optimizer, zero = _optimizer(), torch.zeros(3)
    for _ in range(3):  # as torch's get_optimizer_state_dict does
        optimizer.step()
    assert optimizer.param_groups[0]["noise_step"] == 0
    optimizer.perturb(zero)
    optimizer.perturb(zero)
    assert optimizer.param_groups[0]["noise_draw"] == 2
    optimizer.step()
    assert (optimizer.param_groups[0]["noise_step"], optimizer.param_groups[0]["noise_draw"]) == (1, 0)


def test_calls_within_a_step_and_steps_and_seeds_and_ranks_all_differ():
    zero, drawn = torch.zeros(6, dtype=torch.float64), []
    for seed, rank in itertools.product((0, 1), (0, 1)):
        optimizer = _optimizer(seed=seed, rank=rank)
        for _ in range(2):
            drawn += [optimizer.perturb(zero), optimizer.perturb(zero)]
            optimizer.step()
    assert len({tuple(d.tolist()) for d in drawn}) == len(drawn) == 16


def test_antithetic_pairs_go_by_step_not_by_call():
    optimizer, zero = _optimizer(noise=Antithetic(GaussianNoise(1.0))), torch.zeros(6)
    even = [optimizer.perturb(zero), optimizer.perturb(zero)]
    optimizer.step()
    odd = [optimizer.perturb(zero), optimizer.perturb(zero)]
    assert torch.equal(even[0], -odd[0])
    assert torch.equal(even[1], -odd[1])
    assert not torch.equal(even[0], -even[1])  # or gradient accumulation would cancel it


def test_replicas_have_streams_of_their_own():
    many = _optimizer(rank=2).perturb(torch.zeros(3, 4), replicas=True)
    alone = [GaussianNoise(0.3).perturb(torch.zeros(4), Draw(((1, 2 * 3 + r),))) for r in range(3)]
    assert torch.equal(many, torch.stack(alone))
    seeds = _optimizer(seed=[5, 6]).perturb(torch.zeros(2, 4), replicas=True)
    assert torch.equal(seeds[1], _optimizer(seed=6).perturb(torch.zeros(4)))


def test_label_flips_go_through_the_optimiser():
    targets = torch.tensor([0, 1, 2])
    assert not bool((_optimizer(noise=LabelFlips(1.0, 3)).perturb(targets) == targets).any())


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
        _optimizer(**options)
