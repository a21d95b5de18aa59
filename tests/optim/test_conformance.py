"""conformance: LabelNoiseSGD under everything torch's own optimisers bear, noise by noise, against a run by hand."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import SWALR

from lntrain import LabelNoiseSGD, NoisyTargets
from lntrain.noise.controls import MinibatchNoise, ParameterNoise

OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.5},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight-decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True, "lr": 1e-3},
    "foreach": {"momentum": 0.5, "foreach": True},
    "for-loop": {"momentum": 0.5, "foreach": False},
    "fused": {"momentum": 0.5, "fused": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_option_is_torch_sgd_on_targets_perturbed_by_hand(case, options, equal):
    ours, theirs = case.net(), case.net()
    plain = torch.optim.SGD(theirs.parameters(), **{"lr": 0.05, **options})
    assert equal(case.train(ours, case.optimizer(ours, **options), 8), case.by_hand(theirs, plain, 8))


# who carries the noise: (case, net) -> (net, optimizer, criterion)


def _label_noise_sgd(case, net, seed=1):
    optimizer = case.optimizer(net, momentum=0.9, seed=seed)
    return net, optimizer, optimizer.wrap(case.loss)


@dataclass
class _Perturbed:
    """The other face: the targets are perturbed before the loss sees them."""

    case: object
    optimizer: LabelNoiseSGD

    def __call__(self, output, y):
        if isinstance(self.case.noise, MinibatchNoise):
            return self.optimizer.wrap(self.case.loss)(output, y)
        return self.case.loss(output, self.optimizer.perturb(y))


def _perturb(case, net, seed=1):
    optimizer = case.optimizer(net, momentum=0.9, seed=seed)
    return net, optimizer, _Perturbed(case, optimizer)


def _adamw(case, net, seed=1):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    return net, optimizer, NoisyTargets(case.loss, case.noise, optimizer=optimizer, seed=1)


# each way of saving: (case, carrier, net, optimizer, criterion) -> the same three, anew


def _state_dict(case, carrier, net, optimizer, criterion):
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    twins = carrier(case, case.net(5), seed=77)  # LabelNoiseSGD's seed comes from the state
    twins[0].load_state_dict(state["net"])
    twins[1].load_state_dict(state["optimizer"])
    return twins


def _deepcopy(case, carrier, *parts):
    return copy.deepcopy(parts)


def _pickle(case, carrier, *parts):
    return pickle.loads(pickle.dumps(parts))


def _step(case, net, optimizer, criterion):
    optimizer.zero_grad()
    criterion(net(case.X), case.y).backward()
    optimizer.step()


@pytest.mark.parametrize("steps", [0, 7])
@pytest.mark.parametrize("way", [_state_dict, _deepcopy, _pickle], ids=["state_dict", "deepcopy", "pickle"])
@pytest.mark.parametrize("carrier", [_label_noise_sgd, _perturb, _adamw], ids=["wrap", "perturb", "AdamW"])
def test_copy_goes_on_bit_for_bit(case, carrier, way, steps, equal):
    if carrier is _adamw and isinstance(case.noise, ParameterNoise):
        with pytest.raises(ValueError, match="give it to LabelNoiseSGD"):
            carrier(case, case.net())
        return
    parts = carrier(case, case.net())
    for _ in range(steps):
        _step(case, *parts)
    parts[2](parts[0](case.X), case.y)  # in the middle of a step: the draw within it counts too
    twins = way(case, carrier, *parts)
    for _ in range(5):
        _step(case, *parts)
        _step(case, *twins)
    assert equal(parts[0].parameters(), twins[0].parameters())
    assert twins[1].param_groups[0]["noise_step"] == steps + 5


SCHEDULERS = {
    "StepLR": lambda o: schedulers.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 5], 0.5),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.2, 1.0, 6),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 9, 2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 4), schedulers.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, 0.5, 4), schedulers.ExponentialLR(o, 0.9)], [3]
    ),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=12),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.9),
    "SWALR": lambda o: SWALR(o, swa_lr=0.01, anneal_epochs=4),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("case", ["gaussian", "parameters"], indirect=True)
def test_scheduler_moves_lr_as_it_moves_torch_sgds(case, name, equal):
    """ReduceLROnPlateau reads `criterion.clean`; CyclicLR and OneCycleLR move the momentum too."""
    ours, theirs = case.net(), case.net()
    optimizer, plain = case.optimizer(ours, momentum=0.9), torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    pair = []
    for each in (optimizer, plain):
        scheduler = SCHEDULERS[name](each)
        pair.append(scheduler.step if name == "ReduceLROnPlateau" else lambda loss, s=scheduler: s.step())
    start = (plain.param_groups[0]["lr"], plain.param_groups[0]["momentum"])
    assert equal(case.train(ours, optimizer, 10, after=pair[0]), case.by_hand(theirs, plain, 10, after=pair[1]))
    assert (plain.param_groups[0]["lr"], plain.param_groups[0]["momentum"]) != start
    assert optimizer.param_groups[0]["noise_step"] == 10


def test_add_param_group_joins_the_same_noise(case, equal):
    ours, theirs = case.net(), case.net()
    optimizer, plain = (
        LabelNoiseSGD(ours[0].parameters(), lr=0.05, noise=case.noise, seed=1),
        torch.optim.SGD(theirs[0].parameters(), lr=0.05),
    )
    for each, net in ((optimizer, ours), (plain, theirs)):
        each.add_param_group({"params": net[2].parameters(), "lr": 0.01, "momentum": 0.5})
    assert equal(case.train(ours, optimizer, 8), case.by_hand(theirs, plain, 8))
    assert [group["noise_step"] for group in optimizer.param_groups] == [8, 8]


def test_hooks_run_once_a_step_and_see_the_counter(case, equal):
    """torch hooks a class's step at its first instance: SGD's own, called by ours, must not run ours again."""
    net, twin, seen = case.net(), case.net(), []
    torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer = case.optimizer(net)
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(("pre", o.param_groups[0]["noise_step"])))
    optimizer.register_step_post_hook(lambda o, *_: seen.append(("post", o.param_groups[0]["noise_step"])))
    optimizer.register_state_dict_pre_hook(lambda o: seen.append(("state", o.param_groups[0]["noise_step"])))
    case.train(net, optimizer, 2)
    optimizer.state_dict()
    assert seen == [("pre", 0), ("post", 1), ("pre", 1), ("post", 2), ("state", 2)]
    assert equal(net.parameters(), case.train(twin, case.optimizer(twin), 2))


def test_global_hooks_run_once_a_step(gaussian):
    net, seen = gaussian.net(), []
    handle = register_optimizer_step_post_hook(lambda o, *_: seen.append(type(o)))
    try:
        gaussian.train(net, gaussian.optimizer(net), 3)
    finally:
        handle.remove()
    assert seen == [LabelNoiseSGD] * 3


def test_closure_draws_within_its_step(case, equal):
    """Lightning's automatic optimisation calls `step(closure)`."""
    net, twin = case.net(), case.net()
    optimizer = case.optimizer(net)
    criterion = optimizer.wrap(case.loss)

    def closure():
        optimizer.zero_grad()
        loss = criterion(net(case.X), case.y)
        loss.backward()
        return loss

    for _ in range(4):
        assert isinstance(optimizer.step(closure), torch.Tensor)
    assert equal(net.parameters(), case.train(twin, case.optimizer(twin), 4))


def test_frozen_and_unused_parameters_stay(case):
    net = case.net()
    net[0].weight.requires_grad_(False)
    unused = nn.Parameter(torch.ones(2))
    optimizer = LabelNoiseSGD([*net.parameters(), unused], lr=0.05, noise=case.noise)
    before = net[0].weight.clone()
    case.train(net, optimizer, 3)
    assert torch.equal(net[0].weight, before)
    assert torch.equal(unused, torch.ones(2))
