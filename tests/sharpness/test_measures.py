"""sharpness: dense matrices, the estimators' own law, the penalty of diagonal networks, a model left alone."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from lntrain import (
    Antithetic,
    DiagonalLinear,
    GaussianNoise,
    LabelFlips,
    LabelNoiseSGD,
    NoisyTargets,
    RademacherNoise,
    effective_penalty,
    quadratic,
)  # fmt: skip
from lntrain.noise.labels import Draw
from lntrain.penalty.formula import effective_lr
from lntrain.sharpness.curvature import _signs
from lntrain.sharpness.measures import (
    gauss_newton_trace,
    gradient_covariance_trace,
    hessian_trace,
    jacobian_norm,
    label_smoothing,
    regulariser,
    top_eigenvalue,
)  # fmt: skip

F64 = torch.float64
MSE, CE = nn.MSELoss(), nn.CrossEntropyLoss()
SMOOTH = nn.CrossEntropyLoss(label_smoothing=0.2)
N = 7


def _fixed(net):
    """The same weights on every machine and in every order of tests."""
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(torch.sin(1.7 * torch.arange(1.0, p.numel() + 1) + k).reshape(p.shape))
    return net.double()


def _mlp(outputs=2):
    return _fixed(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)))


def _conv():
    head = (nn.Flatten(), nn.Linear(4 * 4, 3))
    return _fixed(nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.Softplus(), nn.AvgPool2d(2, 1), *head))


def _quadratic(parametrisation):
    return quadratic(_mlp(), "weight", parametrisation, keep=True, where=lambda name, m: isinstance(m, nn.Linear))


def _diagonal():
    return DiagonalLinear(3, init=torch.tensor([0.5, 1.0, 0.3], dtype=F64))


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def _frozen():
    net = _mlp()
    net[0].weight.requires_grad_(False)
    return net


def _normed():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 2))
    _fixed(net)
    net[1].running_var.fill_(2.0)
    return net.eval()


def _wave(*shape, phase=0.3):
    return torch.cos(torch.arange(1.0, math.prod(shape) + 1, dtype=F64) * 1.3 + phase).reshape(shape)


X, IMAGES, Y2, Y1, CLASSES = (
    _wave(N, 3),
    _wave(N, 1, 4, 4),
    _wave(N, 2, phase=2.0),
    _wave(N, phase=1.0),
    torch.arange(N) % 2,
)
CASES = {
    "mlp mse": (_mlp, MSE, X, Y2),
    "mlp ce": (_mlp, CE, X, CLASSES),
    "mlp smoothed": (_mlp, SMOOTH, X, CLASSES),
    "mlp soft labels": (_mlp, CE, X, Y2.softmax(1)),
    "conv groupnorm mse": (_conv, MSE, IMAGES, _wave(N, 3)),
    "conv groupnorm smoothed": (_conv, SMOOTH, IMAGES, torch.arange(N) % 3),
    "quadratic difference": (lambda: _quadratic("difference"), CE, X, CLASSES),
    "quadratic hadamard": (lambda: _quadratic("hadamard"), MSE, X, Y2),
    "diagonal": (_diagonal, MSE, X, Y1),
    "tied": (lambda: _fixed(_Tied()), MSE, X, _wave(N, 3)),
    "frozen": (_frozen, CE, X, CLASSES),
    "batch norm and dropout, eval": (_normed, MSE, X, Y2),
}
EACH = pytest.mark.parametrize("case", list(CASES))


def _dense(net, criterion, x, y):
    """(Hessian, Gauss-Newton, Jacobian (n, K, P)), by torch.autograd.functional and by hand."""
    leaves = {k: p.detach() for k, p in net.named_parameters() if p.requires_grad}

    def output(flat):
        parts = torch.split(flat, [p.numel() for p in leaves.values()])
        values = {k: part.reshape(p.shape) for (k, p), part in zip(leaves.items(), parts, strict=True)}
        return functional_call(net, values, (x,))

    flat = torch.cat([p.reshape(-1) for p in leaves.values()])
    H = torch.autograd.functional.hessian(lambda f: criterion(output(f), y), flat)
    z = output(flat)
    J = torch.func.jacrev(output)(flat).reshape(len(x), -1, len(flat))
    C = torch.autograd.functional.hessian(lambda o: criterion(o, y), z).reshape(J[..., 0].numel(), -1)
    rows = J.reshape(-1, len(flat))
    return H, rows.T @ C @ rows, J


@EACH
def test_exact_traces_and_the_eigenvalue_are_those_of_the_dense_matrices(case):
    make, criterion, x, y = CASES[case]
    net = make()
    H, G, J = _dense(net, criterion, x, y)
    assert (H - G).norm() > 1e-3 * H.norm()  # else one would do for the other
    trace, gauss = (f(net, criterion, x, y, draws=None) for f in (hessian_trace, gauss_newton_trace))
    assert trace == (pytest.approx(float(H.trace()), rel=1e-11, abs=1e-13), 0)
    assert gauss == (pytest.approx(float(G.trace()), rel=1e-11), 0)
    assert jacobian_norm(net, x) == (pytest.approx(float(J.square().sum() / N), rel=1e-12), 0)
    top = top_eigenvalue(net, criterion, x, y, tol=1e-10)
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-9)
    assert top.stderr < 1e-6 * top.value


@EACH
def test_each_draw_is_a_quadratic_form_of_the_dense_matrix(case):
    make, criterion, x, y = CASES[case]
    net = make()
    H, G, J = _dense(net, criterion, x, y)
    signs = torch.stack([_signs(5, k, len(H)) for k in range(4)])
    for estimate, matrix in (
        (hessian_trace(net, criterion, x, y, draws=4, seed=5), H),
        (gauss_newton_trace(net, criterion, x, y, draws=4, seed=5), G),
        (jacobian_norm(net, x, draws=4, seed=5), torch.einsum("nkp,nkq->pq", J, J) / N),
    ):
        values = torch.einsum("kp,pq,kq->k", signs, matrix, signs)
        assert estimate.value == pytest.approx(float(values.mean()), rel=1e-10)
        assert estimate.stderr == pytest.approx(float(values.std() / 2), rel=1e-8)


@pytest.mark.parametrize("function", [hessian_trace, gauss_newton_trace])
def test_hutchinson_obeys_its_stated_law(function):
    """Mean within 5 standard errors; stderr^2 = 2 sum_(i != j) H_ij^2 / draws within 5 of its own (kurtosis < 6)."""
    make, criterion, x, y = CASES["mlp ce"]
    net, draws = make(), 2000
    matrix = _dense(net, criterion, x, y)[0 if function is hessian_trace else 1]
    estimate = function(net, criterion, x, y, draws=draws, seed=3)
    variance = 2 * float(matrix.square().sum() - matrix.diagonal().square().sum()) / draws
    assert abs(estimate.value - float(matrix.trace())) < 5 * math.sqrt(variance)
    assert estimate.stderr**2 == pytest.approx(variance, rel=5 * math.sqrt(5 / draws))


def test_signs_are_fair_and_a_function_of_seed_and_draw():
    signs = torch.stack([_signs(0, k, 1001) for k in range(200)])
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 5 / math.sqrt(signs.numel())
    gram = signs @ signs.T / math.sqrt(1001)
    assert float((gram - gram.diagonal().diag()).abs().max()) < 6  # no two draws alike
    assert torch.equal(_signs(0, 3, 1001), signs[3])
    assert not torch.equal(_signs(1, 3, 1001), signs[3])


def _all(net, criterion, x, y, noise, chunk):
    common = (net, criterion, x, y)
    return [
        hessian_trace(*common, draws=3, chunk=chunk), hessian_trace(*common, draws=None, chunk=chunk),
        gauss_newton_trace(*common, draws=3, chunk=chunk), gauss_newton_trace(*common, draws=None, chunk=chunk),
        jacobian_norm(net, x, chunk=chunk), jacobian_norm(net, x, draws=3, chunk=chunk),
        top_eigenvalue(*common, tol=1e-12, chunk=chunk),
        gradient_covariance_trace(*common, noise=noise, draws=3, chunk=chunk),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "noise"),
    [("mlp mse", 0.5), ("conv groupnorm smoothed", LabelFlips(0.3, 3))],
)
def test_chunks_do_not_change_the_values(case, noise):
    make, criterion, x, y = CASES[case]
    whole = _all(make(), criterion, x, y, noise, N)
    for chunk in (1, 3, 1000):
        for one, other in zip(_all(make(), criterion, x, y, noise, chunk), whole, strict=True):
            assert one.value == pytest.approx(other.value, rel=1e-11)
            assert one.stderr == pytest.approx(other.stderr, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("train", [True, False])
def test_the_model_and_the_worlds_random_numbers_are_left_alone(train):
    make, criterion, x, y = CASES["conv groupnorm mse" if train else "batch norm and dropout, eval"]
    net = make().train(train)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
        p.register_hook(lambda grad: pytest.fail("a hook of the user's parameter was called"))
    flags = [p.requires_grad for p in net.parameters()]
    state, identity = copy.deepcopy(net.state_dict()), [id(p) for p in net.parameters()]
    random, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with torch.no_grad():
        first = _all(net, criterion, x, y, 1.0, 4)
    assert first == _all(net, criterion, x, y, 1.0, 4)  # seeded, and the same without gradients
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(bool((p.grad == 1).all()) for p in net.parameters())
    assert [id(p) for p in net.parameters()] == identity
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(m.training == train for m in net.modules())
    assert torch.equal(random, torch.get_rng_state())
    assert (np.random.get_state()[1] == numbers).all()  # noqa: NPY002


def test_no_more_rows_than_a_chunk_are_in_memory_at_once():
    net, seen = _mlp(), []
    net.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    _all(net, MSE, X, Y2, 1.0, 3)
    assert max(seen) == 3


def test_buffers_written_in_the_forward_pass_are_left_alone():
    net = _fixed(nn.Sequential(nn.Conv2d(1, 2, 2), nn.InstanceNorm2d(2, track_running_stats=True), nn.Flatten()))
    hessian_trace(net, MSE, IMAGES, torch.zeros(N, 18, dtype=F64), draws=2, chunk=2)
    assert bool((net[1].running_mean == 0).all())
    assert int(net[1].num_batches_tracked) == 0


@pytest.mark.parametrize("tol", [1e-2, 1e-8])
def test_the_largest_eigenvalue_is_the_algebraic_one_and_its_residual_a_bound(tol):
    make, _, x, y = CASES["conv groupnorm mse"]

    def upside_down(output, target):
        return -MSE(output, target)

    H, _, _ = _dense(make(), upside_down, x, y)
    values = torch.linalg.eigvalsh(H)
    assert values[-1] < -values[0] / 2  # the largest in size is another
    top = top_eigenvalue(make(), upside_down, x, y, tol=tol)
    assert float((values - top.value).abs().min()) <= top.stderr + 1e-12
    assert top.value == pytest.approx(float(values[-1]), rel=10 * tol)


@pytest.mark.parametrize("width", [1, 2, 40])
def test_a_loss_without_curvature(width):
    net, x = nn.Linear(width, 1, bias=False, dtype=F64), torch.ones(3, width, dtype=F64)

    def linear(output, _):
        return output.mean()

    assert top_eigenvalue(net, linear, x, x) == (0, 0)
    assert hessian_trace(net, linear, x, x, draws=2) == (0, 0)
    assert gauss_newton_trace(net, linear, x, x, draws=2) == (0, 0)
    assert gauss_newton_trace(net, linear, x, x, draws=None) == (0, 0)


def test_a_compiled_model_and_float32():
    make, criterion, x, y = CASES["mlp smoothed"]
    exact = hessian_trace(make(), criterion, x, y, draws=None)
    compiled = torch.compile(make(), backend="aot_eager")
    found = hessian_trace(compiled, criterion, x, y, draws=None)
    assert found == (pytest.approx(exact.value, rel=1e-12), 0)  # a compiler may order sums as it likes
    single = hessian_trace(make().float(), criterion, x.float(), y, draws=None)
    assert single.value == pytest.approx(exact.value, rel=1e-4)


# -- the covariance of the gradient, and the regulariser it makes --


@pytest.mark.parametrize("noise", [GaussianNoise(0.7), RademacherNoise(0.7), Antithetic(GaussianNoise(0.7))], ids=repr)
@pytest.mark.parametrize(("outputs", "batch_size", "c"), [(1, None, 0.5), (1, 3, 0.5), (1, 3, 1.0), (2, 3, 1.0)])
def test_squared_loss_covariance_is_the_jacobian_norm(noise, outputs, batch_size, c):
    net, y = _mlp(outputs), Y2[:, :outputs].contiguous()

    def loss(output, target):
        return c * MSE(output, target)

    exact = (2 * c / outputs) ** 2 * 0.7**2 / (batch_size or N) * jacobian_norm(net, X).value
    found = gradient_covariance_trace(net, loss, X, y, noise=noise, batch_size=batch_size, draws=400, seed=1)
    assert abs(found.value - exact) < 5 * found.stderr
    assert found.stderr < 0.1 * exact


def test_covariance_pairs_are_independent_draws_of_the_noise():
    net, noise, seed = _mlp(), GaussianNoise(0.7), 4

    def gradient(draw):
        noisy = noise.perturb(Y2, Draw(((seed, 0),), 0, draw))
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(MSE(net(X), noisy), list(net.parameters()))])

    values = [N / 3 / 2 * float((gradient(k) - gradient(k + 1)).square().sum()) for k in (0, 2, 4)]
    found = gradient_covariance_trace(net, MSE, X, Y2, noise=noise, batch_size=3, draws=3, seed=seed)
    assert found == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1) / math.sqrt(3)))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("include_true", [False, True])
def test_flips_make_the_gauss_newton_of_the_smoothed_loss_where_it_is_fitted(classes, include_true):
    """Covariance of a flipped one-hot label = diag(m) - m m^T = the cross entropy's Hessian at softmax = m."""
    p, y, b = 0.3, torch.arange(N) % classes, 5
    smoothing = label_smoothing(p, classes, include_true=include_true)
    criterion, eye = nn.CrossEntropyLoss(label_smoothing=smoothing), torch.eye(N, dtype=F64)
    net = nn.Linear(N, classes, bias=False, dtype=F64)  # a logit of its own for each row: it can fit all
    m = (1 - smoothing) * nn.functional.one_hot(y, classes) + smoothing / classes
    with torch.no_grad():
        net.weight.copy_(m.log().T)
    noise = LabelFlips(p, classes, include_true=include_true)
    exact = gauss_newton_trace(net, criterion, eye, y, draws=None).value / b
    if classes == 2 and not include_true:
        assert exact == pytest.approx(2 * p * (1 - p) / b)  # p (1 - p) for each of the two logits
    found = gradient_covariance_trace(net, CE, eye, y, noise=noise, batch_size=b, draws=1000, seed=2)
    assert abs(found.value - exact) < 5 * found.stderr
    assert found.stderr < 0.05 * exact


