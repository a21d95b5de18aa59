"""The regularisation path as a figure: arrays in, Figure out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lntrain.data.problem import Problem
from lntrain.experiments.figure_names import plain
from lntrain.experiments.figures import GREY, INK, PALETTE, new_figure


def draw(problem: Problem, alphas: NDArray[np.float64], mean: Tensor, step: int, *, positive: bool) -> Figure:
    """The averages (P, d) of `step` steps at the penalties `alphas` (P,), over the path of the problem's Lasso."""
    dense = np.geomspace(alphas[0], alphas[-1], 400)
    title = f"{problem.name}: {len(alphas)} noise levels, {step:.3g} steps"
    return path(
        alphas, mean, dense, lasso_path(problem, dense, positive=positive), names=problem.columns or None, title=title
    )


def lasso_path(problem: Problem, alphas: NDArray[np.float64], *, positive: bool = False) -> NDArray[np.float64]:
    """scikit-learn's lasso_path with lambda_j = alpha c_j, (points, d): columns scaled by c_j, coefficients back."""
    from sklearn.linear_model import lasso_path as sklearn_path

    X, c, y = problem.design.X.numpy(), problem.design.c.numpy(), problem.y.double().cpu().numpy()
    _, coefs, _ = sklearn_path(X / c, y, alphas=alphas, tol=1e-8, positive=positive, max_iter=100_000)
    return np.asarray(coefs.T / c, dtype=np.float64)


def path(
    alphas: Any,
    mean: Any,
    dense: Any,
    curve: Any,
    *,
    names: Sequence[str] | None = None,
    title: str = "",
    shown: int = 12,
) -> Figure:
    """The time averages, one dot per penalty, on the lines of the Lasso's path.

    Args:
        alphas: (P,). mean: (P, d). dense: (Q,) penalties of the lines. curve: (Q, d).
        names: of the d columns; a legend names the `shown` largest.
    """
    alphas, mean, dense, curve = (np.asarray(v) for v in (alphas, mean, dense, curve))
    order = np.argsort(-np.abs(curve).max(0), kind="stable")
    figure, (ax,) = new_figure(7.2 if names is None else 8.8, 4.6)
    named: list[Any] = []
    for rank, j in enumerate(order):
        if not np.abs(curve[:, j]).max() and np.abs(mean[:, j]).max() < 1e-3:
            continue
        colour = PALETTE[rank] if rank < min(shown, len(PALETTE)) else GREY
        label = None if names is None or colour == GREY else plain(names[j])
        named += ax.plot(dense, curve[:, j], color=colour, linewidth=1.2, label=label) * (label is not None)
        ax.plot(alphas, mean[:, j], "o", color=colour, markersize=3.4, markeredgewidth=0)
    kinds = ax.plot([], [], color=INK, linewidth=1.2, label="scikit-learn's lasso_path")
    kinds += ax.plot([], [], "o", color=INK, markersize=3.4, label="training with label noise, time average")
    ax.set(xscale="log", xlabel=r"penalty $\alpha$ ($\lambda_j = \alpha\, c_j$)", ylabel=r"$\beta_j$", title=title)
    ax.invert_xaxis()
    ax.legend(handles=kinds, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    if named:
        figure.legend(handles=named, frameon=False, fontsize=7.5, loc="outside right upper")
    return figure
