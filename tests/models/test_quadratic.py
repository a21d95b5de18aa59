"""quadratic: the balanced start, the same training as DiagonalLinear, and all that a torch layer goes through."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lntrain import DiagonalLinear, LabelNoiseSGD, Problem, quadratic, train, unquadratic
from lntrain.models.diagonal import LogNormalInit

F64 = torch.float64
BOTH = pytest.mark.parametrize("parametrisation", ["difference", "hadamard"])


def _linear(weight, dtype=F64):
    weight = torch.as_tensor(weight, dtype=dtype).reshape(1, -1)
    layer = nn.Linear(weight.shape[1], 1, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def _factors(layer, name="weight"):
    steps = layer.parametrizations[name]
    return steps.original0.detach(), steps.original1.detach()


def _w_pm(layer, parametrisation):
    u, v = _factors(layer)
    return ((u + v) / 2, (u - v) / 2) if parametrisation == "hadamard" else (u, v)


def _is_linear(name, module):
    return isinstance(module, nn.Linear)


def _net(dtype=F64):
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 1)).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.sin(torch.arange(1.0, p.numel() + 1).reshape(p.shape)))
    return net


X4 = torch.linspace(-1, 1, 3 * 2 * 4 * 4, dtype=F64).reshape(3, 2, 4, 4)


@BOTH
@pytest.mark.parametrize("init", [0.3, LogNormalInit(0.2, 0.5, seed=1)], ids=["number", "lognormal"])
@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 3}, {"batch_size": 3, "momentum": 0.9}], ids=["full", "batch", "momentum"]
)
def test_a_quadratic_linear_layer_trains_as_diagonal_linear(parametrisation, init, options, problem):
    options = dict(options)
    momentum = options.pop("momentum", 0.0)

    def coefs(model, read):
        optimizer = LabelNoiseSGD(model.parameters(), lr=0.004, noise=1.0, momentum=momentum, seed=5)
        run = train(model, optimizer, problem, 200, snapshots=[1, 50, 200], engine="torch", **options)
        return torch.stack([read(model).detach().clone() for s in run if s.scheduled])

    init = init if isinstance(init, float) else init((problem.d,))  # one vector for (d,) and (1, d)
    diagonal = coefs(DiagonalLinear(problem.d, parametrisation=parametrisation, init=init), lambda m: m.coef)
    layer = quadratic(nn.Linear(problem.d, 1, bias=False, dtype=F64), "weight", parametrisation, init=init)
    linear = coefs(layer, lambda m: m.weight[0])
    error = ((linear - diagonal).norm(dim=1) / diagonal.norm(dim=1)).max()
    assert error <= 1e-12
    assert diagonal[-1].abs().max() > 0.1  # it went somewhere


@BOTH
@pytest.mark.parametrize("init", [0.1, 1.0, LogNormalInit(0.1, 0.5, seed=2)], ids=["0.1", "1", "lognormal"])
def test_from_zero_the_start_is_diagonal_linears_bit_for_bit(parametrisation, init):
    layer = quadratic(nn.Linear(5, 1, dtype=F64), "weight", parametrisation, init=init)
    alpha = init((1, 5))[0] if callable(init) else init
    expected = DiagonalLinear(5, parametrisation=parametrisation, init=alpha).weights
    for factor, weight in zip(_factors(layer), expected, strict=True):
        assert torch.equal(factor[0], weight.detach())
    assert bool((layer.weight == 0).all())


def test_a_frozen_layer_stays_frozen_from_zero_too():
    layer = nn.Linear(3, 2)
    layer.weight.requires_grad_(False)
    assert [n for n, p in quadratic(layer).named_parameters() if p.requires_grad] == ["bias"]


@BOTH
def test_keep_starts_at_the_present_weight_on_the_balanced_hyperbola(parametrisation):
    W, alpha = torch.tensor([-3.0, -0.5, -1e-3, 0.0, 1e-3, 0.5, 3.0], dtype=F64), 0.2
    plus, minus = _w_pm(quadratic(_linear(W), "weight", parametrisation, init=alpha, keep=True), parametrisation)
    root = (W.square() + 4 * alpha**4).sqrt()
    torch.testing.assert_close(plus[0].square(), (root + W) / 2, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(minus[0].square(), (root - W) / 2, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(plus * minus, torch.full_like(plus, alpha**2), rtol=1e-14, atol=0)
    layer = quadratic(_linear(W), "weight", parametrisation, init=alpha, keep=True)
    torch.testing.assert_close(layer.weight.detach()[0], W, rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize("alpha", [1e-100, 1e-30, 1e-6, 1e-3, 10.0, 1e6])
@pytest.mark.parametrize("size", [1e-200, 1e-12, 1.0, 1e12, 1e200])
def test_balanced_weights_do_not_cancel(alpha, size):
    """Against exact arithmetic: w_large^2 = (sqrt(W^2 + 4 a^4) + |W|)/2 and w_small = a^2 / w_large."""
    from fractions import Fraction

    layer = quadratic(_linear([size, -size]), init=alpha, keep=True)
    (plus, minus), exact = _factors(layer), Fraction(alpha) ** 2
    for large, small in ((plus[0, 0], minus[0, 0]), (minus[0, 1], plus[0, 1])):
        large, small = Fraction(float(large)), Fraction(float(small))
        assert abs(large * small / exact - 1) < 1e-15  # the naive root gives 0 here, or 100 % off
        assert abs((large**2 - small**2) - Fraction(size)) < 2e-15 * (large**2 + small**2)
        assert small > 0


@pytest.mark.parametrize(("alpha", "size"), [(1e-3, 1.0), (0.1, 1e-12), (1e-6, 1e-3), (1e-30, 1e-200), (10.0, 1e-200)])
def test_hadamard_is_the_rotation_of_the_difference_and_keeps_tiny_weights(alpha, size):
    W = [size, -size]
    plus, minus = _factors(quadratic(_linear(W), init=alpha, keep=True))
    layer = quadratic(_linear(W), "weight", "hadamard", init=alpha, keep=True)
    u, v = _factors(layer)
    torch.testing.assert_close(u, plus + minus, rtol=1e-15, atol=0)
    torch.testing.assert_close(v, plus - minus, rtol=0, atol=float(1e-15 * u.max()))
    torch.testing.assert_close(layer.weight.detach()[0], torch.tensor(W, dtype=F64), rtol=1e-15, atol=0)


@BOTH
def test_a_later_assignment_sets_the_weight_too(parametrisation):
    layer = quadratic(nn.Linear(3, 1, dtype=F64), "weight", parametrisation, init=0.5)
    W = torch.tensor([[1.0, 0.0, -2.0]], dtype=F64)
    layer.weight = W
    torch.testing.assert_close(layer.weight.detach(), W, rtol=1e-14, atol=1e-16)
    plus, minus = _w_pm(layer, parametrisation)
    torch.testing.assert_close(plus * minus, torch.full_like(W, 0.25), rtol=1e-14, atol=0)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_there_and_back_is_a_plain_leaf_parameter(parametrisation, dtype, trained, kind):
    layer = kind(3, 4, 2) if kind is nn.Conv2d else kind(3, 4)
    layer = layer.to(dtype)
    layer.weight.requires_grad_(trained)
    before, bias = layer.weight.detach().clone(), layer.bias
    assert quadratic(layer, "weight", parametrisation, init=0.3, keep=True) is layer
    for factor in (layer.parametrizations.weight.original0, layer.parametrizations.weight.original1):
        assert factor.dtype == dtype
        assert factor.requires_grad == trained
        assert isinstance(factor, nn.Parameter)
    with torch.no_grad():  # torch's own removal then leaves a buffer
        assert unquadratic(layer) is layer
    assert type(layer) is kind
    assert [n for n, _ in layer.named_parameters()] == ["bias", "weight"]
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.is_leaf
    assert layer.weight.requires_grad == trained
    assert layer.weight.dtype == dtype
    assert not list(layer.buffers())
    assert layer.bias is bias
    torch.testing.assert_close(layer.weight.detach(), before, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_the_forward_of_a_whole_model_by_a_filter_is_kept():
    net, plain = _net(), _net()
    chosen = []
    quadratic(net, keep=True, where=lambda name, m: _is_linear(name, m) and not chosen.append(name))
    assert chosen == ["3", "4"]
    assert [parametrize.is_parametrized(m) for m in net] == [False, False, False, True, True]
    torch.testing.assert_close(net(X4), plain(X4), rtol=1e-12, atol=1e-14)
    assert len(list(net.parameters())) == len(list(plain.parameters())) + 2
    unquadratic(net)
    assert sorted(net.state_dict()) == sorted(plain.state_dict())


def test_copies_are_their_own():
    """torch's copy shares the class that holds the property: undoing one must leave the other whole."""
    net = quadratic(_net(), keep=True, where=_is_linear)
    twin = copy.deepcopy(net)
    expected = net(X4).detach()
    with torch.no_grad():
        net[3].parametrizations.weight.original0 += 1
    assert torch.equal(twin(X4), expected)
    unquadratic(net)
    assert torch.equal(twin(X4), expected)
    quadratic(twin, "bias", keep=True, where=_is_linear)
    third = copy.deepcopy(twin)
    unquadratic(twin)
    torch.testing.assert_close(third(X4), twin(X4), rtol=1e-12, atol=1e-14)


