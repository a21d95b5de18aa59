"""optim: a criterion that perturbs its own targets, through the optimiser or beside any other one; the two controls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.functional import mse_loss

from lntrain import Antithetic, DiagonalLinear, GaussianNoise, LabelNoiseSGD, NoisyTargets, RademacherNoise, train
from lntrain.noise.controls import MinibatchNoise, ParameterNoise
from lntrain.noise.labels import Draw

FALSE_ALARM = 1e-6
zero = torch.zeros(6)


def _optimizer(noise=1.0, **options):
    return LabelNoiseSGD([nn.Parameter(torch.zeros(2))], **{"lr": 0.05, "noise": noise, "seed": 1, **options})


@pytest.fixture(params=["wrap", "NoisyTargets", "NoisyTargets of an optimizer"])
def criterion(request):
    """Each way to a noisy nn.MSELoss."""
    if request.param == "wrap":
        return _optimizer().wrap(nn.MSELoss())
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(2))])
    return NoisyTargets(nn.MSELoss(), 1.0, seed=1, optimizer=adam if "of" in request.param else None)


def test_it_perturbs_in_training_and_is_clean_elsewhere(criterion):
    first = GaussianNoise(1.0).perturb(zero, Draw(((1, 0),))).square().mean()
    for quiet in (torch.no_grad(), torch.inference_mode()):
        with quiet:
            assert criterion(zero, zero) == 0
    assert criterion.eval()(zero, zero) == 0
    assert not criterion.criterion.training
    criterion.train()
    criterion.criterion.eval()  # eval of the inner one is enough
    assert criterion(zero, zero) == 0
    criterion.train()
    assert torch.equal(criterion(zero, zero), first)  # clean calls drew nothing
    assert criterion(zero, zero) not in (0, first)


def test_clean_is_the_loss_without_noise_of_the_last_call(criterion):
    with pytest.raises(RuntimeError, match="call the criterion first"):
        _ = criterion.clean
    calls = []
    criterion.criterion.register_forward_hook(lambda *_: calls.append(1))
    output = torch.full((6,), 2.0, requires_grad=True)
    noisy = criterion(output, zero)
    assert len(calls) == 1  # nothing is computed until it is read
    assert criterion.clean == 4.0
    assert noisy != 4.0
    assert not criterion.clean.requires_grad
    criterion.eval()(output * 2, zero)
    assert criterion.clean == 16.0


def test_a_function_and_its_options():
    criterion = _optimizer().wrap(mse_loss)
    assert torch.equal(criterion(zero, zero, reduction="none"), GaussianNoise(1.0).perturb(zero, Draw(((1, 0),))) ** 2)
    assert criterion.clean.shape == (6,)
    assert "GaussianNoise(std=1.0" in repr(criterion)


def test_wrap_is_the_same_run_as_perturb(case, equal):
    if isinstance(case.noise, MinibatchNoise):
        with pytest.raises(ValueError, match=r"optimizer\.wrap"):
            case.optimizer(case.net()).perturb(case.y)
        return
    first, second = case.net(), case.net()
    optimizer = case.optimizer(first)
    for _ in range(5):
        optimizer.zero_grad()
        case.loss(first(case.X), optimizer.perturb(case.y)).backward()
        optimizer.step()
    assert equal(first.parameters(), case.train(second, case.optimizer(second), 5))


def test_noisy_targets_with_an_optimiser_equals_label_noise_sgd(gaussian, equal):
    """Two calls a step (accumulation), under any optimiser's hooks: pairs and draws go by its steps."""
    first, second, noise = gaussian.net(), gaussian.net(), Antithetic(GaussianNoise(0.3))
    ours, plain = gaussian.optimizer(first, noise=noise), torch.optim.SGD(second.parameters(), lr=0.05)
    criterion = NoisyTargets(nn.MSELoss(), noise, optimizer=plain, seed=1)
    for _ in range(6):
        for optimizer, net, loss in ((ours, first, ours.wrap(mse_loss)), (plain, second, criterion)):
            optimizer.zero_grad()
            loss(net(gaussian.X), gaussian.y).backward()
            loss(net(gaussian.X), gaussian.y).backward()
            optimizer.step()
    assert equal(first.parameters(), second.parameters())


