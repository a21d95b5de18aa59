"""Engines advance a run in place: one trajectory, by the code path that is fastest for its shape.

The map of paths: `choose_path` (paths.py) takes the first that fits a run and the threads; `cpu.advance` runs it.
Every path draws the random numbers of `loop.py`, the slow reference, and agrees with it to rounding; whatever the
chunks of steps and the threads, a path gives the same bits.

| path | taken where | X is read | module | speed-up over | replica equals the run alone | tests |
|---|---|---|---|---|---|---|
| `torch` | other models, optimisers, noises, hooks | as it is | loop | | bit for bit | the reference of all |
| `cuda` | X on a GPU, in a CUDA graph | as it is | cuda | never run yet | to rounding | steps_for_a_gpu |
| `threads` | a step reads over 32 MB of dense X | rows, in 8 parts | threads | 1.5 general | bit for bit | rows_split |
| `gram` | plain, all rows, four a column or more | R of X = Q R | gram | 1.0 to 4.7 panels | bit for bit | gram |
| `lanes` | plain, all rows, a vector of runs per thread | once for all | lanes | 1.6 panels | to rounding | in_lanes |
| `panels` | plain, all rows, columns in registers | in panels | panels | 0.9 to 1.5 whole | bit for bit | panels |
| `whole_batch` | plain, all rows | by rows | steps | 1.2 general | bit for bit | panels |
| `single_row` | plain, one drawn row | the row, the next | single_row | 3 to 4 general | bit for bit | single_rows |
| `sparse` | plain, one drawn row of a CSR X | its numbers | sparse | as X is sparse | bit for bit | test_sparse |
| `adaptive` | Adam, AdamW, RMSprop of torch.optim | by rows | adaptive | | bit for bit | test_adaptive |
| `general` | momentum, decay, depth, batches, noisy rows | by rows | steps | | bit for bit | fused_follows |

Plain: depth 2, no momentum, no weight decay: a multiplicative step. `general` runs every dense case and is the
reference of the faster ones; `scripts/benchmark_paths.py` measures the speed-ups. Noise in the column space of X
(noise.stream=gram) takes `gram` whatever the shape and the rule: its run is one on as many rows as X has directions,
bit for bit. Each path can be chosen by its name (`engine="panels"`), and refuses what it cannot run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numba as nb

from lntrain.engine import cpu, cuda, loop
from lntrain.engine.paths import Path, applies, choose_path, unfit
from lntrain.engine.state import Run

__all__ = ["ENGINES", "Path", "Run", "choose", "choose_path"]

ENGINES = ("auto", "torch", "fused")
NO_COMPILER = "numba compiles nothing (NUMBA_DISABLE_JIT)" if nb.config.DISABLE_JIT else None  # type: ignore[attr-defined]


def choose(engine: str, run: Run) -> tuple[str, Callable[[Run, int], None]]:
    """The engine's name and its `advance(run, stop)`; "auto" takes the fused one where it applies.

    The name of a path stands for the fused engine on that path.
    """
    if engine not in (*ENGINES, *Path):
        raise ValueError(f"engine={engine!r} is unknown: choose one of {', '.join(ENGINES)}, or {', '.join(Path)}")
    reason = None if engine == "torch" else NO_COMPILER or applies(run)
    if engine not in ("auto", "torch") and reason is not None:
        raise ValueError(f'engine="{engine}" cannot run this: {reason}; take engine="torch" or "auto"')
    if engine == "torch" or reason is not None:
        return "torch", loop.advance
    own = cuda.advance if run.X.device.type == "cuda" else cpu.advance
    if engine in ("auto", "fused"):
        return "fused", own
    path = Path(engine)
    if (reason := unfit(run, path)) is not None:
        raise ValueError(f'engine="{engine}" cannot run this: {reason}; take engine="auto"')
    return "fused", own if path == Path.CUDA else partial(cpu.advance, path=path)
