"""Networks for the image tasks, and matrix sensing; torchvision is imported where it is used."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

VGG11 = (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M")  # channels in units of `width`; "M" is a max pool
NORMS = ("group", "batch", "none")


def mlp(in_shape: Sequence[int], num_classes: int, *, widths: Sequence[int] = (100, 100), seed: int = 0) -> nn.Module:
    """Flatten, then linear layers with ReLU between them.

    Args:
        in_shape: shape of one input. num_classes: number of outputs. widths: of the hidden layers.
        seed: of the weights (torch's default law); the global generator stays as it is.

    Returns:
        Module (b, *in_shape) -> (b, num_classes).

    Raises:
        ValueError: a width below 1.

    >>> net = mlp((1, 8, 8), 10, widths=[20])
    >>> net(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """
    sizes = [math.prod(in_shape), *(int(width) for width in widths), num_classes]
    if min(sizes) < 1:
        raise ValueError(f"mlp: widths={list(widths)} and num_classes={num_classes} must be at least 1")

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return seeded(build, seed)


def resnet18(
    in_shape: Sequence[int],
    num_classes: int,
    *,
    width: int = 64,
    norm: str = "group",
    groups: int = 8,
    small: bool = True,
    seed: int = 0,
) -> nn.Module:
    """torchvision's ResNet-18, of any width; by default for small images and with GroupNorm.

    Args:
        in_shape: (channels, height, width) of one image. num_classes: number of outputs.
        width: channels of the first stage (64 in the original); the later ones have 2, 4 and 8 times as many.
        norm: "group" (as Damian et al. take it), "batch" or "none". groups: of GroupNorm.
        small: a stem for small images, 3x3 at stride 1 and no max pool; False is the original's.
        seed: of the weights.

    Returns:
        Module (b, *in_shape) -> (b, num_classes).

    Raises:
        ValueError: torchvision is missing, a width that `groups` does not divide, an unknown norm.

    >>> net = resnet18((1, 8, 8), 10, width=8)
    >>> net(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])

    Source: He et al., CVPR 2016 (arXiv 1512.03385); Damian, Ma, Lee, NeurIPS 2021 (arXiv 2106.06530).
    """
    resnet = torchvision_module("models.resnet")
    layer = _norm_layer(norm, groups, width)

    def build() -> nn.Module:
        net = resnet.ResNet(resnet.BasicBlock, [2, 2, 2, 2], num_classes=num_classes, norm_layer=layer)
        net.inplanes = width
        stem: dict[str, Any] = (
            {"kernel_size": 3, "padding": 1} if small else {"kernel_size": 7, "stride": 2, "padding": 3}
        )
        net.conv1 = nn.Conv2d(in_shape[0], width, bias=False, **stem)
        net.bn1 = layer(width)
        net.maxpool = nn.Identity() if small else net.maxpool
        for stage in range(4):
            made = net._make_layer(resnet.BasicBlock, width * 2**stage, 2, stride=1 if stage == 0 else 2)
            setattr(net, f"layer{stage + 1}", made)
        net.fc = nn.Linear(8 * width, num_classes)
        _kaiming(net)
        return _out_of_place(net)

    return seeded(build, seed)


def vgg11(
    in_shape: Sequence[int], num_classes: int, *, width: int = 64, norm: str = "none", groups: int = 8, seed: int = 0
) -> nn.Module:
    """The convolutions of VGG11, average pooling and one linear layer (no dropout: label noise is the only noise).

    Args:
        in_shape, num_classes, norm, groups, seed: as for `resnet18`.
        width: channels of the first layer (64 in the original). Max pools too large for a small image are left out.

    Returns:
        Module (b, *in_shape) -> (b, num_classes).

    Raises:
        ValueError: as for `resnet18`.

    >>> vgg11((3, 32, 32), 10, width=4)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])

    Source: Simonyan, Zisserman, ICLR 2015 (arXiv 1409.1556), configuration A.
    """
    layer = _norm_layer(norm, groups, width)
    pools = int(math.log2(min(in_shape[1:])))

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        channels, room = in_shape[0], pools
        for item in VGG11:
            if isinstance(item, str):
                layers += [nn.MaxPool2d(2)] if room > 0 else []
                room -= 1
            else:
                bias = norm == "none"
                layers += [nn.Conv2d(channels, item * width, 3, padding=1, bias=bias), layer(item * width), nn.ReLU()]
                channels = item * width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
        net = nn.Sequential(*(each for each in layers if not isinstance(each, nn.Identity)))
        _kaiming(net)
        return net

    return seeded(build, seed)


class MatrixSensing(nn.Module):
    """<A, W> with W = U U^T - V V^T (symmetric), or W = U V^T.

    Args:
        d: W is (d, d). width: columns of U and V; None is d, so that W can be any (symmetric) matrix.
        parametrisation: "difference" or "hadamard", as for the diagonal network, which is its diagonal case.
        init: standard deviation of the numbers of U and V at the start. seed: of the start.

    Forward:
        A (b, d, d) -> (b,).

    Raises:
        ValueError: an unknown parametrisation, a size below 1, an init that is 0.

    >>> net = MatrixSensing(3, init=0.5)
    >>> net(torch.eye(3, dtype=torch.float64)[None]).isclose(net.matrix.trace()).item()
    True

    Source: Li, Ma, Zhang, COLT 2018 (arXiv 1712.09203) for the problem; theory.md section 2 for W = U U^T - V V^T.
    """

    def __init__(
        self, d: int, width: int | None = None, *, parametrisation: str = "difference", init: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        if parametrisation not in ("difference", "hadamard"):
            raise ValueError(f'parametrisation={parametrisation!r} is unknown: choose "difference" or "hadamard"')
        width = d if width is None else width
        if d < 1 or width < 1 or not 0 < init < math.inf:
            raise ValueError(f"MatrixSensing: d={d} and width={width} must be at least 1 and init={init} positive")
        self.parametrisation = parametrisation
        generator = torch.Generator().manual_seed(seed)
        draws = init * torch.randn(2, d, width, generator=generator, dtype=torch.float64)
        self.U, self.V = nn.Parameter(draws[0].clone()), nn.Parameter(draws[1].clone())

    @property
    def matrix(self) -> Tensor:
        """W, (d, d)."""
        if self.parametrisation == "hadamard":
            return self.U @ self.V.mT
        return self.U @ self.U.mT - self.V @ self.V.mT

    def forward(self, A: Tensor) -> Tensor:
        return (A * self.matrix).sum((1, 2))  # over stacked replicas faster than a matrix-vector product


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `build` makes with torch's generator at `seed`; the global generator is left as it was.

    >>> first, second = (seeded(lambda: nn.Linear(2, 1), seed=3) for _ in range(2))
    >>> bool((first.weight == second.weight).all())
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def torchvision_module(name: str) -> Any:
    """torchvision.<name>.

    Raises:
        ValueError: torchvision is missing, or does not match torch.
    """
    import importlib

    try:
        return importlib.import_module(f"torchvision.{name}")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ValueError(
            f"torchvision does not load beside torch {torch.__version__} ({error}): install the build that matches, "
            "see https://pytorch.org/get-started/locally"
        ) from None


def _norm_layer(norm: str, groups: int, width: int) -> Callable[[int], nn.Module]:
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown: choose one of {', '.join(NORMS)}")
    if width < 1 or (norm == "group" and width % groups):
        raise ValueError(f"width={width} must be at least 1, and for GroupNorm a multiple of groups={groups}")
    if norm == "none":
        return lambda channels: nn.Identity()
    return partial(nn.GroupNorm, groups) if norm == "group" else nn.BatchNorm2d


def _kaiming(net: nn.Module) -> None:
    """Initialise convolutions as torchvision does."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _out_of_place(net: nn.Module) -> nn.Module:
    """In-place activations hinder second derivatives and vmap."""
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return net