def test_two_criteria_of_one_optimiser_share_its_counters_and_no_draw():
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(2))])
    one, two = (NoisyTargets(lambda _, y: y, std, optimizer=adam) for std in (1.0, 2.0))
    assert not torch.equal(2 * one(zero, zero), two(zero, zero))
    adam.step()
    assert (adam.param_groups[0]["noise_step"], adam.param_groups[0]["noise_draw"]) == (1, 0)


def test_another_optimisers_own_state_loads_as_before():
    parameters = [nn.Parameter(torch.zeros(2))]
    state = torch.optim.Adam(parameters).state_dict()
    adam = torch.optim.Adam(parameters)
    criterion = NoisyTargets(mse_loss, 1.0, optimizer=adam)
    adam.load_state_dict(state)
    adam.step()
    criterion(zero, zero)
    adam.step()
    assert adam.param_groups[0]["noise_step"] == 1


def test_noisy_targets_alone_counts_calls_on_the_host():
    criterion, many = NoisyTargets(nn.L1Loss(reduction="none"), RademacherNoise(0.5), seed=3), torch.zeros(40)
    assert bool((criterion(many, many) == 0.5).all())  # |0 - (+/- 0.5)|
    twin = NoisyTargets(nn.L1Loss(reduction="none"), RademacherNoise(0.5), seed=3)
    twin.load_state_dict(criterion.state_dict())
    twin.to(torch.float64).to("meta")
    assert (twin.calls.device.type, twin.calls.dtype, int(twin.calls)) == ("cpu", torch.int64, 1)
    draws = [c.next_draw()[0] for c in (criterion, twin)]
    assert draws[0] == draws[1] == Draw(((3, 0),), 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: NoisyTargets(mse_loss, 2.0, optimizer=_optimizer(1.0)), r"use optimizer\.wrap"),
        (lambda: NoisyTargets(mse_loss, ParameterNoise(1.0)), "give it to LabelNoiseSGD"),
        (lambda: NoisyTargets(mse_loss, "loud"), "noise='loud'"),
        (lambda: MinibatchNoise(1.0, batch_size=0), "batch_size=0"),
        (lambda: MinibatchNoise(-1.0), "std=-1.0"),
        (lambda: _optimizer(MinibatchNoise(1.0, batch_size=7)).wrap(mse_loss)(zero, zero), "exceeds the 6 rows"),
        (lambda: _optimizer(MinibatchNoise(1.0)).wrap(nn.MSELoss(reduction="none"))(zero, zero), "mean over rows"),
        (lambda: MinibatchNoise((1.0, 2.0)), "give one std"),
    ],
)
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_minibatch_noise_has_its_law():
    """Losses l_i of 5 rows, b = 2: mean 0 and variance 2 std^2 (n - b) / (b (n - 1)) * var(l)."""
    losses, noise = torch.tensor([1.0, 2.0, 4.0, 7.0, 11.0], dtype=torch.float64), MinibatchNoise(0.5, batch_size=2)
    optimizer = _optimizer(noise)
    criterion, drawn = optimizer.wrap(lambda output, target: output.mean()), []
    for _ in range(4000):
        drawn.append(float(criterion(losses, losses) - losses.mean()))
        optimizer.step()
    expected = 2 * 0.5**2 * (5 - 2) / (2 * (5 - 1)) * float(losses.var(correction=0))
    assert abs(np.mean(drawn)) < 5 * np.sqrt(expected / 4000)
    assert abs(np.var(drawn) / expected - 1) < 5 * np.sqrt(2 / 4000)
    first, second = (np.array([noise.rows(Draw(step=s), 5)[i] for s in range(4000)]) for i in range(2))
    assert all(len(set(rows)) == 2 for rows in first.tolist())
    counts = np.bincount(first[:, 0] * 5 + second[:, 0], minlength=25)  # uniform, and B1 apart from B2
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_parameter_noise_has_its_law_and_no_part_in_momentum():
    """Without a gradient w is a random walk: after K steps of lr its variance is std^2 lr K."""
    w = nn.Parameter(torch.zeros(2000))
    optimizer = LabelNoiseSGD([w], lr=0.25, noise=ParameterNoise(2.0), momentum=0.9)
    w.grad = torch.zeros(2000)
    for _ in range(10):
        optimizer.step()
    assert stats.kstest(w.detach().numpy() / np.sqrt(2.0**2 * 0.25 * 10), "norm").pvalue > FALSE_ALARM


