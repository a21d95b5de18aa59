"""The design matrix as theory reads it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lntrain._checks import as_float64, as_tensor


@dataclass(frozen=True, eq=False)
class Design:
    """X (n, d) in float64 on the CPU, its mean squares c and the columns of S = X^T X / n, each computed once.

    Cached values do not follow later in-place changes of the tensor.

    Raises:
        ValueError: X is no matrix of real numbers.

    >>> design = Design([[1.0, 0.0], [1.0, 2.0]])
    >>> design.c.tolist(), design.gram(torch.tensor([True, False])).tolist()
    ([1.0, 2.0], [[1.0], [1.0]])
    """

    given: Any

    def __post_init__(self) -> None:
        X = as_tensor(self.given)
        if X.ndim != 2 or len(X) == 0:
            raise ValueError(f"X has shape {tuple(X.shape)}: give a matrix (n, d)")
        object.__setattr__(self, "given", X)

    @classmethod
    def of(cls, X: Any) -> Design:
        """X itself if it is a Design, the Design of a problem, or a new one."""
        found = getattr(X, "design", X)
        return found if isinstance(found, cls) else cls(found)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return len(self.given), self.given.shape[1]

    @cached_property
    def X(self) -> Tensor:  # noqa: N802 (the field's name)
        """(n, d) dense float64."""
        X: Tensor = self.given
        return X.to_dense().double().cpu()

    @cached_property
    def array(self) -> Any:
        """X as a float64 array, or as scipy's CSR."""
        return as_float64(self.given)

    @cached_property
    def c(self) -> Tensor:
        """(d,) c_j = (1/n) sum_i x_ij^2."""
        X: Tensor = self.given
        if X.layout == torch.sparse_csr:
            squares = X.values().double().square()
            return torch.zeros(X.shape[1], dtype=torch.float64).index_add_(0, X.col_indices(), squares) / len(X)
        blocks = torch.split(X, 64)  # float64 sums without a float64 copy of a large X
        return (torch.stack([block.double().square().sum(0) for block in blocks]).sum(0) / len(X)).cpu()

    @cached_property
    def kurtosis(self) -> Tensor:
        """(d,) mean(x^4) / c^2 of each column."""
        return self.X.pow(4).mean(0) / self.c.square()

    def gram(self, on: Tensor) -> Tensor:
        """(d, k) the columns of S where `on` (d,) is true; the last result is cached."""
        last: dict[str, Tensor] = self._last
        if not last or not torch.equal(last["on"], on):
            last.update(on=on.clone(), S=self.X.T @ self.X[:, on] / len(self.X))
        return last["S"]

    @cached_property
    def _last(self) -> dict[str, Tensor]:
        return {}
