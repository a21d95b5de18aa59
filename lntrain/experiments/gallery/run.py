"""task=gallery: the arms of an entry one after the other, then its checks, its verdict and its picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from lntrain.experiments.arms_board import table
from lntrain.experiments.gallery.declared import Declared, declared
from lntrain.experiments.gallery.entries import ENTRIES
from lntrain.experiments.verdicts import At, Check, Judged, Panel
from lntrain.runs.history import Memory
from lntrain.runs.session import Outcome, Session
from lntrain.runs.settled import yaml_with
from lntrain.runs.watch import one_by_one

Array = NDArray[np.float64]
Values = Mapping[str, Array]  # quantity -> (..., R), the last axis over seeds
Arms = Mapping[str, Values]


class Entry(Protocol):
    """A frozen dataclass of an entry's settings: its docstring is the claim."""

    def arms(self, at: At) -> Mapping[str, Callable[[], Values]]:
        """Name -> the function that measures this arm."""

    def checks(self, arms: Arms) -> list[Check]:
        """What must hold of the numbers."""

    def panels(self, arms: Arms) -> list[Panel]:
        """What is drawn of them."""


class Measured(Memory):
    """The arms that are done; a resume goes on with the others."""

    def __init__(self, remembered: Mapping[str, Any]) -> None:
        held = remembered.get("arms", {})
        self.arms = {name: {key: np.asarray(v) for key, v in values.items()} for name, values in held.items()}

    def state(self) -> dict[str, Any]:
        return {"arms": {n: {k: torch.from_numpy(v) for k, v in values.items()} for n, values in self.arms.items()}}

    def told(self) -> dict[str, Any]:
        return {"arms": list(self.arms)}


def entry_of(one: Declared) -> Entry:
    """The entry with its settings.

    Raises:
        ValueError: no such entry, or a setting that it does not have.
    """
    if one.entry not in ENTRIES:
        raise ValueError(f"gallery.entry={one.entry!r} is unknown: choose one of {', '.join(ENTRIES)}")
    kind = ENTRIES[one.entry]
    names = set(kind.__dataclass_fields__)
    if wrong := sorted(names ^ set(one.used)):
        what = "misses" if wrong[0] in names else "has no setting"
        raise ValueError(f"gallery.used: {one.entry} {what} {wrong[0]}: give {', '.join(sorted(names))}")
    made: Entry = kind(**one.settings)
    return made


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Measure every arm, with a checkpoint after each; judge and draw; returns the summary."""
    one = declared(cfg)
    entry, session = entry_of(one), Session(cfg, folder, resume=resume)
    print(f"gallery   {one.entry}: {claim_of(entry)}\nsource    {one.source}", flush=True)
    done = Measured(session.remembered)
    arms = entry.arms(At(one.entry, cfg.seed, one.size == "full"))
    with session.begin(yaml_with(cfg, {}), done, layout={}):
        for name, measure in one_by_one(arms, folder):
            if name not in done.arms:
                done.arms[name] = {key: np.asarray(value, dtype=float) for key, value in measure().items()}
                session.save(None)
        result = conclude(one, entry, done.arms)
        arrays = {f"{name}/{key}": value for name, values in done.arms.items() for key, value in values.items()}
        summary = {"status": "done", "task": "gallery", "seed": cfg.seed, "seconds": session.seconds, **result}
        draw = partial(_draw, one, entry, done.arms)
        told = tabled(result["checks"])
        session.finish(Outcome(summary, arrays, draw, {"entry": one.entry, "seed": cfg.seed}, 1, table=told))
    print(f"\n{told}\n\nverdict   {result['verdict']}\nwrote     {folder}", flush=True)
    return summary


def judged(cfg: DictConfig, arms: Arms) -> dict[str, Any]:
    """The verdict of a task that measures its own arms, where it declares an entry: for its summary, and printed."""
    if cfg.gallery.entry is None:
        return {}
    one = declared(cfg)
    try:
        result = conclude(one, entry_of(one), arms)
    except KeyError as error:
        print(f"verdict   none: the run has no arm {error}, which the rule of {one.entry} compares", flush=True)
        return {}
    print(f"\n{tabled(result['checks'])}\n\nverdict   {result['verdict']}", flush=True)
    return result


def ends(curves: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Array]]:
    """Arm -> metric -> (R,) at the end, of curves (S, R)."""
    return {
        name: {key: np.asarray(values[-1], dtype=float) for key, values in row.items() if key not in ("step", "done")}
        for name, row in curves.items()
    }


def conclude(one: Declared, entry: Entry, arms: Arms) -> dict[str, Any]:
    """The verdict and its numbers, for the summary."""
    verdict, judged = one.judge(entry.checks(arms))
    return {"entry": one.entry, "claim": claim_of(entry), "verdict": verdict, "checks": recorded(judged)}


def claim_of(entry: Any) -> str:
    """The first line of its docstring."""
    return (entry.__doc__ or "").strip().partition("\n")[0]


def recorded(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Checks as plain values."""
    return [
        {
            "name": j.check.name,
            "rule": f"{j.check.relation} {j.check.predicted:.4g}",
            "measured": j.mean if math.isfinite(j.mean) else None,
            "half_width": j.half if math.isfinite(j.half) else None,
            "seeds": j.seeds,
            "verdict": j.verdict,
        }
        for j in judged
    ]


def tabled(checks: Sequence[Mapping[str, Any]]) -> str:
    """The checks as a Markdown table."""
    lines = [[cell(check["name"]), check["rule"], seen(check), check["verdict"]] for check in checks]
    return table(["check", "rule", "measured", "verdict"], lines)


def seen(check: Mapping[str, Any]) -> str:
    """What a check measured, with its interval where it has one."""
    mean, half = check["measured"], check["half_width"]
    interval = f" ± {half:.2g}" if half is not None and check["seeds"] > 1 else ""
    return "not finite" if mean is None else f"{mean:.4g}{interval}"


def cell(text: str) -> str:
    """Text in a Markdown table.

    >>> cell("|b|^2")
    '\\\\|b\\\\|^2'
    """
    return text.replace("|", "\\|")


def _draw(one: Declared, entry: Entry, arms: Arms) -> dict[str, Any]:
    from lntrain.experiments import figures

    panels = [replace(panel, geometric=True) for panel in entry.panels(arms)]  # as the checks judge
    return {one.entry: figures.arms(panels, title=claim_of(entry))}