@pytest.mark.parametrize("parametrisation", ["difference", "hadamard"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.5, "dampening": 0.5},
        {"momentum": 0.5, "antithetic": True},
        {"momentum": 0.5, "nesterov": True, "antithetic": True},
    ],
    ids=["plain", "momentum", "dampening", "antithetic", "antithetic nesterov"],
)
@pytest.mark.parametrize(("batch_size", "c"), list(itertools.product([None, 3], [0.25, 0.5, 1.0])))
def test_on_diagonal_networks_it_is_the_effective_penalty(parametrisation, options, batch_size, c):
    """coefficient * trace = 2c * sum_j lambda_j |beta_j|: our loss is 2c times the Lasso's half mean square."""
    beta = torch.tensor([0.7, -1.3, 0.0], dtype=F64)
    model, root = DiagonalLinear(3, parametrisation=parametrisation), beta.abs().sqrt()
    signs = (beta > 0, beta < 0) if parametrisation == "difference" else (torch.ones(3), beta.sign())
    with torch.no_grad():
        for weight, sign in zip(model.weights, signs, strict=True):
            weight.copy_(root * sign)
    torch.testing.assert_close(model.coef.detach(), beta)
    options = {"lr": 0.02, "std": 1.5, "loss_constant": c, **options}
    lam = effective_penalty(X, batch_size=batch_size, parametrisation=parametrisation, **options)
    coefficient = regulariser(batch_size=batch_size or N, **options)
    trace = gauss_newton_trace(model, lambda output, y: c * MSE(output, y), X, Y1, draws=None).value
    assert coefficient * trace == pytest.approx(2 * c * float(lam @ beta.abs()), rel=1e-12)
    assert trace == pytest.approx(2 * c * jacobian_norm(model, X).value, rel=1e-12)
    with torch.no_grad():
        model.weights[0].add_(0.1)
        model.weights[1].add_(0.1)
    norm = jacobian_norm(model, X).value
    assert coefficient * 2 * c * norm > 2 * c * float(lam @ model.coef.detach().abs())  # balanced is the least