def test_parameter_noise_moves_nothing_at_lr_zero_and_a_scheduled_zero_still_counts():
    w = nn.Parameter(torch.zeros(3))
    w.grad = torch.zeros(3)
    optimizer = LabelNoiseSGD([w], lr=0.0, noise=ParameterNoise(1.0))
    optimizer.step()
    assert optimizer.param_groups[0]["noise_step"] == 0
    optimizer.param_groups[0].update(lr=0.1, noise_std=0.0)
    optimizer.step()
    assert optimizer.param_groups[0]["noise_step"] == 1
    assert torch.equal(w, torch.zeros(3))


def test_parameter_noise_of_a_replica_is_that_of_the_run_alone(problem):
    """In `train` too, with a std, an lr and a stream for each replica."""
    options = {"steps": 20, "batch_size": 3}
    noise = ParameterNoise((0.01, 0.02))
    many = DiagonalLinear(problem.d, replicas=2)
    optimizer = LabelNoiseSGD(many.parameters(), lr=[0.02, 0.01], noise=noise, seed=4)
    for _ in train(many, optimizer, problem, **options):
        pass
    for r, (std, lr) in enumerate(((0.01, 0.02), (0.02, 0.01))):
        one = DiagonalLinear(problem.d)
        alone = LabelNoiseSGD(one.parameters(), lr=lr, noise=ParameterNoise(std), seed=4, rank=r)
        for _ in train(one, alone, problem, **options):
            pass
        torch.testing.assert_close(many.coef[r], one.coef, rtol=0, atol=1e-12)


class SAM(torch.optim.Optimizer):
    """Two steps an iteration, neither of which is `step`: through an optimiser that it holds, or by hand."""

    def __init__(self, params, holds):
        super().__init__(params, {"lr": 0.1})
        self.base = torch.optim.SGD(self.param_groups) if holds else None

    @torch.no_grad()
    def first_step(self):
        for p in self.param_groups[0]["params"]:
            self.state[p]["old"] = p.clone()
            p.add_(0.05 * p.grad / p.grad.norm())
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for p in self.param_groups[0]["params"]:
            p.copy_(self.state[p]["old"])
            if self.base is None:
                p.sub_(0.1 * p.grad)
        if self.base is not None:
            self.base.step()
        self.zero_grad()


def _sam(holds, noise, after=lambda criterion: None):
    net, seen = torch.nn.Linear(3, 1), []
    sam = SAM(net.parameters(), holds)
    criterion = NoisyTargets(
        lambda x, y: seen.append(y.clone()) or torch.nn.functional.mse_loss(x, y), noise, optimizer=sam
    )
    for _ in range(4):
        for move in (sam.first_step, sam.second_step):
            criterion(net(torch.ones(5, 3)), torch.zeros(5, 1)).backward()
            move()
        after(criterion)
    return sam, seen


@pytest.mark.parametrize("holds", [True, False])
def test_the_two_steps_of_sam_are_draws_0_and_1_of_one_step(holds):
    """Counted through the optimiser that it holds, or by criterion.count(); pairs cancel draw by draw."""
    after = (lambda criterion: None) if holds else (lambda criterion: criterion.count())
    sam, seen = _sam(holds, Antithetic(GaussianNoise(1.0)), after)
    assert sam.param_groups[0]["noise_step"] == 4
    for k in (0, 1, 4, 5):
        assert torch.equal(seen[k + 2], -seen[k])
    assert not torch.equal(seen[0].abs(), seen[1].abs())


def test_an_optimiser_whose_steps_cannot_be_seen_is_one_warning_with_its_remedy():
    with pytest.warns(UserWarning, match=r"call criterion.count\(\) after each step") as found:
        sam, _ = _sam(False, GaussianNoise(1.0))
    assert len(found) == 1
    assert sam.param_groups[0]["noise_step"] == 0
