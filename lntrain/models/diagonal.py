"""The quadratic parametrisation as an nn.Module: a diagonal linear network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lntrain._checks import group_labels

# parametrisation -> the names of its weights
WEIGHTS = {"difference": ("plus", "minus"), "square": ("weight",), "hadamard": ("u", "v")}

Init = float | Tensor | Callable[[tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class LogNormalInit:
    """w = scale * exp(spread * N(0, 1)), drawn independently for each weight, by a generator seeded with `seed`.

    >>> tuple(LogNormalInit(scale=0.1, spread=0.5, seed=0)((2, 3)).shape)
    (2, 3)
    """

    scale: float = 0.1
    spread: float = 0.5
    seed: int = 0

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return self.scale * torch.exp(self.spread * torch.randn(shape, generator=generator, dtype=torch.float64))


class DiagonalLinear(nn.Module):
    """x -> x . beta with beta quadratic in the weights.

    "difference": beta = plus^L - minus^L; "square": beta = weight^2; "hadamard": beta = u v;
    with groups beta_g = u_g v_g, u_g one number for a group and v_g a vector (theory.md, Groups).

    Args:
        in_features: d.
        parametrisation: "difference", "square" or "hadamard"; None is "difference", with groups "hadamard".
        depth: L, for "difference" only.
        init: a positive scale alpha (w = alpha; for "hadamard" u = 2 alpha, v = 0, which is
            w_pm = (u +/- v)/2 = alpha); a tensor that broadcasts to a weight's shape (for
            "hadamard" it too is w_pm); or a callable shape -> tensor. Replicas: shape (R, d).
            With groups it is one a group: shape (G,) or (R, G).
        replicas: R networks in one module, or None for one.
        groups: G lists of columns, which together hold each of the d columns once; or (d,) labels.
        dtype: float64 unless told otherwise. device: torch's.

    Returns (forward):
        (b, d) -> (b,); with replicas (b, d) or (R, b, d) -> (R, b).

    Raises:
        ValueError: an argument out of range, or x of another width or dtype.

    >>> model = DiagonalLinear(3, init=0.1)
    >>> model(torch.ones(5, 3, dtype=torch.float64)).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    >>> tuple(DiagonalLinear(3, replicas=4).coef.shape)
    (4, 3)
    >>> grouped = DiagonalLinear(3, groups=[[0, 1], [2]])
    >>> [(name, tuple(w.shape)) for name, w in grouped.named_parameters()]
    [('u', (2,)), ('v', (3,))]

    Source: Woodworth et al., COLT 2020; Pillaud-Vivien et al., COLT 2022, section 2.
    """

    groups: Tensor | None  # (d,) the group of each column, in the state_dict: beta is nothing without it

    def __init__(
        self,
        in_features: int,
        *,
        parametrisation: str | None = None,
        depth: int = 2,
        init: Init = 0.1,
        replicas: int | None = None,
        groups: Any = None,
        dtype: torch.dtype = torch.float64,
        device: Any = None,
    ) -> None:
        super().__init__()
        if parametrisation is None:
            parametrisation = "difference" if groups is None else "hadamard"
        if parametrisation not in WEIGHTS:
            raise ValueError(f"parametrisation={parametrisation!r} is unknown: choose one of {', '.join(WEIGHTS)}")
        if depth < 2 or (depth != 2 and parametrisation != "difference"):
            raise ValueError(f'depth={depth}: give 2, or more with parametrisation="difference"')
        if in_features < 1 or (replicas is not None and replicas < 1):
            raise ValueError(f"in_features={in_features} and replicas={replicas} must be at least 1")
        self.in_features, self.parametrisation, self.depth, self.replicas = (
            in_features,
            parametrisation,
            depth,
            replicas,
        )
        if groups is not None and parametrisation != "hadamard":
            raise ValueError(f'groups need parametrisation="hadamard", beta_g = u_g v_g: it is {parametrisation!r}')
        labels = None if groups is None else torch.from_numpy(group_labels(groups, in_features))
        self.register_buffer("groups", None if labels is None else labels.to(device))
        width = in_features if labels is None else int(labels.max()) + 1  # of labels that may not lie on "meta"
        first, second = self._initial(init, (width,) if replicas is None else (replicas, width), parametrisation)
        if labels is not None:  # one number for a group, and a vector that starts at 0: beta may go anywhere
            second = torch.zeros(*first.shape[:-1], in_features, dtype=torch.float64)
        for name, value in zip(WEIGHTS[parametrisation], (first, second), strict=False):
            setattr(self, name, nn.Parameter(value.to(device=device, dtype=dtype).clone()))

    @staticmethod
    def _initial(init: Init, shape: tuple[int, ...], parametrisation: str) -> tuple[Tensor, Tensor]:
        value = init(shape) if callable(init) and not isinstance(init, Tensor) else init
        try:
            alpha = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError):
            raise ValueError(f"init={value!r} is neither a number, a tensor nor a callable") from None
        if alpha.ndim == 1 and len(shape) == 2 and len(alpha) == shape[0] != shape[1]:
            alpha = alpha[:, None]  # one scale per replica
        try:
            alpha = alpha.broadcast_to(shape)
        except RuntimeError:
            raise ValueError(f"init has shape {tuple(alpha.shape)}: it must broadcast to {shape}") from None
        if not bool(torch.isfinite(alpha).all()) or not bool((alpha != 0).all()):
            raise ValueError("init must be finite and not zero: a weight that starts at 0 stays there for ever")
        if parametrisation == "hadamard":
            return 2 * alpha, torch.zeros(shape, dtype=torch.float64)
        return alpha, alpha

    @property
    def weights(self) -> tuple[nn.Parameter, ...]:
        """The trained weights, in the order of `WEIGHTS`."""
        return tuple(getattr(self, name) for name in WEIGHTS[self.parametrisation])

    @property
    def coef(self) -> Tensor:
        """beta, (d,) or (R, d)."""
        if self.parametrisation == "square":
            return self.weights[0].square()
        first, second = self.weights
        if self.parametrisation == "hadamard":
            return (first if self.groups is None else first[..., self.groups]) * second
        if self.depth == 2:
            return first * first - second * second
        return first**self.depth - second**self.depth

    @property
    def log_weights(self) -> Tensor:
        """log w_pm^2, (m, d) or (R, m, d): m = 1 for "square", else 2 (w_pm = (u +/- v)/2 for "hadamard").

        With groups log u_g^2 and log |v_g|^2, of the group of each column: both fall where a group vanishes.
        """
        with torch.no_grad():
            w = torch.stack(self._sizes() if self.groups is not None else self.weights, dim=-2).double()
            if self.parametrisation == "hadamard" and self.groups is None:
                w = torch.stack(((w[..., 0, :] + w[..., 1, :]) / 2, (w[..., 0, :] - w[..., 1, :]) / 2), dim=-2)
            return 2 * w.abs().clamp_min(torch.finfo(torch.float64).tiny).log()

    def _sizes(self) -> tuple[Tensor, ...]:
        """|u_g| and |v_g| of the group of each column, (d,) or (R, d)."""
        u, v = self.weights
        assert self.groups is not None
        norms = torch.zeros_like(u).index_add(-1, self.groups, v.square()).sqrt()
        return u.abs()[..., self.groups], norms[..., self.groups]

    def forward(self, x: Tensor) -> Tensor:
        coef = self.coef
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has {x.shape[-1]} columns: this model has in_features={self.in_features}")
        if x.dtype != coef.dtype:
            raise ValueError(
                f"x is {x.dtype} and the model {coef.dtype}: give both one dtype, e.g. DiagonalLinear(dtype=...)"
            )
        if self.replicas is None:
            return x @ coef
        if x.ndim == 3:
            return (x @ coef[..., None]).squeeze(-1)
        return (x @ coef.mT).mT  # in this order x may be sparse

    def extra_repr(self) -> str:
        kind = f"parametrisation={self.parametrisation!r}, depth={self.depth}"
        groups = "" if self.groups is None else f", groups={self.weights[0].shape[-1]}"
        return f"{self.in_features}, {kind}, replicas={self.replicas}{groups}"
