"""What the network experiments share: arms trained on many seeds at once, measured, checkpointed, drawn, tabled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from lntrain.experiments import figures
from lntrain.models.replicas import Criterion, Replicas, Rows
from lntrain.noise.labels import Noise
from lntrain.optim.sgd import LabelNoiseSGD
from lntrain.runs.build import number
from lntrain.runs.dashboard import Dashboard
from lntrain.runs.files import read_checkpoint, to_json, write_arrays, write_atomically, write_checkpoint, write_json
from lntrain.runs.watch import Interruption, signals, watch
from lntrain.training.ensemble import Anneal, Progress, descend, schedule

History = dict[str, dict[str, Any]]  # arm -> {"step": (S,), metric: (S, R), "done"}
ANNEALING_POINTS = 6  # reported evenly within the annealing, which a log scale would pass over


@dataclass(frozen=True)
class Arm:
    """One way of training: `network(seed)` in batches (None: all) of `rows`, whose targets carry `noise`; drawn as `name`."""

    name: str
    network: Callable[[int], nn.Module]
    rows: Rows
    noise: Noise
    batch_size: int | None


@dataclass(frozen=True)
class Study:
    """Arms, the loss they train on, and what is measured: measure(arm, networks) -> {metric: a number a replica}."""

    arms: Sequence[Arm]
    criterion: Criterion
    measure: Callable[[Arm, Replicas], dict[str, list[float]]]


def squared_loss(output: Tensor, target: Tensor, *, scale: float = 0.5) -> Tensor:
    """scale * mean over rows of ||output - target||^2; rows first.

    >>> import torch
    >>> float(squared_loss(torch.ones(4, 2), torch.zeros(4, 2)))
    1.0
    """
    return scale * (output - target).square().reshape(len(output), -1).sum(-1).mean()


def seeds_of(cfg: DictConfig) -> list[int]:
    """seed, seed + 1, ..., one a replica.

    >>> seeds_of(OmegaConf.create({"seed": 3, "study": {"replicas": 2}}))
    [3, 4]
    """
    replicas = cfg.study.replicas
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
        raise ValueError(f"study.replicas={replicas!r} must be a whole number, at least 1")
    return [cfg.seed + r for r in range(replicas)]


def noise_in(cfg: DictConfig) -> Noise:
    """The noise of the group `noise` with the numbers given, its schedule included."""
    options = {"schedule": cfg.noise.schedule or None, "std": cfg.noise.std, "p": cfg.noise.p}
    given = {key: value for key, value in options.items() if value is not None}
    if not {"std", "p"} & set(given):
        raise ValueError("noise.std is not given: it is a standard deviation (or noise.p with noise=flips)")
    noise: Noise = instantiate({"_target_": cfg.noise._target_, **given}, _partial_=True, _convert_="all")
    return noise


def run_arms(cfg: DictConfig, folder: Path, study: Study, *, resume: bool = False) -> tuple[History, float]:
    """Train the arms one after the other, all seeds of each at once; what was measured, and the seconds.

    Raises:
        ValueError: settings that do not fit. Interruption: a stop was asked; summary.json tells what is done.
    """
    began, anneal = time.monotonic(), anneal_of(cfg)
    empty: dict[str, Any] = {"history": {"rows": {}, "seconds": 0.0}, "state": None}
    checkpoint = read_checkpoint(folder) if resume else empty
    history: History = checkpoint["history"]["rows"]
    state, earlier = checkpoint["state"], float(checkpoint["history"]["seconds"])
    start = cfg.steps - anneal.steps
    extra = np.linspace(start, cfg.steps, ANNEALING_POINTS + 1).astype(int).tolist() if anneal.steps else []
    scheduled = schedule(cfg.steps, cfg.study.points, *extra)
    dashboard = Dashboard(folder, layout={})

    def save(progress: Progress | None) -> None:
        seconds = earlier + time.monotonic() - began
        current = None if progress is None else progress.state_dict()
        kept = {"config": OmegaConf.to_yaml(cfg), "state": current, "history": {"rows": history, "seconds": seconds}}
        write_checkpoint(folder, kept)
        write_atomically(folder / "metrics.jsonl", "".join(_lines(history)).encode())

    try:
        with signals() as asked:
            for arm in study.arms:
                row = history.setdefault(arm.name, {"step": [], "done": False})
                if row["done"]:
                    continue
                for progress in watch(
                    _train(cfg, arm, study.criterion, anneal, scheduled, state), steps=cfg.steps, start=(row["step"] or [0])[-1],
                    every=cfg.checkpoint_every, save=save, asked=asked, folder=folder, label=arm.name,
                ):  # fmt: skip
                    if progress.scheduled and progress.step > (row["step"] or [0])[-1]:
                        values = study.measure(arm, progress.networks)
                        if not row["step"] and arm is study.arms[0]:
                            dashboard.writer.add_custom_scalars(_layout(values, study.arms))
                        _add(row, progress.step, values)
                        _show(dashboard, arm.name, row)
                row["done"], state = True, None
                save(None)
    except Interruption:
        done = {f"steps {name}": (row["step"] or [0])[-1] for name, row in history.items()}
        write_json(folder / "summary.json", {"status": "interrupted", "seed": cfg.seed, **done})
        raise
    finally:
        dashboard.close()
    return history, earlier + time.monotonic() - began


def anneal_of(cfg: DictConfig) -> Anneal:
    """The end of the run, from study.anneal (a share of the steps) and study.annealed."""
    if number(cfg, "steps", whole=True) is None or number(cfg, "optimizer.lr") is None:
        raise ValueError(f"task={cfg.task} needs numbers for steps and optimizer.lr")
    if not 0 <= cfg.study.anneal <= 1:
        raise ValueError(f"study.anneal={cfg.study.anneal} must lie in [0, 1]: it is a share of the steps")
    cfg.steps = int(cfg.steps)
    return Anneal(round(cfg.study.anneal * cfg.steps), cfg.study.annealed)


def anneal_start(cfg: DictConfig) -> int:
    """The last step of constant noise and lr."""
    return max(1, int(cfg.steps) - anneal_of(cfg).steps)


def _train(
    cfg: DictConfig, arm: Arm, criterion: Criterion, anneal: Anneal, scheduled: Sequence[int], state: dict[str, Any] | None
) -> Iterable[Progress]:  # fmt: skip
    seeds = seeds_of(cfg)
    networks = Replicas([arm.network(seed) for seed in seeds])
    optimizer: LabelNoiseSGD = instantiate(cfg.optimizer, _partial_=True)(
        networks.parameters(), noise=arm.noise, seed=seeds
    )
    return descend(
        networks, optimizer, arm.rows, criterion, cfg.steps, batch_size=arm.batch_size, anneal=anneal,
        sampling=None if arm.batch_size is None else cfg.sampling,
        lr_schedule=instantiate(cfg.lr_schedule, _convert_="all") if cfg.lr_schedule else None,
        scheduled=scheduled, state=state,
    )  # fmt: skip


def _add(row: dict[str, Any], step: int, values: Mapping[str, list[float]]) -> None:
    row["step"].append(step)
    for name, numbers in values.items():
        row.setdefault(name, []).append([float(number) for number in numbers])


def _metrics(row: Mapping[str, Any]) -> list[str]:
    return [name for name in row if name not in ("step", "done")]


def _lines(history: History) -> Iterable[str]:
    for arm, row in history.items():
        for i, step in enumerate(row["step"]):
            yield to_json({"arm": arm, "step": step, **{name: row[name][i] for name in _metrics(row)}})


def _show(dashboard: Dashboard, arm: str, row: Mapping[str, Any]) -> None:
    """The last point in TensorBoard: the mean over seeds, and one standard deviation about it."""
    for name in _metrics(row):
        mean, sd = spread(row[name][-1])
        for tag, value in zip(_tags(name, arm), (mean, mean - sd, mean + sd), strict=True):
            dashboard.writer.add_scalar(tag, value, row["step"][-1])


def _tags(metric: str, arm: str) -> list[str]:
    """Of the mean, and of the lower and the upper edge of its band."""
    arm = arm.replace(" ", "_").replace(",", "").replace("+", "and")
    return [f"{metric}/{arm}", f"band/{metric}/{arm}_low", f"band/{metric}/{arm}_high"]


def _layout(metrics: Iterable[str], arms: Sequence[Arm]) -> dict[str, Any]:
    """TensorBoard's custom scalars: the arms of a metric in one chart, then each with its band."""
    layout: dict[str, Any] = {"Means over seeds": {}, "Mean over seeds, and one standard deviation": {}}
    together, apart = layout.values()
    for name in metrics:
        together[name] = ["Multiline", [_tags(name, arm.name)[0] for arm in arms]]
        apart |= {f"{name}: {arm.name}": ["Margin", _tags(name, arm.name)] for arm in arms}
    return layout


