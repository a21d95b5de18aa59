"""Formulas of each quadratic parametrisation: beta of the weights, a plain step, the slopes in each weight.

Each parametrisation is a type, an empty named tuple: numba specialises on types, so each has separate code, compiled
when it is first run, and no step branches on it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir


class Difference(NamedTuple):
    """beta = u^L - v^L."""


class Square(NamedTuple):
    """beta = u^2."""


class Hadamard(NamedTuple):
    """beta = u v."""


class Formulas(NamedTuple):
    """Names of the weights, and functions of (emitter, u, v, ...) at depth 2, on vectors or numbers.

    A plain step goes along grad, which contains the lr and `inner`, the constant factor of d beta / dw.
    """

    weights: tuple[str, ...]
    inner: int
    beta: Any
    step: Any
    slopes: Any


def _difference(e: Any, u: Any, v: Any) -> Any:
    """u^2 - v^2 without FMA, which would leave a rounding error, often denormal, where u = v."""
    return e.builder.fsub(e.builder.fmul(u, u), e.builder.fmul(v, v))


def _times(e: Any, number: float, grad: Any, w: Any) -> Any:
    size = getattr(w.type, "count", None)
    constant = ir.Constant(w.type, number if size is None else [number] * size)
    return e.builder.fmul(e.builder.fmul(constant, grad), w)


FORMULAS: dict[type[Any], Formulas] = {
    Difference: Formulas(
        weights=("u", "v"),
        inner=2,
        beta=_difference,
        step=lambda e, u, v, g: {"u": e.sub(u, e.mul(g, u)), "v": e.fma(v, g, v)},
        slopes=lambda e, u, v, g: {"u": _times(e, 2, g, u), "v": _times(e, -2, g, v)},
    ),
    Square: Formulas(
        weights=("u",),
        inner=2,
        beta=lambda e, u, v: e.mul(u, u),
        step=lambda e, u, v, g: {"u": e.sub(u, e.mul(g, u))},
        slopes=lambda e, u, v, g: {"u": _times(e, 2, g, u)},
    ),
    Hadamard: Formulas(
        weights=("u", "v"),
        inner=1,
        beta=lambda e, u, v: e.mul(u, v),
        step=lambda e, u, v, g: {"u": e.sub(u, e.mul(g, v)), "v": e.sub(v, e.mul(g, u))},
        slopes=lambda e, u, v, g: {"u": e.builder.fmul(g, v), "v": e.builder.fmul(g, u)},
    ),
}
PARAMETRISATIONS = {"difference": Difference(), "square": Square(), "hadamard": Hadamard()}


def formulas(parametrisation: Any) -> Formulas:
    """The Formulas of a parametrisation, given as numba's type of its tuple."""
    return FORMULAS[parametrisation.instance_class]
