"""Products with the curvature of a torch model's loss: chunks of rows, and the model only read."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from lntrain.noise import philox

Criterion = Callable[..., Tensor]
Form = Callable[[Tensor], Tensor]  # a function of one flat vector of parameters
ROW_NUMBERS = 2**24  # numbers that the Jacobians of single rows may take at once


class Estimate(NamedTuple):
    """A value and its standard error, 0 where the value is exact."""

    value: float
    stderr: float = 0.0


class Curvature:
    """The loss on n rows, a chunk at a time, as a function of leaves that share the parameters' memory."""

    def __init__(self, model: nn.Module, criterion: Criterion, inputs: Tensor, targets: Tensor, chunk: int) -> None:
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise ValueError(f"{len(inputs)} inputs and {len(targets)} targets: give as many of both, at least one")
        if chunk < 1:
            raise ValueError(f"chunk={chunk} must be at least 1 row")
        self.model: nn.Module = getattr(model, "_orig_mod", model)  # a compiled model has no second derivatives
        self.criterion, self.inputs, self.targets, self.chunk = criterion, inputs, targets, chunk
        parameters = dict(self.model.named_parameters())
        self.leaves = {k: p.detach().requires_grad_() for k, p in parameters.items() if p.requires_grad}
        self.fixed = {k: p.detach() for k, p in parameters.items() if not p.requires_grad}
        self.fixed |= {k: buffer.clone() for k, buffer in self.model.named_buffers()}
        self.width = sum(leaf.numel() for leaf in self.leaves.values())
        if not self.width:
            raise ValueError("model has no trainable parameter: set requires_grad on those to differentiate")
        _check_rows_apart(self.model)
        self._check_mean()

    def _check_mean(self) -> None:
        with torch.no_grad():
            output = torch.cat([self.output(self.leaves, self.inputs[rows]) for rows, _ in self.rows()])
            loss = self.criterion(output, self.targets)
        if loss.ndim or not bool(torch.isfinite(loss)):
            what = f"of shape {tuple(loss.shape)}" if loss.ndim else f"{float(loss)}"
            raise ValueError(f"the loss is {what}: it must be one finite number, the mean over rows")
        n = len(output)  # the halves with gradients on: a criterion with label noise then gives another value
        parts = [slice(0, n // 2), slice(n // 2, n)] if n > 1 else [slice(0, n)]
        halves = sum(len(output[part]) / n * float(self.criterion(output[part], self.targets[part])) for part in parts)
        tol = 100 * torch.finfo(loss.dtype).eps
        if not math.isclose(halves, float(loss), rel_tol=tol, abs_tol=tol):
            raise ValueError(
                f"the loss is {float(loss):.6g} and its mean over two halves of the rows {halves:.6g}: "
                "give a criterion that is a plain mean "
                "(reduction='mean', no label noise, class weights or ignored targets)"
            )

    def rows(self, chunk: int | None = None) -> Iterator[tuple[slice, float]]:
        """Chunks of rows, each with its share of the mean."""
        n, chunk = len(self.inputs), chunk or self.chunk
        for start in range(0, n, chunk):
            yield slice(start, start + chunk), min(chunk, n - start) / n

    def output(self, leaves: dict[str, Tensor], inputs: Tensor) -> Tensor:
        output: Tensor = functional_call(self.model, {**leaves, **self.fixed}, (inputs,))
        if output.shape[:1] != inputs.shape[:1]:
            raise ValueError(f"the output has shape {tuple(output.shape)} for {len(inputs)} rows: rows must come first")
        return output

    def gradient(self, rows: slice, targets: Tensor, *, create_graph: bool = False) -> Sequence[Tensor]:
        with torch.enable_grad():
            loss = self.criterion(self.output(self.leaves, self.inputs[rows]), targets[rows])
            return _pull([loss], [*self.leaves.values()], [torch.ones_like(loss)], create_graph=create_graph)

    def hessian(self, rows: slice) -> Form:
        """v -> Hv of these rows, flat float64 in main memory; one graph for all v."""
        gradient = self.gradient(rows, self.targets, create_graph=True)
        return lambda v: flat(_pull(gradient, [*self.leaves.values()], self._shaped(v))).cpu()

    def hessian_form(self, rows: slice) -> Form:
        """v -> v.Hv of these rows."""
        hessian = self.hessian(rows)
        return lambda v: v.double() @ hessian(v)

    def gauss_newton_form(self, rows: slice) -> Form:
        """v -> the mean of (J_i v).H_i (J_i v) over these rows."""
        with torch.enable_grad():
            output = self.output(self.leaves, self.inputs[rows])
            # J v is the derivative in w of J^T w: two backward passes, which every layer has
            w = torch.zeros_like(output, requires_grad=True)
            pulled = _pull([output], [*self.leaves.values()], [w], create_graph=True)
        curve = self._output_hessian(output, self.targets[rows])

        def form(v: Tensor) -> Tensor:
            (pushed,) = _pull(pulled, [w], self._shaped(v))
            return (pushed.double() * curve(pushed).double()).sum()

        return form

    def _output_hessian(self, output: Tensor, targets: Tensor) -> Form:
        """u -> the Hessian of the chunk's criterion in the output times u: rows do not mix."""
        with torch.enable_grad():
            output = output.detach().requires_grad_()
            loss = self.criterion(output, targets)
            gradient = _pull([loss], [output], [torch.ones_like(loss)], create_graph=True)
        return lambda u: _pull(gradient, [output], [u])[0]

    def exact_gauss_newton(self) -> Estimate:
        """(1/n) sum_i <H_i, J_i J_i^T>, the Jacobians of a few rows in memory at once."""
        leaves, total = {k: leaf.detach() for k, leaf in self.leaves.items()}, 0.0
        outputs = self.output(leaves, self.inputs[:1]).numel()
        jacobian = vmap(jacrev(lambda leaves, x: self.output(leaves, x[None]).reshape(-1)), (None, 0))
        for rows, weight in self.rows(max(1, min(self.chunk, ROW_NUMBERS // (self.width * outputs)))):
            J = [part.flatten(2) for part in jacobian(leaves, self.inputs[rows]).values()]  # each (rows, outputs, p)
            output = self.output(leaves, self.inputs[rows])
            curve = self._output_hessian(output, self.targets[rows])
            gram = add(part @ part.mT for part in J)
            for k in range(outputs):
                unit = torch.zeros_like(output).reshape(len(output), outputs)
                unit[:, k] = 1
                column = curve(unit.reshape(output.shape)).reshape(len(output), outputs)
                total += weight * float((column.double() * gram[:, k].double()).sum())
        return Estimate(total)

    def trace(self, form: Callable[[slice], Form], draws: int | None, seed: int) -> Estimate:
        """The sum of a quadratic form over unit vectors, or its mean over sign vectors."""
        totals = [0.0] * (self.width if draws is None else draws)
        for rows, weight in self.rows():
            of = form(rows)
            for k in range(len(totals)):
                v = _unit(k, self.width) if draws is None else _signs(seed, k, self.width)
                totals[k] += weight * float(of(v))
        return Estimate(math.fsum(totals)) if draws is None else estimate(totals)

    def _shaped(self, v: Tensor) -> list[Tensor]:
        leaves = [*self.leaves.values()]
        parts = torch.split(v, [leaf.numel() for leaf in leaves])
        return [part.reshape(leaf.shape).to(leaf) for part, leaf in zip(parts, leaves, strict=True)]


def _check_rows_apart(model: nn.Module) -> None:
    for module in model.modules():
        kind = type(module).__name__
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(f"{kind} mixes the rows of a batch: call model.eval() first, with running statistics")
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise ValueError(f"{kind} is random in training mode: call model.eval() first")


def _pull(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor], *, create_graph: bool = False
) -> Sequence[Tensor]:
    """Vector-Jacobian products that keep the graph; 0 where an output does not depend on an input."""
    kept = [(output, vector) for output, vector in zip(outputs, vectors, strict=True) if output.requires_grad]
    if not kept:
        return [torch.zeros_like(each) for each in inputs]
    outputs, vectors = zip(*kept, strict=True)
    return torch.autograd.grad(
        outputs, inputs, vectors, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )


def _signs(seed: int, k: int, width: int) -> Tensor:
    """Draw k of +1 and -1: from block k of the noise's stream, all four steps of the block."""
    words = philox.words(seed, 0, 4 * k, 4 * k + 4, -(-width // 4)).reshape(-1)[:width]
    return torch.from_numpy(1.0 - 2.0 * (words >> 31))


def _unit(k: int, width: int) -> Tensor:
    unit = torch.zeros(width, dtype=torch.float64)
    unit[k] = 1
    return unit


def flat(parts: Sequence[Tensor]) -> Tensor:
    """One float64 vector."""
    return torch.cat([part.detach().reshape(-1).double() for part in parts])


def add(parts: Iterator[Tensor]) -> Tensor:
    """The sum, one part in memory at a time."""
    return functools.reduce(torch.add, parts)


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent draws and its standard error."""
    if len(values) < 2:
        raise ValueError(f"draws={len(values)} gives no standard error: take at least 2")
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))))
