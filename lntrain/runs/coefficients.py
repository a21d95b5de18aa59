"""The coefficients as a table, in the units of the data: the Lasso's beside those of training."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lntrain.data.problem import Problem
from lntrain.lasso.solve import LassoSolution
from lntrain.penalty.formula import mean_squares
from lntrain.runs.files import write_atomically

WIDTH = 28  # of a name


class Row(NamedTuple):
    """A coefficient in original units: the Lasso's, the trained one, its sd over replicas (None for one network)."""

    name: str
    lasso: float
    trained: float
    sd: float | None = None


def coefficient_table(
    problem: Problem, reference_coef: Tensor, trained_coef: Tensor, sd: Tensor | None = None
) -> list[Row]:
    """A row a column, and the intercept, in original units (`Problem.original_units`).

    The largest effects come first: |Lasso| times the column's sd, so that no unit decides the order;
    where the Lasso's are 0, the same of what was trained. The intercept is the last row.

    Args:
        reference_coef: (d,). trained_coef: (d,), or (R, d), which gives mean and sd over the R replicas.
        sd: (d,) of a trained_coef (d,), in the problem's own units; the intercept then has none.

    >>> problem = Problem([[1.0, 0.0], [0.0, 20.0]], [1.0, 2.0], columns=("small", "large"))
    >>> [row.name for row in coefficient_table(problem, torch.tensor([0.9, 0.1]), torch.tensor([0.8, 0.1]))]
    ['large', 'small', 'intercept']
    """
    reference, trained = reference_coef.double().cpu(), trained_coef.double().cpu()
    lasso, lasso_intercept = problem.original_units(reference)
    coef, intercept = problem.original_units(trained)
    shift = torch.as_tensor(intercept, dtype=torch.float64)
    spread, shift_sd = None if sd is None else problem.original_units(sd)[0], None
    if trained.ndim == 2:
        many = len(trained) > 1
        spread, shift_sd = (coef.std(0), float(shift.std())) if many else (None, None)
        trained, coef, shift = trained.mean(0), coef.mean(0), shift.mean()
    size = _column_sds(problem.X)
    keys = list(zip((-reference.abs() * size).tolist(), (-trained.abs() * size).tolist(), strict=True))
    order = sorted(range(problem.d), key=keys.__getitem__)
    rows = [
        Row(problem.names[j], float(lasso[j]), float(coef[j]), None if spread is None else float(spread[j]))
        for j in order
    ]
    return [*rows, Row("intercept", float(lasso_intercept), float(shift), shift_sd)]


def _column_sds(X: Tensor) -> Tensor:
    if X.layout == torch.strided:
        return X.double().std(0, correction=0).cpu()
    mean = torch.bincount(X.col_indices(), X.values().double(), minlength=X.shape[1]) / len(X)
    return (mean_squares(X).double() - mean.square()).clamp(min=0).sqrt().cpu()


def table_text(rows: Sequence[Row], most: int = 12) -> str:
    """The first `most` coefficients and the intercept in aligned columns.

    >>> print(table_text([Row("age", 1.5, 1.4), Row("intercept", 0.0, 0.1)]))
                    Lasso     trained
    age               1.5         1.4
    intercept           0         0.1
    """
    *body, intercept = rows
    shown = [*body[:most], intercept]
    width = max(9, *(len(short(row.name)) for row in shown))
    spread = any(row.sd is not None for row in shown)
    lines = [f"{'':<{width}}{'Lasso':>12}{'trained':>12}" + (f"{'+/- sd':>12}" if spread else "")]
    for row in shown:
        sd = "" if row.sd is None else f"{row.sd:>12.3g}"
        lines.append(f"{short(row.name):<{width}}{row.lasso + 0.0:>12.4g}{row.trained + 0.0:>12.4g}{sd}")
    if len(body) > most:
        lines.insert(-1, f"... and {len(body) - most} more in coefficients.csv")
    return "\n".join(lines)


def units_text(problem: Problem, lasso: LassoSolution | None, trained: Tensor | None) -> str:
    """The table of a finished run under its heading, after a blank line; nothing for a problem without column names."""
    if not problem.columns or lasso is None or trained is None:
        return ""
    heading = f"coefficients of {problem.target or 'the target'}, in original units, the largest effects first"
    return f"\n\n{heading}\n{table_text(coefficient_table(problem, lasso.coef, trained))}"


def short(name: str, width: int = WIDTH) -> str:
    """A name cut in its middle to `width` characters, line breaks made spaces.

    >>> short("systolic_blood_pressure_in_the_morning", 20)
    'systolic_b...morning'
    """
    name = " ".join(name.split())
    if len(name) <= width:
        return name
    end = (width - 3) // 2 - 1
    return f"{name[: width - 3 - end]}...{name[len(name) - end :]}"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """name, lasso, trained, sd (empty where there is none): numbers to their last digit."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    write_atomically(path, out.getvalue().encode())
