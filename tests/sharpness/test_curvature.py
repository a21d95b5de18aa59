"""curvature: products against dense derivatives, chunks that change nothing, and a model that is only read."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from lntrain.sharpness.curvature import Curvature, estimate

F64 = torch.float64
X, Y = (torch.randn(7, k, generator=torch.Generator().manual_seed(k), dtype=F64) for k in (3, 2))


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(F64)


def _dense(net):
    """(Hessian, Gauss-Newton matrix) of the mean square, by torch.func on one flat vector."""
    names, shapes = zip(*((k, p.shape) for k, p in net.named_parameters()), strict=True)
    w = torch.cat([p.detach().reshape(-1) for p in net.parameters()])

    def output(w):
        parts = torch.split(w, [shape.numel() for shape in shapes])
        return functional_call(net, {k: p.view(s) for k, p, s in zip(names, parts, shapes, strict=True)}, (X,))

    J = jacrev(output)(w).reshape(-1, len(w))
    return jacrev(jacrev(lambda w: nn.functional.mse_loss(output(w), Y)))(w), 2 * J.T @ J / Y.numel()


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_products_are_those_of_the_dense_matrices(chunk):
    net = _net()
    H, G = _dense(net)
    curvature = Curvature(net, nn.MSELoss(), X, Y, chunk)
    v = torch.randn(len(H), generator=torch.Generator().manual_seed(1), dtype=F64)
    product = sum(share * curvature.hessian(rows)(v) for rows, share in curvature.rows())
    torch.testing.assert_close(product, H @ v)
    for form, matrix in ((curvature.hessian_form, H), (curvature.gauss_newton_form, G)):
        torch.testing.assert_close(sum(share * form(rows)(v) for rows, share in curvature.rows()), v @ matrix @ v)
        assert curvature.trace(form, None, 0).value == pytest.approx(float(matrix.trace()))
    assert curvature.exact_gauss_newton().value == pytest.approx(float(G.trace()))


def test_sign_vectors_estimate_the_trace_with_an_honest_error():
    net = _net()
    H, _ = _dense(net)
    curvature = Curvature(net, nn.MSELoss(), X, Y, 7)
    draws = [curvature.trace(curvature.hessian_form, 64, seed) for seed in range(30)]
    z = [(draw.value - float(H.trace())) / draw.stderr for draw in draws]
    assert sum(abs(value) > 3 for value in z) <= 2  # 0.3 % each if Gaussian: P(more than 2 of 30) < 2e-4


def test_the_model_is_only_read():
    net = _net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    Curvature(net, nn.MSELoss(), X, Y, 3).exact_gauss_newton()
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Curvature(_net(), nn.MSELoss(), X, Y[:3], 3), "7 inputs and 3 targets"),
        (lambda: Curvature(_net(), nn.MSELoss(), X, Y, 0), "chunk=0"),
        (lambda: Curvature(_net(), nn.MSELoss(reduction="sum"), X, Y, 3), "mean over two halves"),
        (lambda: Curvature(_net(), nn.MSELoss(reduction="none"), X, Y, 3), "one finite number"),
        (lambda: Curvature(_net().requires_grad_(False), nn.MSELoss(), X, Y, 3), "no trainable parameter"),
        (lambda: estimate([1.0]), "at least 2"),
    ],
)
def test_what_has_no_curvature_is_refused_by_name(make, says):
    with pytest.raises(ValueError, match=says):
        make()