def test_the_coefficient_is_a_quarter_of_the_step_times_the_covariance():
    net, lr, std, momentum = _mlp(), 0.03, 0.4, 0.6
    coefficient = regulariser(lr, batch_size=3, std=std, loss_constant=1.0, outputs=2, momentum=momentum)
    penalty = coefficient * gauss_newton_trace(net, MSE, X, Y2, draws=None).value
    covariance = gradient_covariance_trace(net, MSE, X, Y2, noise=std, batch_size=3, draws=400)
    rate = effective_lr(lr, momentum) / 4
    assert abs(penalty - rate * covariance.value) < 5 * rate * covariance.stderr
    assert covariance.stderr < 0.1 * covariance.value


@pytest.mark.parametrize("batch_size", [1, 4])
def test_flips_flatten_at_the_predicted_rate(batch_size):
    """Logits (0, u v), one row: u^2 - v^2 is multiplied by 1 - (lr g)^2 a step, so penalised flatness gives
    log(u^2 - v^2) the slope -4 lr coefficient h, h = p (1 - p) the fitted logistic curvature."""
    p, lr, steps = 0.3, 0.1, 4000
    u, v = (torch.tensor([[value]], dtype=F64, requires_grad=True) for value in (2.0, 0.42))
    optimizer = LabelNoiseSGD([u, v], lr=lr, noise=LabelFlips(p, 2), seed=8)
    criterion, y = optimizer.wrap(CE), torch.zeros(batch_size, dtype=torch.int64)
    zero, logs = torch.zeros(batch_size, 1, dtype=F64), []
    for _ in range(steps):
        logs.append(float((u * u - v * v).detach().log()))
        optimizer.zero_grad()
        criterion(torch.cat((zero + u * v, zero), 1), y).backward()
        optimizer.step()
    predicted = -4 * lr * regulariser(lr, batch_size=batch_size, p=p) * p * (1 - p)
    slope = (logs[-1] - logs[0]) / (steps - 1)
    # 5 standard errors: g^2 has a relative standard deviation of (1 - 2p) / sqrt(p (1 - p)) = .87 at most
    assert slope == pytest.approx(predicted, rel=5 * 0.9 / math.sqrt(steps))


