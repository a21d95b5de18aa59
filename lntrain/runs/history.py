"""What a run remembers beside its state: in its checkpoint, its metrics.jsonl and, when stopped, its summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Memory:
    """Nothing: for a run that is measured at its end alone."""

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {}

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """The lines of metrics.jsonl."""
        return ()

    def told(self) -> dict[str, Any]:
        """For the summary of a run that was stopped."""
        return {}


class Curves(Memory):
    """Metrics of trainings that run one after the other, a number a replica: name -> {"step", metric, "done"}."""

    def __init__(self, remembered: Mapping[str, Any]) -> None:
        self.named: dict[str, dict[str, Any]] = remembered.get("rows", {})

    def of(self, name: str) -> dict[str, Any]:
        """One training's."""
        return self.named.setdefault(name, {"step": [], "done": False})

    def done(self, name: str) -> bool:
        """Whether it was trained to its end."""
        return bool(self.of(name)["done"])

    def finish(self, name: str) -> None:
        """It was."""
        self.of(name)["done"] = True

    def add(self, name: str, step: int, values: Mapping[str, list[float]]) -> None:
        """Measured at a step, metric -> (R,)."""
        row = self.of(name)
        row["step"].append(step)
        for metric, numbers in values.items():
            row.setdefault(metric, []).append([float(number) for number in numbers])

    def last(self, name: str) -> tuple[int, dict[str, list[float]]]:
        """The last step and its values."""
        row = self.of(name)
        return row["step"][-1], {metric: row[metric][-1] for metric in metrics_of(row)}

    def at(self, name: str, metric: str, step: int) -> NDArray[np.float64]:
        """A metric of each seed at a reported step, (R,)."""
        row = self.of(name)
        return np.asarray(row[metric][row["step"].index(step)], dtype=float)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """name/metric -> (S, R), and name/step -> (S,)."""
        named = self.named.items()
        return {f"{name}/{key}": np.array(row[key]) for name, row in named for key in ("step", *metrics_of(row))}

    def state(self) -> dict[str, Any]:
        return {"rows": self.named}

    def rows(self) -> Iterable[Mapping[str, Any]]:
        for name, row in self.named.items():
            for i, step in enumerate(row["step"]):
                yield {"arm": name, "step": step, **{metric: row[metric][i] for metric in metrics_of(row)}}

    def told(self) -> dict[str, Any]:
        return {f"steps {name}": (row["step"] or [0])[-1] for name, row in self.named.items()}


def metrics_of(row: Mapping[str, Any]) -> list[str]:
    """The names of what was measured, in their order."""
    return [name for name in row if name not in ("step", "done")]