def spread(values: Any) -> tuple[float, float]:
    """Mean and standard deviation over seeds.

    >>> spread([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def at(history: History, arm: str, metric: str, step: int) -> NDArray[np.float64]:
    """A metric of each seed at a reported step, (R,)."""
    row = history[arm]
    return np.asarray(row[metric][row["step"].index(step)], dtype=float)


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, *lines)).replace(
        "\n", f"\n|{'---|' * len(heads)}\n", 1
    )


def pm(values: Any) -> str:
    """Mean +/- standard deviation, as text.

    >>> pm([1.0, 3.0])
    '2 ± 1.4'
    """
    mean, sd = spread(values)
    return f"{mean:.3g} ± {sd:.2g}"


def finish(
    cfg: DictConfig, folder: Path, history: History, seconds: float, drawn: Mapping[str, Any], text: str,
    results: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """summary.json, result.npz, table.md, the figures, and the end of the dashboard; the summary."""
    summary = {
        "status": "done", "task": cfg.task, "steps": cfg.steps, "seconds": seconds, "seed": cfg.seed,
        "replicas": cfg.study.replicas, **results,
    }  # fmt: skip
    figures.save(drawn, folder / "figures")
    flat = {f"{arm}/{name}": np.array(row[name]) for arm, row in history.items() for name in ("step", *_metrics(row))}
    write_arrays(folder / "result.npz", flat)
    write_atomically(folder / "table.md", f"{text}\n".encode())
    write_json(folder / "summary.json", summary)
    dashboard = Dashboard(folder, layout={})
    dashboard.text("table", text)
    hparams = {
        "task": cfg.task,
        "lr": cfg.optimizer.lr,
        "steps": cfg.steps,
        "batch_size": cfg.batch_size or 0,
        "seed": cfg.seed,
    }
    dashboard.finish(drawn, hparams, summary, cfg.steps)
    dashboard.close()
    print(f"\n{text}\n\nran       {seconds:.0f} s\nwrote     {folder}", flush=True)
    return summary
