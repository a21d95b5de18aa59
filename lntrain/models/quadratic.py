"""The quadratic parametrisation of any torch layer: label noise then makes that layer sparse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from lntrain._checks import whole_number
from lntrain.models.diagonal import DiagonalLinear, Init

PARAMETRISATIONS = ("difference", "hadamard")


def quadratic(
    module: nn.Module,
    name: str = "weight",
    parametrisation: str | None = None,
    *,
    init: Init = 0.1,
    group: str | int | None = None,
    keep: bool = False,
    where: Callable[[str, nn.Module], bool] | None = None,
) -> nn.Module:
    """Train a layer's parameter W through two factors, in place: W = u*u - v*v or W = u*v.

    With `group` W_g = u_g v_g, u_g one number for a group of weights: label noise then takes whole groups away.

    With w_pm the weights of a DiagonalLinear (u, v themselves, or (u +/- v)/2 for "hadamard") and
    alpha = init, the start is the balanced one, w_plus w_minus = alpha^2:
    w_pm^2 = (sqrt(W^2 + 4 alpha^4) +/- W)/2, so w_pm = alpha where W = 0.

    Args:
        module: a layer such as nn.Linear or nn.Conv2d; a whole model with `where`.
        name: the parameter, real floating point of any shape.
        parametrisation: "difference" or "hadamard"; None is "difference", with `group` "hadamard".
        init: alpha as for DiagonalLinear: a number, a tensor that broadcasts to W (with `group` to u), or a
            callable shape -> tensor such as LogNormalInit.
        group: "in", all weights of an input (column, channel); "out", all of an output (row, unit, channel); or a
            whole number, blocks of so many consecutive weights of a row, which it must divide.
        keep: start at the present W; False starts at W = 0 (several such layers in a row are a saddle: keep=True).
        where: (name of a submodule, submodule) -> bool, which layers of a model to take.

    Returns:
        module. Its factors are `module.parametrizations.<name>.original0` (u) and `original1` (v):
        build the optimiser, and any DDP or FSDP wrapper, afterwards.

    Raises:
        ValueError: no such parameter, complex, integer, already parametrised or shared with another
            layer of `module` (sharing outside `module` cannot be seen: give the whole model); groups that it
            has not; or an init so small beside W that rounding loses it, which would freeze a factor for ever.

    >>> layer = quadratic(nn.Linear(3, 2), init=0.1)
    >>> layer.weight.tolist(), round(layer.parametrizations.weight.original0[0, 0].item(), 3)
    ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], 0.1)
    >>> tuple(quadratic(nn.Linear(3, 2), group="in").parametrizations.weight.original0.shape)
    (1, 3)
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> net = quadratic(net, keep=True, where=lambda name, layer: isinstance(layer, nn.Linear))
    >>> sorted(name for name, _ in net.named_parameters())[2]
    '0.parametrizations.weight.original1'

    Source: theory.md section 2; Woodworth et al., COLT 2020 (arXiv 2002.09277) for the balanced start.
    """
    if parametrisation is None:
        parametrisation = "difference" if group is None else "hadamard"
    if parametrisation not in PARAMETRISATIONS:
        raise ValueError(f"parametrisation={parametrisation!r} is unknown: choose one of {', '.join(PARAMETRISATIONS)}")
    if group is not None and parametrisation != "hadamard":
        raise ValueError(f'group={group!r} needs parametrisation="hadamard", W_g = u_g v_g: it is {parametrisation!r}')
    layers = [m for n, m in module.named_modules() if where(n, m)] if where is not None else [module]
    if not layers:
        raise ValueError("where picks no submodule: it is called as where(name, submodule)")
    for layer in layers:
        _check(module, layer, name)
    # All layers are checked before any is changed: a refusal leaves the model as it was.
    starts = [_start(layer, name, keep) for layer in layers]
    blocks = [
        _blocks(tuple(start.shape), _axis(layer, name, group)) for layer, start in zip(layers, starts, strict=True)
    ]
    steps = [_Quadratic(parametrisation, init, each) for each in blocks]
    for step, start in zip(steps, starts, strict=True):
        step.right_inverse(start)
    for layer, step, start in zip(layers, steps, starts, strict=True):
        _own_class(layer)
        setattr(layer, name, start)
        parametrize.register_parametrization(layer, name, step)
    return module


def unquadratic(module: nn.Module) -> nn.Module:
    """Undo `quadratic` in place, in the module and all below it: W becomes a plain parameter, its value kept.

    Args:
        module: a layer or a model; factors that require a gradient give a W that does.

    Returns:
        module. Build the optimiser anew.

    Raises:
        ValueError: nothing here is quadratic, or another parametrisation was put on top.

    >>> layer = unquadratic(quadratic(nn.Linear(3, 2)))
    >>> type(layer.weight).__name__, type(layer).__name__
    ('Parameter', 'Linear')
    """
    found = [(layer, name) for layer in module.modules() for name in _quadratic_names(layer)]
    if not found:
        raise ValueError("module has no quadratic parameter: was quadratic() applied to it?")
    for layer, name in found:
        if len(layer.parametrizations[name]) > 1:  # type: ignore[index]
            raise ValueError(f"{name} of {type(layer).__name__} has another parametrisation on top: remove that first")
    for layer, name in found:
        originals = layer.parametrizations[name].parameters()  # type: ignore[index, union-attr]
        trained = any(original.requires_grad for original in originals)
        _own_class(layer)
        parametrize.remove_parametrizations(layer, name)
        weight = getattr(layer, name).detach()
        delattr(layer, name)  # torch leaves a frozen weight, or one removed under no_grad, as a buffer
        layer.register_parameter(name, nn.Parameter(weight, trained))
    return module


class _Quadratic(nn.Module):
    """(u, v) -> W, and W -> the balanced (u, v); `blocks` is W's shape in which u, of length 1 in them, broadcasts."""

    def __init__(self, parametrisation: str, init: Init, blocks: _Blocks | None = None) -> None:
        super().__init__()
        self.parametrisation, self.init, self.blocks = parametrisation, init, blocks

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        if self.blocks is not None:
            return (u * v.reshape(self.blocks.shape)).reshape(v.shape)
        return u * v if self.parametrisation == "hadamard" else u * u - v * v

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        W = weight.detach().cpu().double()
        blocks = W if self.blocks is None else W.reshape(self.blocks.shape)
        sizes = W if self.blocks is None else torch.linalg.vector_norm(blocks, dim=self.blocks.inside, keepdim=True)
        alpha, _ = DiagonalLinear._initial(self.init, tuple(sizes.shape), "difference")
        u, v = _balanced(sizes, alpha, self.parametrisation)
        frozen = u.to(weight).abs() == v.to(weight).abs()  # of one weight; a group's vector goes on turning
        if self.blocks is not None:  # the group's vector: of norm v, in W's direction
            frozen, v = frozen & (sizes.numel() == W.numel()), (blocks / u).reshape(W.shape)
        u, v = u.to(weight), v.to(weight)
        lost = frozen | (u == 0) if self.parametrisation == "hadamard" else (u == 0) | (v == 0)
        if not bool(torch.isfinite(u).all() and torch.isfinite(v).all()):
            raise ValueError(f"the weight and init must be finite in {weight.dtype}")
        if bool(lost.any()):
            largest = float(sizes[lost.cpu()].abs().max())
            raise ValueError(
                f"init is lost beside a weight of {largest:.3g} in {weight.dtype}, and that "
                'factor would stay frozen: take a larger init, a wider dtype or parametrisation="difference"'
            )
        return u, v

    def extra_repr(self) -> str:
        return self.parametrisation if self.blocks is None else f"{self.parametrisation}, groups={self.blocks.groups}"


