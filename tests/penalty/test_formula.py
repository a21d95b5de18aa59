"""penalty: every row of theory.md section 3 in numbers, the inverse, and the stable step by autograd."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lntrain import DiagonalLinear, effective_penalty, noise_for_penalty
from lntrain.penalty.formula import (
    alpha_max,
    effective_lr,
    finite_step_bias,
    gradient_kurtosis,
    mean_squares,
    stable_lr,
    step_factor,
)

# n = 4, c = (1, 4, .25): the numbers below are computed by hand for lr = .01 and std = 2
X = torch.tensor([[1.0, 2.0, 0.5], [1.0, -2.0, 0.5], [-1.0, 2.0, 0.5], [-1.0, -2.0, -0.5]], dtype=torch.float64)
C = [1.0, 4.0, 0.25]
BASE = 0.5 * 2 * 0.01 * 4 / 4  # (1/2) a lr std^2 / n at half the mean square: a = 2

TABLE = {
    "half MSE, full": ({}, BASE),
    "full by its size": ({"batch_size": 4, "sampling": "full"}, BASE),
    "the paper's: gamma delta / (2n)": ({"loss_constant": 0.25}, 0.01 * 4 / (2 * 4)),
    "torch's MSELoss: twice half MSE": ({"loss_constant": 1.0}, 2 * BASE),
    "square": ({"parametrisation": "square"}, BASE),
    "hadamard: half": ({"parametrisation": "hadamard"}, BASE / 2),
    "replacement, batch 1": ({"batch_size": 1}, 4 * BASE),
    "replacement, batch 2": ({"batch_size": 2, "sampling": "replacement"}, 2 * BASE),
    "without, batch 2": ({"batch_size": 2, "sampling": "without"}, 2 * BASE),
    "shuffle, batch 2": ({"batch_size": 2, "sampling": "shuffle"}, 2 * BASE),
    "haochen, one draw": ({"batch_size": 1, "sampling": "noisy_rows"}, 4 * BASE),
    "heavy ball .9": ({"momentum": 0.9}, 10 * BASE),
    "dampening": ({"momentum": 0.9, "dampening": 0.5}, 5 * BASE),
    "nesterov .9": ({"momentum": 0.9, "nesterov": True}, 10 * BASE),
    "antithetic alone": ({"antithetic": True}, BASE),
    "antithetic heavy ball": ({"momentum": 0.9, "antithetic": True}, BASE),
    "antithetic nesterov": ({"momentum": 0.5, "nesterov": True, "antithetic": True}, 2 * 0.75 * BASE),
}


@pytest.mark.parametrize(("options", "expected"), list(TABLE.values()), ids=list(TABLE))
def test_effective_penalty_is_the_table_of_theory(options, expected):
    penalty = effective_penalty(X, lr=0.01, std=2.0, **options)
    assert penalty.tolist() == pytest.approx([expected * c for c in C], rel=1e-12)
    assert penalty.dtype == torch.float64


@pytest.mark.parametrize(
    ("parametrisation", "loss_constant", "a"),
    [("difference", 0.5, 2.0), ("square", 0.25, 1.0), ("hadamard", 0.5, 1.0), ("hadamard", 1.0, 2.0)],
)
def test_weight_decay_adds_itself_over_a(parametrisation, loss_constant, a):
    options = {"lr": 0.01, "std": 2.0, "parametrisation": parametrisation, "loss_constant": loss_constant}
    added = effective_penalty(X, weight_decay=0.3, **options) - effective_penalty(X, **options)
    assert added.tolist() == pytest.approx([0.3 / a] * 3, rel=1e-12)


def test_one_lr_or_std_a_replica():
    many = effective_penalty(X, lr=np.array([0.01, 0.02]), std=(2.0, 3.0))
    assert many.shape == (2, 3)
    for row, lr, std in zip(many, (0.01, 0.02), (2.0, 3.0), strict=True):
        torch.testing.assert_close(row, effective_penalty(X, lr=lr, std=std), rtol=1e-14, atol=0)


@pytest.mark.parametrize("options", [o for o, _ in TABLE.values()], ids=list(TABLE))
@pytest.mark.parametrize("weight_decay", [0.0, 0.002])
@pytest.mark.parametrize("std", [1e-3, 0.7, 1e6])
def test_noise_for_penalty_is_the_inverse(options, weight_decay, std):
    options = {"lr": 0.003, "weight_decay": weight_decay, **options}
    penalty = effective_penalty(X, std=std, **options)
    rtol = 1e-9 if std > 1e-3 else 1e-6  # there the wish all but drowns in weight decay's share
    assert noise_for_penalty(X, penalty, **options) == pytest.approx(std, rel=rtol)
    a = step_factor(options.get("parametrisation", "difference"), options.get("loss_constant", 0.5))
    alpha = float(penalty[0] - weight_decay / a) / C[0]
    assert noise_for_penalty(X, alpha, **options) == pytest.approx(std, rel=rtol)


def test_a_list_of_wishes_gives_one_std_a_replica():
    assert noise_for_penalty(X, [0.01, 0.04], lr=0.01) == pytest.approx([2.0, 4.0])


def test_alpha_max_is_where_the_lasso_becomes_zero():
    y = torch.tensor([1.0, 2.0, 3.0, -4.0], dtype=torch.float64)
    by_hand = max(abs(float(X[:, j] @ y)) / 4 / C[j] for j in range(3))
    assert alpha_max(X, y) == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.parametrize("parametrisation", ["difference", "square", "hadamard"])
@pytest.mark.parametrize("loss_constant", [0.25, 0.5])
def test_stable_lr_is_two_over_the_top_eigenvalue_of_the_hessian(parametrisation, loss_constant):
    """At an interpolating minimum with w_minus = 0 (Hadamard: |u| = |v|), by autograd."""
    rng = torch.Generator().manual_seed(0)
    design = torch.randn(6, 4, generator=rng, dtype=torch.float64)
    root = torch.tensor([1.0, 0.7, 0.0, 1.3], dtype=torch.float64)
    y = design @ root.square()
    flat = {"difference": [root, 0 * root], "square": [root], "hadamard": [root, root]}[parametrisation]
    model = DiagonalLinear(4, parametrisation=parametrisation)

    def loss(*weights):
        names = [name for name, _ in model.named_parameters()]
        output = torch.func.functional_call(model, dict(zip(names, weights, strict=True)), (design,))
        return loss_constant * (output - y).square().mean()

    blocks = torch.autograd.functional.hessian(loss, tuple(flat))
    hessian = torch.cat([torch.cat(row, 1) for row in blocks])
    top = float(torch.linalg.eigvalsh(hessian)[-1])
    stable = stable_lr(design, root.square(), parametrisation=parametrisation, loss_constant=loss_constant)
    assert stable == pytest.approx(2 / top, rel=1e-12)
    for momentum in (0.5, 0.9):  # heavy ball: 2 (1 + mu) / top
        options = {"parametrisation": parametrisation, "loss_constant": loss_constant, "momentum": momentum}
        assert stable_lr(design, root.square(), **options) == pytest.approx(2 * (1 + momentum) / top, rel=1e-12)


@pytest.mark.parametrize(("dampening", "nesterov"), [(0.0, False), (0.5, False), (0.0, True)])
def test_stable_lr_with_momentum_is_where_torch_sgd_begins_to_diverge(dampening, nesterov):
    """On w^2 / 2 at the step that a minimum of curvature 1 allows, times 0.99 and 1.01."""
    options = {"momentum": 0.9, "dampening": dampening, "nesterov": nesterov}
    bound = 2 * stable_lr([[1.0]], [1.0], loss_constant=0.25, **options)  # a = h = 1: the Hessian there is 2
    for share, grows in ((0.99, False), (1.01, True)):
        w = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=share * bound, **options)
        for _ in range(4000):
            w.grad = w.detach().clone()
            optimizer.step()
        assert (float(w.detach().abs()) > 1e3) == grows


def test_stable_lr_edges():
    assert stable_lr(X, [0.0, 0.0, 0.0]) == math.inf
    whole = stable_lr(X, [1.0, 1.0, 0.0])
    assert stable_lr(X, [1.0, 1.0, 0.0], batch_size=4) == whole
    assert stable_lr(X, [1.0, 1.0, 0.0], batch_size=1) <= stable_lr(X, [1.0, 1.0, 0.0], batch_size=2) <= whole


@pytest.mark.parametrize(("noise", "kappa"), [("gaussian", 3.0), ("rademacher", 1.0)])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_gradient_kurtosis_by_monte_carlo(noise, kappa, batch_size):
    rng = np.random.default_rng(0)
    design, draws = rng.standard_normal((12, 2)) * [1.0, 3.0], 400_000
    size = (draws, batch_size or 12)
    eps = rng.standard_normal(size) if noise == "gaussian" else rng.choice([-1.0, 1.0], size)
    rows = np.broadcast_to(np.arange(12), size) if batch_size is None else rng.integers(12, size=size)
    g = np.einsum("kb,kbj->kj", eps, design[rows])
    batches = (g**4).reshape(40, -1, 2).mean(1) / (g**2).mean(0) ** 2
    error = 6 * batches.std(0, ddof=1) / np.sqrt(40)  # six standard errors
    predicted = gradient_kurtosis(design, kappa, batch_size).numpy()
    assert (np.abs(batches.mean(0) - predicted) < error).all()
    assert (error < 0.1 * predicted).all()


ONE = torch.tensor([[1.0], [1.0]], dtype=torch.float64)  # c = 1, S = 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 0.0175), ({"kurtosis": 1.0}, 0.0075), ({"antithetic": True}, 0.0275)],
    ids=["gaussian", "rademacher", "antithetic"],
)
def test_finite_step_bias_in_one_dimension(options, expected):
    """theory.md section 4: lr .0025, lambda 1; the figures need beta = 2 at a = 2, or the same a lr beta = .01."""
    bias = finite_step_bias(ONE, [2.0], [1.0], lr=0.0025, **options)
    assert float(bias) == pytest.approx(expected, rel=1e-12)


def test_finite_step_bias_against_its_sum_written_out():
    beta, penalty, lr = np.array([1.0, 0.0, -2.0]), np.array([0.1, 0.2, 0.3]), 0.01
    S, c = (X.T @ X).numpy() / 4, np.array(C)
    expected = [
        2 * lr * (sum(S[j, k] ** 2 * abs(beta[k]) for k in range(3)) / c[j] + 1.5 * penalty[j]) for j in range(3)
    ]
    np.testing.assert_allclose(finite_step_bias(X, beta, penalty, lr=lr), expected, rtol=1e-13)
    np.testing.assert_allclose(
        finite_step_bias(X, beta, penalty, lr=lr / 10, momentum=0.9), expected, rtol=1e-12
    )  # fmt: skip


def test_effective_lr_and_mean_squares():
    for lr, mu, tau in itertools.product((0.1, 0.2), (0.0, 0.9), (0.0, 0.5)):
        assert effective_lr(lr, mu, tau) == pytest.approx(lr * (1 - tau) / (1 - mu), rel=1e-14)
    assert mean_squares(X.float()).tolist() == C


y4 = torch.ones(4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: effective_penalty(X, lr=0.0, std=1.0), "lr=0.0"),
        (lambda: effective_penalty(X, lr=math.nan, std=1.0), "lr=nan"),
        (lambda: effective_penalty(X, lr=0.1, std=-1.0), "std=-1.0"),
        (lambda: effective_penalty(X, lr=0.1, std=1.0, momentum=1.0), "momentum=1.0"),
        (lambda: effective_penalty(X, lr=0.1, std=1.0, dampening=-0.1), "dampening=-0.1"),
        (lambda: effective_penalty(X, lr=0.1, std=1.0, weight_decay=-1.0), "weight_decay=-1.0"),
        (lambda: effective_penalty(X, lr=0.1, std=1.0, loss_constant=0.0), "loss_constant=0.0"),
        (lambda: effective_penalty(X, lr=0.1, std=1.0, parametrisation="cube"), "parametrisation='cube'"),
        (lambda: effective_penalty(X, lr=0.1, std=1.0, sampling="all"), "sampling='all'"),
        (lambda: effective_penalty(X, lr=0.1, std=1.0, batch_size=5, sampling="without"), "batch_size=5"),
        (lambda: effective_penalty(y4, lr=0.1, std=1.0), r"X has shape \(4,\)"),
        (lambda: noise_for_penalty(X, -0.1, lr=0.1), "penalty=-0.1 is out of reach"),
        (lambda: noise_for_penalty(X, math.inf, lr=0.1), "penalty=inf"),
        (lambda: noise_for_penalty(X, torch.ones(3), lr=0.1), "not proportional to the mean square"),
        (lambda: noise_for_penalty(X, torch.ones(2), lr=0.1), r"penalty has shape \(2,\)"),
        (lambda: noise_for_penalty(X, 0.1 * mean_squares(X), lr=0.1, weight_decay=5.0), "penalty"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
