"""The plan before a run and the table after it, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lntrain.data.problem import Problem
from lntrain.lasso.solve import LassoSolution
from lntrain.models.diagonal import DiagonalLinear
from lntrain.theory.plan import Plan


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
        lines += _prediction(problem, plan)
    lines.append(f"steps     {plan.steps}, T = lr * steps = {plan.lr * plan.steps:.4g}{_expected(plan)}")
    if wishes.get("again"):
        lines.append(f"chosen    {wishes['again']}")
    return "\n".join(lines + [f"note      {note}" for note in (*problem.notes, *plan.notes)])


def _prediction(problem: Problem, plan: Plan) -> list[str]:
    assert plan.penalty is not None
    assert plan.reference is not None
    assert plan.expected is not None
    low, high = float(plan.penalty.min()), float(plan.penalty.max())
    lines = [
        f"penalty   predicted before step 1: lambda_j = {plan.alpha:.4g} * c_j, {low:.3g} to {high:.3g} "
        f"({plan.alpha_ratio:.3g} of alpha_max)"
    ]
    if plan.corrected:
        lines.append("          std is chosen so that this holds with finite steps and sampling")
    elif math.isfinite(plan.expected.lambda_ratio):
        lines.append(f"          finite steps will make it {plan.expected.lambda_ratio - 1:+.1%}")
    lines.append(
        f"lasso     {int(plan.reference.support.sum())} of {problem.d} coefficients, objective "
        f"{plan.reference.objective:.4g}, duality gap {plan.reference.gap:.0e}"
    )
    return lines


def _expected(plan: Plan) -> str:
    """What the steps should reach, and ten times the work."""
    if plan.expected is None or plan.tenfold is None:
        return ""
    what, own = "mean of the second half" if plan.tail else "mean", plan.expected
    return (
        f"\nexpected  the {what} within {own.distance:.2g} of the Lasso "
        f"({own.low:.2g} to {own.high:.2g}), its fit within "
        f"{own.fit:.2g}; ten times the work: {plan.tenfold[0]:.2g}, {plan.tenfold[1]:.2g}"
    )


def result_text(summary: Mapping[str, Any], reference: LassoSolution | None) -> str:
    """The table "predicted / reached" of the average that is judged; with replicas each figure's spread over them."""
    if reference is None:
        return f"reached   training loss {summary['train_loss']:.3g} after {summary['steps']} steps"

    def cell(name: str, form: str = "{:.4f}") -> str:
        value, sd = summary.get(name), summary.get(f"{name}_sd")
        if value is None or not math.isfinite(value):
            return "-"
        return form.format(value) + (f" +/- {form.format(sd)}" if sd is not None else "")

    def told(name: str, form: str = "{:.4f}") -> str:
        value = summary.get(name)
        return "-" if value is None or not math.isfinite(value) else form.format(value)

    size, which = int(reference.support.sum()), summary["average"]
    unsure = f", undecided {cell('support_undecided', '{:.3g}')}" if summary.get("support_undecided") else ""
    where = {"all": "the mean", "tail": "the tail mean"}[which]
    rows = [
        ("lambda / the predicted one", told("expected_lambda_ratio"), cell("lambda_ratio")),
        (f"l1 norm of {where}", f"{float(reference.coef.abs().sum()):.4f}", cell("l1_norm_mean")),
        ("support", f"{size}", f"{cell('support_size', '{:.1f}')}   (F1 {cell('support_f1', '{:.3f}')}{unsure})"),
        (
            "objective above the Lasso's",
            told("expected_excess", "{:.1e}") if summary["antithetic"] else "",
            cell("suboptimality", "{:.2e}"),
        ),
        (f"distance of {where}", told("expected_distance"), cell("distance")),
        ("  of its fit", told("expected_fit"), cell("distance_fit")),
        ("  against compensated labels", "", cell("distance_compensated")),
        ("distance of the last iterate", "no limit" if not summary["antithetic"] else "small", cell("distance_last")),
        ("KKT residual", "0", cell("kkt_residual")),
    ]
    body = "\n".join(f"{name:<31}{wanted:>10}   {reached}" for name, wanted, reached in rows)
    spread = f" (mean +/- sd of {summary['replicas']} replicas)" if summary["replicas"] else ""
    return f"{'':<31}{'predicted':>10}   reached{spread}\n{body}"
