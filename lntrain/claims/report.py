"""The judged table as Markdown, JSON and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lntrain.experiments import figures
from lntrain.experiments.verdicts import FAMILY_LEVEL, RULE, Judged, Picture, Result
from lntrain.runs.files import write_atomically, write_figures


def number(value: float) -> str:
    """Four digits, no more.

    >>> number(0.123456), number(2.0)
    ('0.1235', '2')
    """
    return f"{value:.4g}"


def measured(judged: Judged) -> str:
    """The mean with its interval, where there is one."""
    return number(judged.mean) + (f" ± {judged.half:.2g}" if judged.seeds > 1 else "")


def markdown(results: Sequence[Result], heading: str) -> str:
    """One line per check, the row's name, source, setting, verdict and seconds on its first line."""
    rule = RULE.format(level=FAMILY_LEVEL, sure=1 - FAMILY_LEVEL)
    lines = [
        f"# {heading}",
        "",
        rule,
        "",
        "± is that interval; (±) beside a prediction is the allowance.",
        "",
        "| row | source | setting | what | predicted | measured | check | row | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        head, tail = [result.name, result.source, result.setting], [f"**{result.verdict}**", f"{result.seconds:.0f}"]
        for judged in result.checks:
            check = judged.check
            allowed = f" (± {check.allowance:.1g})" if check.allowance else ""
            wanted = f"{'' if check.relation == '=' else check.relation + ' '}{number(check.predicted)}{allowed}"
            cells = [*head, check.name.replace("|", "\\|"), wanted, measured(judged), judged.verdict, *tail]
            lines.append(f"| {' | '.join(cells)} |")
            head, tail = ["", "", ""], ["", ""]
        if result.error:
            lines.append(f"| {' | '.join([*head, result.error, '', '', 'error', *tail])} |")
    notes = [f"- {result.name}: {result.note}" for result in results if result.note]
    return "\n".join([*lines, "", *notes, ""])


def record(result: Result) -> dict[str, Any]:
    """A row of claims.json."""
    checks = [
        {
            "name": j.check.name,
            "relation": j.check.relation,
            "predicted": j.check.predicted,
            "allowance": j.check.allowance,
            "measured": j.mean,
            "half_width": j.half,
            "seeds": j.seeds,
            "verdict": j.verdict,
        }
        for j in result.checks
    ]
    clean = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in checks
    ]
    return {
        "name": result.name,
        "source": result.source,
        "setting": result.setting,
        "verdict": result.verdict,
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(result.cpu_seconds, 1),
        "error": result.error,
        "note": result.note,
        "checks": clean,
    }


def write(folder: Path, results: Sequence[Result], about: dict[str, Any], heading: str) -> None:
    """claims.md and claims.json."""
    verdict = "holds" if all(result.verdict == "holds" for result in results) else "fails"
    body = {**about, "family_level": FAMILY_LEVEL, "verdict": verdict, "rows": [record(result) for result in results]}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "claims.md", markdown(results, heading).encode())
    write_atomically(folder / "claims.json", (json.dumps(body, indent=2, allow_nan=False) + "\n").encode())


def draw(path: Path, result: Result, claim: str, picture: Picture | None) -> None:
    """A row's figure."""
    bars = [
        (j.check.name, j.check.relation, j.check.predicted, j.check.allowance, j.mean, j.half, j.verdict)
        for j in result.checks
    ]
    curves = [] if picture is None else [(c.name, c.x, c.y, c.style) for c in picture.curves]
    axes: dict[str, Any] = {}
    if picture is not None:
        axes = {"xlabel": picture.xlabel, "ylabel": picture.ylabel}
        axes |= {"xscale": "log" if picture.logx else "linear", "yscale": "log" if picture.logy else "linear"}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figures(path.parent, {path.name: figures.claim(bars, curves, axes, title=f"{result.name}: {claim}")})