@pytest.mark.parametrize("include_true", [False, True])
def test_label_smoothing_is_the_mean_loss_under_flips(include_true):
    K, p, logits, y = 4, 0.3, _wave(3, 4), torch.tensor([1, 3, 0])
    smooth = nn.CrossEntropyLoss(label_smoothing=label_smoothing(p, K, include_true=include_true))(logits, y)
    others = [torch.full((3,), k) for k in range(K)]
    losses = torch.stack([nn.functional.cross_entropy(logits, other, reduction="none") for other in others])
    own = nn.functional.cross_entropy(logits, y, reduction="none")
    spread = losses.mean(0) if include_true else (losses.sum(0) - own) / (K - 1)
    assert float(smooth) == pytest.approx(float(((1 - p) * own + p * spread).mean()), rel=1e-14)


def _trace(net=None, criterion=MSE, x=X, y=Y2, **options):
    return hessian_trace(_mlp() if net is None else net, criterion, x, y, **options)


def _no_parameters():
    return nn.Linear(3, 2, dtype=F64).requires_grad_(False)


def _drop():
    return nn.Sequential(nn.Linear(3, 2, dtype=F64), nn.Dropout(0.5))


class _Columns(nn.Linear):
    def forward(self, x):
        return super().forward(x).T


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: _trace(criterion=nn.MSELoss(reduction="none")), r"loss is of shape \(7, 2\)"),
        (lambda: _trace(criterion=nn.MSELoss(reduction="sum")), "its mean over two halves"),
        (
            lambda: _trace(criterion=nn.CrossEntropyLoss(torch.tensor([1.0, 9.0], dtype=F64)), y=CLASSES),
            "class weights",
        ),
        (lambda: _trace(criterion=LabelNoiseSGD(_mlp().parameters(), noise=1.0).wrap(MSE)), "no label noise"),
        (lambda: _trace(criterion=NoisyTargets(MSE, 1.0)), "no label noise"),
        (lambda: _trace(y=Y2 * math.nan), "loss is nan"),
        (lambda: _trace(_no_parameters()), "no trainable parameter"),
        (lambda: _trace(nn.ReLU()), "no trainable parameter"),
        (lambda: _trace(_normed().train()), "BatchNorm1d mixes the rows"),
        (lambda: _trace(nn.BatchNorm1d(3, track_running_stats=False).eval()), "BatchNorm1d mixes the rows"),
        (lambda: _trace(_drop()), "Dropout is random"),
        (lambda: _trace(y=Y2[:3]), "7 inputs and 3 targets"),
        (lambda: _trace(x=X[:0], y=Y2[:0]), "0 inputs and 0 targets"),
        (lambda: _trace(_Columns(3, 2, dtype=F64), y=Y2.T), "7 inputs and 2 targets"),
        (lambda: jacobian_norm(_Columns(3, 2, dtype=F64), X), r"output has shape \(2, 7\)"),
        (lambda: _trace(chunk=0), "chunk=0"),
        (lambda: _trace(draws=1), "draws=1"),
        (lambda: _trace(draws=0), "draws=0"),
        (lambda: gradient_covariance_trace(_mlp(), CE, X, CLASSES, noise=0.3), "needs float targets"),
        (lambda: gradient_covariance_trace(_mlp(), MSE, X, Y2, noise=LabelFlips(0.1, 2)), "integer class targets"),
        (lambda: gradient_covariance_trace(_mlp(), MSE, X, Y2, noise=0.3, batch_size=0), "batch_size=0"),
        (lambda: gradient_covariance_trace(_mlp(), MSE, X, Y2, noise=0.3, draws=1), "draws=1"),
        (lambda: regulariser(0.1, batch_size=3), "std=None and p=None"),
        (lambda: regulariser(0.1, batch_size=3, std=1.0, p=0.1), "std=1.0 and p=0.1"),
        (lambda: regulariser(0.1, batch_size=3, p=1.5), "p=1.5"),
        (lambda: regulariser(0.1, batch_size=3, std=-1.0), "std=-1.0"),
        (lambda: regulariser(-0.1, batch_size=3, std=1.0), "lr=-0.1"),
        (lambda: regulariser(0.1, batch_size=None, std=1.0), "needs a batch_size"),
        (lambda: regulariser(0.1, batch_size=3, std=1.0, outputs=0), "outputs=0"),
        (lambda: label_smoothing(0.9, 4), "p=0.9 exceeds"),
        (lambda: label_smoothing(0.1, 1), "num_classes=1"),
    ],
)
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_no_flips_penalise_nothing():
    assert regulariser(0.1, batch_size=3, p=0.0) == 0
    assert regulariser(0.1, batch_size=3, p=0.2) == pytest.approx(0.1 / 12)
