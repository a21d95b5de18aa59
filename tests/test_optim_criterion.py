"""optim: a criterion that perturbs its own targets, through the optimiser or beside any other one."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import mse_loss

from lntrain import Antithetic, GaussianNoise, LabelNoiseSGD, NoisyTargets, RademacherNoise
from lntrain.noise import Draw

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


def test_wrap_perturbs_in_training_and_is_clean_elsewhere():
    optimizer, zero = _optimizer(_net(), noise=1.0), torch.zeros(6)
    module = nn.MSELoss()
    criterion = optimizer.wrap(module)
    expected = GaussianNoise(1.0).perturb(zero, Draw(((1, 0),))).square().mean()
    assert torch.equal(criterion(zero, zero), expected)
    with torch.no_grad():
        assert criterion(zero, zero) == 0
    module.eval()
    assert criterion(zero, zero) == 0
    assert optimizer.param_groups[0]["noise_draw"] == 1
    assert optimizer.wrap(mse_loss)(zero, zero, reduction="sum") > 0  # a function, and its options


def test_wrap_is_the_same_run_as_perturb():
    first, second = _net(), _net()
    one, two = _optimizer(first), _optimizer(second)
    criterion = two.wrap(nn.MSELoss())
    for _ in range(5):
        two.zero_grad()
        criterion(second(X), Y).backward()
        two.step()
    assert _equal(_go(first, one, 5), [p.detach() for p in second.parameters()])


def test_noisy_targets_with_an_optimiser_equals_label_noise_sgd():
    """Two calls a step (accumulation), under Adam's interface of hooks: pairs and draws go by its steps."""
    first, second = _net(), _net()
    ours = _optimizer(first, noise=Antithetic(GaussianNoise(0.3)))
    plain = torch.optim.SGD(second.parameters(), lr=0.05)
    criterion = NoisyTargets(nn.MSELoss(), Antithetic(GaussianNoise(0.3)), optimizer=plain, seed=1)
    for _ in range(6):
        for optimizer, loss in (
            (ours, lambda: mse_loss(first(X), ours.perturb(Y))),
            (plain, lambda: criterion(second(X), Y)),
        ):
            optimizer.zero_grad()
            loss().backward()
            loss().backward()
            optimizer.step()
    assert _equal(first.parameters(), second.parameters())


def test_noisy_targets_alone_counts_calls_and_is_clean_in_eval():
    criterion, zero = NoisyTargets(nn.L1Loss(reduction="none"), RademacherNoise(0.5), seed=3), torch.zeros(40)
    first, second = criterion(zero, zero), criterion(zero, zero)
    assert bool((first == 0.5).all())  # |0 - (+/- 0.5)|
    assert criterion.counters.tolist() == [2, 0]
    signed = NoisyTargets(lambda _, target: target, GaussianNoise(1.0), seed=3)
    assert not torch.equal(signed(zero, zero), signed(zero, zero))
    with torch.no_grad():
        assert bool((signed(zero, zero) == 0).all())
    assert bool((signed.eval()(zero, zero) == 0).all())
    assert bool((second == 0.5).all())


def test_noisy_targets_state_dict_carries_the_counters():
    zero = torch.zeros(6)
    one, two = (NoisyTargets(lambda _, target: target, 1.0, seed=3) for _ in range(2))
    one(zero, zero)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(zero, zero), two(zero, zero))