def test_a_second_parameter_of_a_copy_leaves_the_first_layer_alone():
    layer = quadratic(nn.Linear(3, 2, dtype=F64), keep=True)
    expected, other = layer(X4[0, 0, :, :3]).detach(), copy.deepcopy(layer)
    quadratic(other, "bias", keep=True)
    assert torch.equal(layer(X4[0, 0, :, :3]), expected)
    torch.testing.assert_close(other(X4[0, 0, :, :3]), expected, rtol=1e-12, atol=1e-14)


@BOTH
def test_state_dict_round_trip(parametrisation):
    net, other = (quadratic(_net(), "weight", parametrisation, keep=True, where=_is_linear) for _ in range(2))
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(net(X4), other(X4))


@BOTH
def test_compile_and_functional_call(parametrisation):
    net = quadratic(_net(), "weight", parametrisation, keep=True, where=_is_linear)
    expected = net(X4)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X4), expected, rtol=1e-12, atol=1e-14)
    compiled(X4).sum().backward()
    grads = {n: p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad()
    expected.sum().backward()
    for n, p in net.named_parameters():
        torch.testing.assert_close(grads[n], p.grad, rtol=1e-10, atol=1e-12)
    doubled = {n: 2 * p.detach() for n, p in net.named_parameters() if "parametrizations" in n}
    other = copy.deepcopy(net)
    other.load_state_dict(doubled, strict=False)
    torch.testing.assert_close(torch.func.functional_call(net, doubled, (X4,)), other(X4))
    torch.testing.assert_close(net(X4), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(other[4].weight, 4 * net[4].weight)


def test_gradients_are_those_of_the_formulas():
    for parametrisation, expected in (("difference", (2, -2)), ("hadamard", (1, 1))):
        layer = quadratic(_linear([0.5, -0.25]), "weight", parametrisation, init=0.4, keep=True)
        u, v = _factors(layer)
        layer(torch.tensor([[1.0, 3.0]], dtype=F64)).sum().backward()
        g = torch.tensor([[1.0, 3.0]], dtype=F64)
        first, second = (u, v) if parametrisation == "difference" else (v, u)
        steps = layer.parametrizations.weight
        torch.testing.assert_close(steps.original0.grad, expected[0] * g * first)
        torch.testing.assert_close(steps.original1.grad, expected[1] * g * second)


def _tied():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    return net


def _repeated():
    layer = nn.Linear(3, 3, dtype=F64)
    return nn.Sequential(layer, nn.Tanh(), layer)


def test_one_module_used_twice_is_one_layer():
    net, x = _repeated(), torch.ones(2, 3, dtype=F64)
    expected = net(x).detach()
    quadratic(net, keep=True, where=_is_linear)
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-14)
    assert len(list(net.parameters())) == 3


def _on_top():
    layer = quadratic(nn.Linear(2, 2))
    parametrize.register_parametrization(layer, "weight", nn.Tanh())
    return layer


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: quadratic(nn.Linear(2, 2), "weight", "square"), "parametrisation='square' is unknown"),
        (lambda: quadratic(nn.Linear(2, 2), "weights"), "Linear has no parameter 'weights': it has weight, bias"),
        (lambda: quadratic(nn.Linear(2, 2, bias=False), "bias"), "Linear has no parameter 'bias'"),
        (lambda: quadratic(nn.ReLU()), "ReLU has no parameter 'weight': it has none"),
        (lambda: quadratic(quadratic(nn.Linear(2, 2))), "weight of Linear is already parametrised"),
        (lambda: quadratic(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))), "is already parametrised"),
        (lambda: quadratic(nn.Linear(2, 2, dtype=torch.complex64)), "is torch.complex64"),
        (lambda: quadratic(nn.LazyLinear(2)), "has no shape yet"),
        (lambda: quadratic(_tied(), where=_is_linear), "is shared with another parameter"),
        (lambda: quadratic(_tied(), where=lambda n, m: n == "0"), "is shared with another parameter"),
        (lambda: quadratic(nn.Linear(2, 2), where=lambda n, m: False), "where picks no submodule"),
        (lambda: quadratic(nn.Linear(2, 2), init=0.0), "init must be finite and not zero"),
        (lambda: quadratic(nn.Linear(2, 2), init="big"), "init='big' is neither"),
        (lambda: quadratic(nn.Linear(2, 2), init=torch.ones(3)), "init has shape"),
        (lambda: quadratic(_linear([math.nan]), keep=True), "must be finite"),
        (lambda: quadratic(nn.Linear(2, 2), init=1e-50), "init is lost beside a weight of 0 in torch.float32"),
        (lambda: quadratic(_linear([1.0]), "weight", "hadamard", init=1e-9, keep=True), "lost beside a weight of 1 in"),
        (lambda: unquadratic(nn.Linear(2, 2)), "no quadratic parameter"),
        (lambda: unquadratic(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))), "no quadratic parameter"),
        (lambda: unquadratic(_on_top()), "another parametrisation on top"),
    ],
    ids=[
        "name",
        "no parameter",
        "no bias",
        "no parameters",
        "twice",
        "weight norm",
        "complex",
        "lazy",
        "tied",
        "half tied",
        "where",
        "zero",
        "word",
        "shape",
        "nan",
        "tiny float32",
        "tiny hadamard",
        "plain",
        "other",
        "on top",
    ],
)
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_refusal_changes_nothing():
    net = _net()
    with torch.no_grad():
        net[4].weight[0, 0] = math.inf
    before = {n: p for n, p in net.named_parameters()}
    with pytest.raises(ValueError, match="finite"):
        quadratic(net, keep=True, where=_is_linear)
    assert all(p is before[n] for n, p in net.named_parameters())
    assert not any(parametrize.is_parametrized(m) for m in net)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("group", ["in", "out", 3, 6, 1])
