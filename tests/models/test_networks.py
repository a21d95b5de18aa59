"""networks: shapes, seeds that touch nothing else, equality with torchvision, and one line for a mistake."""

from __future__ import annotations

import importlib

import pytest
import torch

from lntrain.models.networks import MatrixSensing, mlp, resnet18, torchvision_module, vgg11

SMALL = {
    "mlp": lambda seed=0: mlp((1, 8, 8), 10, widths=[16], seed=seed),
    "resnet18": lambda seed=0: resnet18((1, 8, 8), 10, width=8, seed=seed),
    "resnet18 without norm": lambda seed=0: resnet18((1, 8, 8), 10, width=8, norm="none", seed=seed),
    "vgg11": lambda seed=0: vgg11((1, 8, 8), 10, width=4, seed=seed),
    "vgg11 with norm": lambda seed=0: vgg11((1, 8, 8), 10, width=4, norm="group", groups=2, seed=seed),
}


@pytest.mark.parametrize("name", list(SMALL))
def test_the_seed_decides_the_weights_and_the_global_generator_stays(name, equal):
    before = torch.get_rng_state()
    nets = [SMALL[name](seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = ([*net.parameters()] for net in nets)
    assert equal(first, again)
    assert not equal(first, other)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = nets[0](x).detach()
    assert outputs.shape == (3, 10)
    assert float(outputs.std(0).min()) > 1e-6  # the image reaches the output
    assert torch.allclose(outputs[:1], nets[0](x[:1]), atol=1e-5)  # rows stay apart


def test_resnet18_at_its_original_size_is_torchvisions():
    from torchvision.models import resnet18 as original

    ours = resnet18((3, 64, 64), 10, norm="batch", small=False, seed=0).eval()
    theirs = original(num_classes=10).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)  # float32 through 18 layers


def test_vgg11_has_the_convolutions_of_torchvisions():
    from torchvision.models import vgg11 as original

    def convolutions(net):
        return [m.weight.shape for m in net.modules() if isinstance(m, torch.nn.Conv2d)]

    assert convolutions(vgg11((3, 32, 32), 10)) == convolutions(original())


@pytest.mark.parametrize(("parametrisation", "symmetric"), [("difference", True), ("hadamard", False)])
def test_matrix_sensing_is_the_inner_product(parametrisation, symmetric):
    net = MatrixSensing(4, 2, parametrisation=parametrisation, init=0.7, seed=3)
    A = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    U, V = net.U.detach(), net.V.detach()
    W = U @ U.T - V @ V.T if symmetric else U @ V.T
    assert torch.allclose(net(A), torch.stack([torch.trace(a.T @ W) for a in A]), atol=1e-12)
    assert torch.allclose(W, W.T) == symmetric
    assert float(U.std()) == pytest.approx(0.7, rel=0.8)


MISTAKES = {
    "a width of 0": (lambda: mlp((4,), 2, widths=[0]), "widths"),
    "a width that the groups do not divide": (lambda: resnet18((1, 8, 8), 10, width=12), "multiple of groups=8"),
    "an unknown norm": (lambda: vgg11((1, 8, 8), 10, norm="layer"), "norm='layer'"),
    "an unknown parametrisation": (lambda: MatrixSensing(3, parametrisation="square"), "parametrisation='square'"),
    "an init of 0": (lambda: MatrixSensing(3, init=0.0), "init=0"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_told_by_name(name):
    call, says = MISTAKES[name]
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("error", [ImportError("no module"), RuntimeError("operator torchvision::nms does not exist")])
def test_a_torchvision_that_does_not_load_is_one_line(error, monkeypatch):
    def fails(_):
        raise error

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(ValueError, match="torchvision does not load beside torch") as told:
        torchvision_module("models")
    assert "\n" not in str(told.value)