class _Blocks(NamedTuple):
    """W's shape, or that with rows cut, and the axes inside a group."""

    shape: tuple[int, ...]
    inside: tuple[int, ...]

    @property
    def groups(self) -> int:
        """How many groups."""
        return math.prod(size for axis, size in enumerate(self.shape) if axis not in self.inside)


def _axis(layer: nn.Module, name: str, group: str | int | None) -> str | int | None:
    """`group` for a weight (out, in, ...): a transposed convolution's is (in, out, ...).

    Raises:
        ValueError: a convolution in groups, whose second axis counts the channels of each.
    """
    if not isinstance(layer, _ConvNd) or name != "weight" or group not in ("in", "out"):
        return group
    if layer.groups > 1 and (group == "out") == layer.transposed:
        raise ValueError(
            f'group="{group}" is not defined with groups={layer.groups} in {type(layer).__name__}: give a number'
        )
    return {"in": "out", "out": "in"}[str(group)] if layer.transposed else group


def _blocks(shape: tuple[int, ...], group: str | int | None) -> _Blocks | None:
    if group is None:
        return None
    if group in ("in", "out"):
        if len(shape) < 2:
            raise ValueError(f"group={group!r} needs rows and columns, the parameter has shape {shape}: give a number")
        return _Blocks(shape, tuple(axis for axis in range(len(shape)) if axis != (group == "in")))
    if isinstance(group, str):
        raise ValueError(f'group={group!r} is unknown: give "in", "out" or a whole number')
    size = whole_number("group", group, 1)
    row = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
    if row % size:
        raise ValueError(f"group={size} does not divide the {row} weights of a row: give a divisor of {row}")
    return _Blocks((math.prod(shape) // row, row // size, size), (2,))


def _balanced(W: Tensor, alpha: Tensor, parametrisation: str) -> tuple[Tensor, Tensor]:
    """(w_plus, w_minus), or for "hadamard" u = w_plus + w_minus and v = w_plus - w_minus; float64 in and out."""
    alpha = alpha.abs()
    # w_large^2 = (sqrt + |W|)/2 adds like signs; w_small = alpha^2 / w_large, never the difference that cancels
    large = ((torch.hypot(W, 2 * alpha.square()) + W.abs()) / 2).sqrt()
    small = alpha * (alpha / large)
    if parametrisation == "hadamard":
        return large + small, W / (large + small)
    return torch.where(W >= 0, large, small), torch.where(W >= 0, small, large)


def _check(root: nn.Module, layer: nn.Module, name: str) -> None:
    parameter, kind = layer._parameters.get(name), parametrize.type_before_parametrizations(layer).__name__
    if parametrize.is_parametrized(layer, name):
        raise ValueError(f"{name} of {kind} is already parametrised: remove that first, e.g. by unquadratic(module)")
    if parameter is None:
        raise ValueError(f"{kind} has no parameter {name!r}: it has {', '.join(layer._parameters) or 'none'}")
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise ValueError(f"{name} of {kind} has no shape yet: call the model once first")
    if not parameter.is_floating_point():
        raise ValueError(f"{name} of {kind} is {parameter.dtype}: quadratic() needs a real floating-point parameter")
    if sum(p is parameter for m in root.modules() for p in m._parameters.values()) > 1:
        raise ValueError(f"{name} of {kind} is shared with another parameter of the model: untie them first")


def _start(layer: nn.Module, name: str, keep: bool) -> nn.Parameter:
    present = cast("nn.Parameter", layer._parameters[name])
    return present if keep else nn.Parameter(torch.zeros_like(present), present.requires_grad)


def _quadratic_names(layer: nn.Module) -> list[str]:
    if not parametrize.is_parametrized(layer):
        return []
    parametrizations = cast("nn.ModuleDict", layer.parametrizations)
    return [name for name, steps in parametrizations.items() if isinstance(cast("nn.ModuleList", steps)[0], _Quadratic)]


def _own_class(layer: nn.Module) -> None:
    """Give the layer its own class: torch keeps W's property on the class, which deepcopies of the layer share."""
    if parametrize.is_parametrized(layer):
        cls = type(layer)
        own = {key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__")}
        layer.__class__ = type(cls.__name__, cls.__bases__, own)
