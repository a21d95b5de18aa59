"""conformance: gradient accumulation, mixed precision, torch.compile, torch.func, sparse and complex parameters."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import mse_loss

from lntrain import Antithetic, GaussianNoise, LabelFlips, LabelNoiseSGD, NoisyTargets
from lntrain.noise.controls import MinibatchNoise, ParameterNoise

FALSE_ALARM = 1e-6


def _gradient_noise(noise, micro_batches, steps=1500):
    """(steps,) the gradient of one weight at its optimum, where labels 0 leave nothing but noise; 12 rows a step."""
    x = torch.linspace(0.5, 2, 12, dtype=torch.float64).view(-1, 1)
    weight = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    optimizer, found = LabelNoiseSGD([weight], lr=0.0, noise=noise, seed=3), []
    criterion, size = optimizer.wrap(mse_loss), 12 // micro_batches
    for _ in range(steps):
        optimizer.zero_grad()
        for part in x.split(size):
            (criterion(part @ weight, torch.zeros(size, 1, dtype=torch.float64)) / micro_batches).backward()
        found.append(weight.grad.item())
        optimizer.step()
    assert optimizer.param_groups[0]["noise_step"] == steps
    return np.array(found), float((2 / 12) ** 2 * x.square().sum())


@pytest.mark.parametrize("micro_batches", [1, 2, 6])
def test_accumulated_gradient_has_the_noise_law_of_the_large_batch(micro_batches):
    """Gaussian with variance std^2 (2/n)^2 sum x_i^2 however it is cut: a shared draw would give up to 6 times it."""
    found, unit = _gradient_noise(GaussianNoise(0.7), micro_batches)
    chi2 = float((found**2).sum() / (0.7**2 * unit))
    assert 2 * min(stats.chi2.cdf(chi2, len(found)), stats.chi2.sf(chi2, len(found))) > FALSE_ALARM
    assert stats.kstest(found / np.sqrt(0.7**2 * unit), "norm").pvalue > FALSE_ALARM
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 5 / np.sqrt(len(found))  # steps are independent


def test_accumulated_antithetic_pairs_cancel():
    found, _ = _gradient_noise(Antithetic(GaussianNoise(0.7)), 3, steps=40)
    np.testing.assert_allclose(found[0::2], -found[1::2], rtol=0, atol=1e-15)
    assert np.abs(found).min() > 0


def _amp_run(case, net, optimizer, perturbed, dtype, fused, blown=()):
    """Eight steps with a GradScaler; the loss of the steps in `blown` is infinite, and they are skipped."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)
    for step in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = case.loss(net(case.X).float(), perturbed())
        scaler.scale(loss * float("inf") if step in blown else loss).backward()
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fused", [False, True], ids=["for-loop", "fused"])
def test_grad_scaler_skips_a_step_and_its_counter(gaussian, fused, dtype, equal):
    """Two of eight steps blow up: six count; labels are drawn anew after a skip; weights are SGD's by hand."""
    ours, theirs, labels = gaussian.net(), gaussian.net(), []
    optimizer = gaussian.optimizer(ours, fused=fused)

    def perturbed():
        labels.append(optimizer.perturb(gaussian.y))
        return labels[-1]

    _amp_run(gaussian, ours, optimizer, perturbed, dtype, fused, blown=(2, 5))
    assert optimizer.param_groups[0]["noise_step"] == 6
    assert len({tuple(y.flatten().tolist()) for y in labels}) == 8
    plain, replay = torch.optim.SGD(theirs.parameters(), lr=0.05, fused=fused), iter(labels)
    _amp_run(gaussian, theirs, plain, lambda: next(replay), dtype, fused, blown=(2, 5))
    assert equal(ours.parameters(), theirs.parameters())


