"""The quadratic parametrisations, each once: beta of the weights, a plain step, the slopes in each weight.

What a kernel is compiled for is told by a type: an empty tuple. So each parametrisation has code of its own, made
when it is first run, and no step asks which it is.
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
    """Names of the weights, and f(emitter, u, v, ...) at depth 2, on vectors or numbers.

    A plain step goes along grad, which bears the lr, and the 2 as well where d beta / dw = 2w.
    """

    weights: tuple[str, ...]
    beta: Any
    step: Any
    slopes: Any


def _difference(e: Any, u: Any, v: Any) -> Any:
    """u^2 - v^2 with both squares rounded: fused, two equal ones would leave a rounding error, often denormal."""
    return e.builder.fsub(e.builder.fmul(u, u), e.builder.fmul(v, v))


def _times(e: Any, number: float, grad: Any, w: Any) -> Any:
    size = getattr(w.type, "count", None)
    constant = ir.Constant(w.type, number if size is None else [number] * size)
    return e.builder.fmul(e.builder.fmul(constant, grad), w)


FORMULAS = {
    Difference: Formulas(
        weights=("u", "v"),
        beta=_difference,
        step=lambda e, u, v, g: {"u": e.sub(u, e.mul(g, u)), "v": e.fma(v, g, v)},
        slopes=lambda e, u, v, g: {"u": _times(e, 2, g, u), "v": _times(e, -2, g, v)},
    ),
    Square: Formulas(
        weights=("u",),
        beta=lambda e, u, v: e.mul(u, u),
        step=lambda e, u, v, g: {"u": e.sub(u, e.mul(g, u))},
        slopes=lambda e, u, v, g: {"u": _times(e, 2, g, u)},
    ),
    Hadamard: Formulas(
        weights=("u", "v"),
        beta=lambda e, u, v: e.mul(u, v),
        step=lambda e, u, v, g: {"u": e.sub(u, e.mul(g, v)), "v": e.sub(v, e.mul(g, u))},
        slopes=lambda e, u, v, g: {"u": e.builder.fmul(g, v), "v": e.builder.fmul(g, u)},
    ),
}
PARAMETRISATIONS = {"difference": Difference(), "square": Square(), "hadamard": Hadamard()}


def formulas(parametrisation: Any) -> Formulas:
    """Those of numba's type of one of the empty tuples."""
    return FORMULAS[parametrisation.instance_class]
