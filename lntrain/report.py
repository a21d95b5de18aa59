"""The plan before a run and the table after it, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lntrain.lasso import LassoSolution
from lntrain.model import DiagonalLinear
from lntrain.plan import Plan
from lntrain.problem import Problem


def plan_text(problem: Problem, model: DiagonalLinear, plan: Plan, wishes: Mapping[str, str]) -> str:
    """What is known before step 1. `wishes`: remarks on noise, lr and batch from the configuration."""
    known = "" if problem.coef is None else f", {int((problem.coef != 0).sum())} true coefficients"
    many = "" if model.replicas is None else f", {model.replicas} replicas"
    lines = [
        f"problem   {problem.name}: n={problem.n} rows, d={problem.d} columns{known}",
        f"model     {model.parametrisation}{many}, {str(model.weights[0].dtype).removeprefix('torch.')}",
        f"noise     {wishes['noise']}, std={plan.std:.4g} on {wishes['batch']}",
        f"step      lr={plan.lr:.4g} ({wishes['lr']}; stable below {plan.stable_lr:.2g})",
    ]
    if plan.penalty is not None and plan.reference is not None:
        low, high = float(plan.penalty.min()), float(plan.penalty.max())
        lines += [
            f"penalty   predicted before step 1: lambda_j = {plan.alpha:.4g} * c_j, {low:.3g} to {high:.3g} "
            f"({plan.alpha_ratio:.3g} of alpha_max)",
            f"          finite steps will make it {plan.bias:+.1%}",
            f"lasso     {int(plan.reference.support.sum())} of {problem.d} coefficients, objective "
            f"{plan.reference.objective:.4g}, duality gap {plan.reference.gap:.0e}",
        ]
    expected = (
        ""
        if math.isnan(plan.expected_distance)
        else f"; expected distance of the mean {plan.expected_distance:.2g} or more"
    )
    lines.append(f"steps     {plan.steps}, T = lr * steps = {plan.lr * plan.steps:.4g}{expected}")
    return "\n".join(lines + [f"note      {note}" for note in plan.notes])


def result_text(summary: Mapping[str, Any], reference: LassoSolution | None) -> str:
    """The table "predicted / reached"; each figure with its spread over replicas where there are some."""
    if reference is None:
        return f"reached   training loss {summary['train_loss']:.3g} after {summary['steps']} steps"

    def cell(name: str, form: str = "{:.4f}") -> str:
        value, sd = summary.get(name), summary.get(f"{name}_sd")
        if value is None:
            return "-"
        return form.format(value) + (f" +/- {form.format(sd)}" if sd is not None else "")

    size = int(reference.support.sum())
    unsure = f", undecided {cell('support_undecided', '{:.3g}')}" if summary.get("support_undecided") else ""
    rows = [
        ("lambda / the formula's", f"{1 + summary['bias']:.4f}", cell("lambda_ratio")),
        ("l1 norm of the mean", f"{float(reference.coef.abs().sum()):.4f}", cell("l1_norm_mean")),
        ("support", f"{size}", f"{cell('support_size', '{:.1f}')}   (F1 {cell('support_f1', '{:.3f}')}{unsure})"),
        ("objective above the Lasso's", "0", cell("suboptimality_mean", "{:.2e}")),
        ("distance of the mean", f"{summary['expected_distance']:.4f}", cell("distance_mean")),
        ("  against compensated labels", "", cell("distance_compensated")),
        ("distance of the last iterate", "no limit" if not summary["antithetic"] else "small", cell("distance_last")),
        ("KKT residual", "0", cell("kkt_residual")),
    ]
    body = "\n".join(f"{name:<31}{wanted:>10}   {reached}" for name, wanted, reached in rows)
    spread = f" (mean +/- sd of {summary['replicas']} replicas)" if summary["replicas"] else ""
    return f"{'':<31}{'predicted':>10}   reached{spread}\n{body}"
