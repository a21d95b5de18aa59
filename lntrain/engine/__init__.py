"""Engines advance a run in place: same trajectory, at different speeds."""

from __future__ import annotations

from collections.abc import Callable

from lntrain.engine import cpu, cuda, loop
from lntrain.engine.state import Run

ENGINES = ("auto", "torch", "fused")


def choose(engine: str, run: Run) -> tuple[str, Callable[[Run, int], None]]:
    """The engine's name and its `advance(run, stop)`; "auto" takes the fused one where it applies."""
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is unknown: choose one of {', '.join(ENGINES)}")
    fused = cuda if run.X.device.type == "cuda" else cpu
    reason = None if engine == "torch" else fused.applies(run)
    if engine == "fused" and reason is not None:
        raise ValueError(f'engine="fused" cannot run this: {reason}; take engine="torch" or "auto"')
    if engine == "torch" or reason is not None:
        return "torch", loop.advance
    return "fused", fused.advance