@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: nn.Conv1d(2, 4, 3)], ids=["linear", "conv"])
def test_groups_start_balanced_at_the_weight(make, group, keep):
    """W = u_g v_g, and u_g^2 - |v_g|^2 = 4 alpha^2 in every group: what a start at W = 0, u = 2 alpha, flows along."""
    torch.manual_seed(0)
    layer = make().to(F64)
    before = layer.weight.detach().clone()
    quadratic(layer, init=0.3, group=group, keep=keep)
    torch.testing.assert_close(layer.weight.detach(), before if keep else 0 * before, rtol=1e-14, atol=1e-15)
    u, v = _factors(layer)
    cut = v.reshape(4, -1, group) if isinstance(group, int) else v
    inside = tuple(axis for axis in range(cut.ndim) if u.shape[axis] == 1)
    assert u.numel() == {"in": layer.weight.shape[1], "out": 4}.get(group, 24 // group if isinstance(group, int) else 0)
    torch.testing.assert_close(u.square() - cut.square().sum(inside, keepdim=True), torch.full_like(u, 0.36))


@pytest.mark.parametrize(
    ("group", "labels"), [("in", range(6)), ("out", [0] * 6), (2, [0, 0, 1, 1, 2, 2]), (1, range(6))], ids=str
)
def test_a_grouped_layer_trains_as_diagonal_linear(group, labels):
    rng = torch.Generator().manual_seed(0)
    problem = Problem(torch.randn(9, 6, generator=rng, dtype=F64), torch.randn(9, generator=rng, dtype=F64))
    layer, model = _linear([0.0] * 6), DiagonalLinear(6, groups=labels, init=0.3)
    quadratic(layer, init=0.3, group=group)
    coefs = []
    for module in (layer, model):
        optimizer = LabelNoiseSGD(module.parameters(), lr=0.02, noise=1.0, seed=3)
        *_, last = train(module, optimizer, problem, 30, engine="torch")
        coefs.append(last.coef)
    torch.testing.assert_close(*coefs, rtol=1e-11, atol=1e-13)
    assert coefs[0].abs().max() > 0.01


@pytest.mark.parametrize("make", [nn.Conv1d, nn.ConvTranspose1d])
@pytest.mark.parametrize("group", ["in", "out"])
def test_a_convolutions_group_is_a_channel(make, group):
    """With the group of channel 0 at 0, input 0 is not read, or output 0 is not written; the others are."""
    layer = quadratic(make(4, 6, 3, bias=False), group=group, keep=True)
    u, _ = _factors(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original0.view(-1)[0] = 0.0
        signal = torch.ones(1, 4, 5)
        read = [bool(layer(signal * (torch.arange(4)[:, None] == j)).any()) for j in range(4)]
        written = layer(signal).any(-1)[0].tolist()
    assert u.numel() == {"in": 4, "out": 6}[group]
    assert read == [group == "out", True, True, True]
    assert written == [group == "in"] + 5 * [True]


def test_groups_of_a_model_go_through_copies_and_back():
    net = quadratic(_net(), keep=True, group="in", where=_is_linear)
    assert "groups=12" in repr(net)
    whole, state = net(X4).detach(), net.state_dict()
    twin = copy.deepcopy(net)
    other = quadratic(_net(), group="in", init=0.7, where=_is_linear)
    other.load_state_dict(state)
    for same in (twin, other):
        torch.testing.assert_close(same(X4), whole)
    plain = unquadratic(net)
    torch.testing.assert_close(plain(X4), whole)
    assert isinstance(plain[3].weight, nn.Parameter)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: quadratic(nn.Linear(6, 4), group="rows"), "group='rows'"),
        (lambda: quadratic(nn.Linear(6, 4), group=4), "group=4 does not divide the 6 weights of a row"),
        (lambda: quadratic(nn.Linear(6, 4), group=0), "group=0"),
        (lambda: quadratic(nn.Linear(6, 4), group=[2, 3]), r"group=\[2, 3\] must be a whole number"),
        (lambda: quadratic(nn.Conv2d(4, 6, 3, groups=2), group="in"), 'group="in" is not defined with groups=2'),
        (lambda: quadratic(nn.ConvTranspose2d(4, 6, 3, groups=2), group="out"), 'group="out" is not defined'),
        (lambda: quadratic(nn.Linear(6, 4), "bias", group="in"), "needs rows and columns"),
        (lambda: quadratic(nn.Linear(6, 4), "weight", "difference", group="in"), 'needs parametrisation="hadamard"'),
        (lambda: quadratic(_linear([1e9, 1e9]).float(), init=1e-9, group=1, keep=True), "init is lost"),
    ],
)
def test_groups_that_a_layer_has_not_are_refused(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
