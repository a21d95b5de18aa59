"""How long a run will take on this machine: told, never used to choose anything."""

from __future__ import annotations

import copy
import time
from collections import deque

from omegaconf import DictConfig

from lntrain.optim.sgd import LabelNoiseSGD
from lntrain.runs.build import RunSpec
from lntrain.training.divergence import DivergenceError
from lntrain.training.loop import train

BURST, SECONDS = 1024, 0.15  # steps of the first trial, and the time from which on one counts


def time_text(cfg: DictConfig, spec: RunSpec, steps: int) -> str:
    """The time to expect for so many steps, from a short burst on a copy of the model."""
    model = copy.deepcopy(spec.model)
    optimizer = LabelNoiseSGD(model.parameters(), lr=spec.plan.lr, noise=spec.optimizer.noise, seed=spec.seed)

    def seconds(count: int) -> float:
        began = time.monotonic()
        snapshots = train(
            model,
            optimizer,
            spec.problem,
            count,
            batch_size=spec.settled.batch_size,
            sampling=cfg.sampling,
            loss_constant=cfg.loss_constant,
            engine=cfg.engine,
            snapshots=[count],
        )
        deque(snapshots, maxlen=0)
        return time.monotonic() - began

    try:
        count, spent = BURST, seconds(BURST)  # the first call compiles
        while (spent := seconds(count)) < SECONDS and count < steps:
            count *= 4
    except DivergenceError:
        return "not told: a short trial diverged"
    return f"about {duration(spent / count * steps)} for the steps, on this machine as it is now"


def duration(seconds: float) -> str:
    """For people.

    >>> duration(41.3), duration(400.0), duration(9000.0)
    ('41 s', '7 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