@pytest.mark.parametrize("order", ["clear first", "clear late", "clear after"])
@pytest.mark.parametrize("foreign", [False, True], ids=["LabelNoiseSGD", "SGD"])
@pytest.mark.parametrize("fused", [False, True], ids=["for-loop", "fused"])
def test_pairs_stay_pairs_where_grad_scaler_skips_a_step(gaussian, fused, foreign, order):
    """A step that is dropped, the first of a pair or the second, is made again on its noise."""
    net, noise, applied = gaussian.net(), Antithetic(GaussianNoise(1.0)), []
    optimizer = (
        torch.optim.SGD(net.parameters(), lr=0.05, fused=fused)
        if foreign
        else gaussian.optimizer(net, noise=noise, fused=fused)
    )
    criterion = NoisyTargets(
        lambda x, y: applied.append((y - gaussian.y).clone()) or gaussian.loss(x, y), noise, optimizer=optimizer
    )
    scaler, kept = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=30), []
    for attempt in range(12):
        if order == "clear first":
            optimizer.zero_grad()
        loss = criterion(net(gaussian.X), gaussian.y)
        if order == "clear late":
            optimizer.zero_grad()
        scaler.scale(loss * float("inf") if attempt in (2, 5, 6, 9) else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        kept += [] if attempt in (2, 5, 6, 9) else [applied[-1]]
        if order == "clear after":
            optimizer.zero_grad()
    assert optimizer.param_groups[0]["noise_step"] == len(kept) == 8
    for first, second in zip(kept[0::2], kept[1::2], strict=True):
        torch.testing.assert_close(second, -first, rtol=0, atol=1e-6)  # what float32 labels round
    assert len({tuple(eps.flatten().tolist()) for eps in kept}) == 8


@pytest.mark.parametrize("fused", [False, True], ids=["for-loop", "fused"])
def test_a_skipped_step_does_not_shake_the_parameters(gaussian, fused, equal):
    net = gaussian.net()
    optimizer = gaussian.optimizer(net, noise=ParameterNoise(1.0), fused=fused)
    before = copy.deepcopy(list(net.parameters()))
    _amp_run(gaussian, net, optimizer, lambda: gaussian.y, torch.bfloat16, fused, blown=range(8))
    assert equal(net.parameters(), before)
    assert optimizer.param_groups[0]["noise_step"] == 0


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_model_has_no_graph_break(case):
    net, twin = case.net(), case.net()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    optimizer, other = case.optimizer(net), case.optimizer(twin)
    criterion = optimizer.wrap(case.loss)
    for _ in range(4):
        optimizer.zero_grad()
        criterion(compiled(case.X), case.y).backward()
        optimizer.step()
    for ours, theirs in zip(net.parameters(), case.train(twin, other, 4), strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("fresh_dynamo")
# dynamo itself looks at the .grad of what crosses a graph break, and says so where warnings are errors
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("case", ["gaussian", "minibatch", "parameters"], indirect=True)
@pytest.mark.parametrize("what", ["step", "perturb", "wrap"])
def test_compiled_step_is_the_eager_one(case, what):
    """Draws are no tensor operations: the graph breaks at them; the counters go on, and make nothing compile again."""
    net, twin, graphs = case.net(), case.net(), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    optimizer, other = case.optimizer(net), case.optimizer(twin)
    criterion = optimizer.wrap(case.loss)
    if what == "perturb" and isinstance(case.noise, MinibatchNoise):
        what = "wrap"
    step = torch.compile(optimizer.step, backend=backend) if what == "step" else optimizer.step

    def train():
        optimizer.zero_grad()
        if what == "perturb":
            case.loss(net(case.X), optimizer.perturb(case.y)).backward()
        else:
            criterion(net(case.X), case.y).backward()
        step()

    once = train if what == "step" else torch.compile(train, backend=backend)
    compiled_by_step = []
    for _ in range(12):
        once()
        compiled_by_step.append(len(graphs))
    assert 0 < compiled_by_step[-1] == compiled_by_step[3]
    for ours, theirs in zip(net.parameters(), case.train(twin, other, 12), strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=1e-6)
    assert optimizer.param_groups[0]["noise_step"] == 12


@pytest.mark.usefixtures("fresh_dynamo")
def test_inductor_compiles_model_and_step(gaussian):
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler: torch.compile's own backend is NOT tested")
    net, twin = gaussian.net(), gaussian.net()
    optimizer, compiled = gaussian.optimizer(net), torch.compile(net, fullgraph=True)
    step = torch.compile(optimizer.step)
    for _ in range(3):
        optimizer.zero_grad()
        mse_loss(compiled(gaussian.X), optimizer.perturb(gaussian.y)).backward()
        step()
    for ours, theirs in zip(net.parameters(), gaussian.train(twin, gaussian.optimizer(twin), 3), strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=1e-6)


def _member_loss(net, targets):
    return lambda parameters, y: mse_loss(functional_call(net, parameters, (targets.X,)), y)


def test_vmap_over_an_ensemble_is_each_member_alone(gaussian):
    """perturb(replicas=True) before vmap: member r has stream r, as a run alone with rank=r."""
    nets = [gaussian.net(seed) for seed in range(3)]
    parameters, _ = stack_module_state(nets)
    optimizer = LabelNoiseSGD(parameters.values(), lr=0.05, noise=0.3, seed=1)
    for _ in range(4):
        noisy = optimizer.perturb(gaussian.y.expand(3, -1, -1), replicas=True)
        gradients = vmap(grad(_member_loss(nets[0], gaussian)))(parameters, noisy)
        for name, p in parameters.items():
            p.grad = gradients[name]
        optimizer.step()
    for rank, net in enumerate(nets):
        gaussian.train(net, gaussian.optimizer(net, rank=rank), 4)
        for name, p in net.named_parameters():
            torch.testing.assert_close(parameters[name][rank], p, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shared", [True, False], ids=["one-target", "a-target-each"])
def test_a_draw_inside_vmap_is_refused(gaussian, shared):
    nets = [gaussian.net(seed) for seed in range(3)]
    parameters, _ = stack_module_state(nets)
    optimizer = gaussian.optimizer(nets[0])
    alien = NoisyTargets(mse_loss, 0.3)
    y = gaussian.y if shared else gaussian.y.expand(3, -1, -1)
    for loss in (optimizer.wrap(mse_loss), alien, lambda out, y: mse_loss(out, optimizer.perturb(y))):
        with pytest.raises(ValueError, match="inside vmap"):
            vmap(
                grad(lambda p, y, loss=loss: loss(functional_call(nets[0], p, (gaussian.X,)), y)),
                in_dims=(0, None if shared else 0),
            )(parameters, y)


def test_func_grad_and_functional_call_see_the_noise(gaussian):
    net, twin = gaussian.net(), gaussian.net()
    optimizer, other = gaussian.optimizer(net), gaussian.optimizer(twin)
    criterion = optimizer.wrap(mse_loss)
    parameters = dict(net.named_parameters())
    gradients = grad(lambda p: criterion(functional_call(net, p, (gaussian.X,)), gaussian.y))(parameters)
    other.wrap(mse_loss)(twin(gaussian.X), gaussian.y).backward()
    for name, p in twin.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=0, atol=1e-7)


@pytest.mark.parametrize("noise", [GaussianNoise(0.3), ParameterNoise(0.3)], ids=["gaussian", "parameters"])
def test_sparse_gradients_are_the_dense_ones(noise):
    rows, y, pairs = torch.tensor([0, 2, 2]), torch.ones(3, 2), []
    for sparse in (True, False):
        torch.manual_seed(0)
        net = nn.Embedding(5, 2, sparse=sparse)
        optimizer = LabelNoiseSGD(net.parameters(), lr=0.1, noise=noise)
        criterion = optimizer.wrap(mse_loss)
        for _ in range(4):
            optimizer.zero_grad()
            criterion(net(rows), y).backward()
            assert net.weight.grad.is_sparse is sparse
            optimizer.step()
        pairs.append(net.weight.detach())
    torch.testing.assert_close(*pairs, rtol=0, atol=1e-6)


def test_complex_parameters_are_pairs_of_real_ones():
    """A complex weight under label or parameter noise moves as its real and imaginary parts do."""
    x, y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.ones(8)
    for noise in (GaussianNoise(0.3), ParameterNoise(0.3)):
        whole, pair = nn.Parameter(torch.zeros(3, dtype=torch.complex64)), nn.Parameter(torch.zeros(3, 2))
        for weight in (whole, pair):
            optimizer = LabelNoiseSGD([weight], lr=0.1, noise=noise)
            criterion = optimizer.wrap(mse_loss)
            for _ in range(5):
                optimizer.zero_grad()
                output = (x + 0j) @ weight if weight.is_complex() else torch.view_as_complex(x @ weight)
                criterion(output.real + 2 * output.imag, y).backward()
                optimizer.step()
        torch.testing.assert_close(torch.view_as_real(whole.detach()), pair.detach(), rtol=0, atol=1e-6)
        assert float(pair.detach().abs().min()) > 0


@pytest.mark.parametrize("noise", [GaussianNoise(0.3), LabelFlips(0.3, 3)], ids=["gaussian", "flips"])
def test_complex_targets_are_refused(gaussian, noise):
    optimizer = gaussian.optimizer(gaussian.net(), noise=noise)
    with pytest.raises(ValueError, match=r"targets, not torch\.complex64"):
        optimizer.perturb(torch.zeros(3, dtype=torch.complex64))
