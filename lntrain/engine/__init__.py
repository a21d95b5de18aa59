"""Engines advance a run in place: one trajectory, by the path that is fastest for its shape.

The map. `choose_path` (paths.py) reads a run and the threads and takes the first that fits; `cpu.advance` follows.
Every path draws the numbers of `loop.py`, the slow twin, and agrees with it to rounding.

| path | taken where | X is read | module | against the run alone, other chunks and threads |
|---|---|---|---|---|
| `torch` | anything else: other models, optimisers, noises, hooks | as it is | loop | bit-equal |
| `cuda` | X on a GPU; a step of all replicas in a CUDA graph | as it is | cuda | to rounding; never yet run on a GPU |
| `threads` | a step reads over 32 MB of a dense X | its rows, in 8 parts | threads | bit-equal |
| `lanes` | plain steps on all rows, a vector of replicas for each thread | once for all | lanes | to rounding |
| `panels` | plain steps on all rows, panels of columns fit registers | panels | panels | bit-equal |
| `whole_batch` | plain steps on all rows | rows | steps | bit-equal |
| `single_row` | plain steps, one drawn row each | the row and the next | single_row | bit-equal |
| `sparse` | a CSR X, plain steps, one drawn row each | the row's own numbers | sparse | bit-equal |
| `general` | momentum, weight decay, depth, batches, noisy rows | rows | steps | bit-equal |

Plain: depth 2, no momentum, no weight decay: a multiplicative step. `general` serves every dense run and is the twin of
the leaner ones. Each path is an engine by its name (`engine="panels"`), and refuses what it cannot run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lntrain.engine import cpu, cuda, loop
from lntrain.engine.paths import Path, applies, choose_path, unfit
from lntrain.engine.state import Run

__all__ = ["ENGINES", "Path", "Run", "choose", "choose_path"]

ENGINES = ("auto", "torch", "fused")


def choose(engine: str, run: Run) -> tuple[str, Callable[[Run, int], None]]:
    """The engine's name and its `advance(run, stop)`; "auto" takes the fused one where it applies.

    A path of the map is an engine too: the fused one, by that path.
    """
    if engine not in (*ENGINES, *Path):
        raise ValueError(f"engine={engine!r} is unknown: choose one of {', '.join(ENGINES)}, or {', '.join(Path)}")
    reason = None if engine == "torch" else applies(run)
    if engine not in ("auto", "torch") and reason is not None:
        raise ValueError(f'engine="{engine}" cannot run this: {reason}; take engine="torch" or "auto"')
    if engine == "torch" or reason is not None:
        return "torch", loop.advance
    own = cuda.advance if run.X.device.type == "cuda" else cpu.advance
    if engine in ("auto", "fused"):
        return "fused", own
    path = Path(engine)
    unfitting = None if own is cuda.advance and path == Path.CUDA else unfit(run, path)
    if unfitting is not None:
        raise ValueError(f'engine="{engine}" cannot run this: {unfitting}; take engine="auto"')
    return "fused", own if own is cuda.advance else partial(cpu.advance, path=path)
