"""One run: configuration -> problem -> plan -> training -> metrics, dashboard, figures, summary."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from lntrain.runs.build import Job, build, points
from lntrain.runs.coefficients import coefficient_table, units_text, write_csv
from lntrain.runs.console import result_text
from lntrain.runs.dashboard import Dashboard
from lntrain.runs.files import read_checkpoint, to_json, write_arrays, write_atomically, write_checkpoint, write_json
from lntrain.runs.forecast import time_text
from lntrain.runs.watch import Interruption, signals, watch
from lntrain.theory.plan import Plan
from lntrain.training.evaluation import evaluate
from lntrain.training.loop import DivergenceError, Snapshot, train

SHOWN = 12  # coordinates on and off the support whose trajectories are drawn
SUMMARY = ("alpha", "steps", "seconds", "steps_per_second", "seed", "reference_gap", "distance_mean", "distance_last",
           "distance_compensated", "suboptimality_mean", "kkt_residual", "lambda_ratio", "support_f1", "status")  # fmt: skip


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Run `cfg` in `folder`, or go on from its checkpoint; returns the summary it wrote."""
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))  # type: ignore[assignment]
    folder = Path(folder)
    checkpoint = read_checkpoint(folder) if resume else None
    job = build(cfg)
    print(job.plan_text, flush=True)
    history = History(job, checkpoint)
    if cfg.figures is not False:  # nobody looks on while a sweep's jobs run
        print(f"time      {time_text(cfg, job, cfg.steps - history.step)}", flush=True)
    if checkpoint is not None:
        print(f"resume    at step {history.step} of {cfg.steps}", flush=True)
    dashboard = Dashboard(
        folder,
        purge_step=None if checkpoint is None else history.step + 1,
        replicas=bool(job.model.replicas),
        settled=cfg.steps // 100,
    )
    history.trim_metrics(folder)
    if checkpoint is None:
        dashboard.text("plan", job.plan_text)
    started = time.monotonic()
    try:
        with signals() as asked:
            snapshot = _train(
                cfg, job, folder, history, dashboard, asked, None if checkpoint is None else checkpoint["state"]
            )
        summary = finish(cfg, job, folder, history, dashboard, snapshot, history.seconds + time.monotonic() - started)
    except Interruption:
        write_json(folder / "summary.json", {**dict.fromkeys(SUMMARY), "seed": cfg.seed, "status": "interrupted"})
        raise
    finally:
        dashboard.close()
    print(
        f"\n{result_text(summary, job.plan.reference)}{units_text(job.problem, job.plan.reference, judged(job.plan, snapshot))}"
    )
    print(
        f"\nran       {summary['steps_per_second']:.3g} steps a second, metrics included ({snapshot.engine} engine)\nwrote     {folder}",
        flush=True,
    )
    return summary


class History:
    """What a run remembers beside its state: the rows, and the trajectories of a few coordinates."""

    def __init__(self, job: Job, checkpoint: Mapping[str, Any] | None) -> None:
        reference, self.plan = job.plan.reference, job.plan
        size = reference.coef.abs() if reference is not None else torch.zeros(job.problem.d)
        if reference is None and job.problem.coef is not None:
            size = job.problem.coef.double().abs()
        order = torch.argsort(size, descending=True, stable=True)
        on = int((size > 0).sum())
        self.shown = torch.cat((order[: min(on, SHOWN)], order[on : on + SHOWN]))
        empty: dict[str, Any] = {"rows": [], "last": [], "mean": [], "seconds": 0.0}
        saved: dict[str, Any] = empty if checkpoint is None else checkpoint["history"]
        self.rows: list[dict[str, float]] = saved["rows"]
        self.last: list[torch.Tensor] = list(saved["last"])
        self.mean: list[torch.Tensor] = list(saved["mean"])
        self.seconds: float = saved["seconds"]
        self.step = 0 if checkpoint is None else int(checkpoint["state"]["step"])

    def add(self, snapshot: Snapshot, row: dict[str, float]) -> None:
        """Remember a scheduled snapshot."""
        first = (0,) if snapshot.loss.ndim else ()
        mean = judged(self.plan, snapshot)
        assert snapshot.coef is not None
        assert mean is not None
        self.rows.append(row)
        self.last.append(snapshot.coef[first][self.shown].double().cpu())
        self.mean.append(mean[first][self.shown].double().cpu())

    def state(self, seconds: float) -> dict[str, Any]:
        """For the checkpoint."""
        return {
            "rows": self.rows,
            "last": _stack(self.last),
            "mean": _stack(self.mean),
            "seconds": self.seconds + seconds,
        }

    def trim_metrics(self, folder: Path) -> None:
        """metrics.jsonl as of the checkpoint, which holds its rows: an interrupted run may have written past it."""
        lines = "".join(to_json(row) for row in self.rows)
        write_atomically(folder / "metrics.jsonl", lines.encode(), durable=False)

    def column(self, name: str) -> list[float]:
        """One metric over the rows."""
        return [row.get(name, math.nan) for row in self.rows]


def _stack(rows: list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    """One tensor, which is saved sooner than many."""
    return torch.stack(rows) if rows else []


def _train(
    cfg: DictConfig,
    job: Job,
    folder: Path,
    history: History,
    dashboard: Dashboard,
    asked: list[int],
    state: dict[str, Any] | None,
) -> Snapshot:
    """Consume the generator: metrics at scheduled snapshots, a checkpoint now and then, a stop when asked."""
    began = time.monotonic()
    snapshots = train(
        job.model, job.optimizer, job.problem, cfg.steps, batch_size=cfg.batch_size, sampling=cfg.sampling,
        loss_constant=cfg.loss_scale, lr_schedule=job.lr_schedule, engine=cfg.engine, state=state,
        snapshots=points(cfg.steps, cfg.points_per_octave, size=job.problem.n * job.problem.d, period=1 + job.plan.dynamics.antithetic),
    )  # fmt: skip

    text = OmegaConf.to_yaml(cfg)

    def save(snapshot: Snapshot) -> None:
        elapsed = time.monotonic() - began
        dashboard.flush()
        write_checkpoint(folder, {"config": text, "state": snapshot.state_dict(), "history": history.state(elapsed)})

    done: Snapshot | None = None
    with (folder / "metrics.jsonl").open("a") as metrics:
        try:
            for snapshot in watch(
                snapshots, steps=cfg.steps, start=history.step, every=cfg.checkpoint_every, save=save, asked=asked, folder=folder
            ):  # fmt: skip
                done = snapshot
                if snapshot.scheduled and snapshot.step > history.step:
                    row = evaluate(job.problem, snapshot, job.plan.reference, job.plan.penalty, average=cfg.average)
                    metrics.write(to_json(row))
                    record(cfg, job, history, dashboard, snapshot, row)
        except DivergenceError:
            if done is not None:
                save(done)
            raise
    assert done is not None
    save(done)
    return done


def record(
    cfg: DictConfig, job: Job, history: History, dashboard: Dashboard, snapshot: Snapshot, row: dict[str, float]
) -> None:
    """A scheduled snapshot's metrics into the history and TensorBoard."""
    reference, mean = job.plan.reference, judged(job.plan, snapshot)
    history.add(snapshot, row)
    lines = {"one": 1.0}
    if reference is not None:
        lines |= {"l1": float(reference.coef.abs().sum()), "support": float(reference.support.sum())}
    shown = None if cfg.figures is False or mean is None else mean.mean(0) if mean.ndim == 2 else mean
    dashboard.row(row, shown, lines)


def judged(plan: Plan, snapshot: Snapshot) -> torch.Tensor | None:
    """The average that this run is judged by."""
    return snapshot.tail_coef if plan.tail else snapshot.mean_coef


def finish(
    cfg: DictConfig, job: Job, folder: Path, history: History, dashboard: Dashboard, snapshot: Snapshot, seconds: float
) -> dict[str, Any]:
    """summary.json, result.npz, figures, and the end of the dashboard."""
    plan, problem, row = job.plan, job.problem, history.rows[-1]
    summary: dict[str, Any] = dict.fromkeys(SUMMARY)
    summary |= {name: value for name, value in row.items() if name != "step"}
    which, mean = "tail" if plan.tail else "mean", judged(plan, snapshot)
    for name, own in (("distance", "distance"), ("distance_fit", "fit"), ("suboptimality", "suboptimality")):
        summary |= {f"{name}{sd}": row[f"{own}_{which}{sd}"] for sd in ("", "_sd") if f"{own}_{which}{sd}" in row}
    summary |= {
        "alpha": plan.alpha, "alpha_ratio": plan.alpha_ratio, "lr": plan.lr, "std": plan.std, "steps": snapshot.step,
        "seconds": seconds, "steps_per_second": snapshot.step / seconds, "seed": job.seed, "replicas": cfg.model.replicas,
        "reference_gap": None if plan.reference is None else plan.reference.gap, "near_ties": plan.near_ties,
        "antithetic": plan.dynamics.antithetic, "batch_size": plan.dynamics.batch_size, "average": cfg.average,
        "corrected": plan.corrected, "left_out": int((~plan.kept).sum()), "ill_determined": plan.ill_determined,
        "problem": problem.name, "engine": snapshot.engine, "status": "done",
    }  # fmt: skip
    if plan.expected is not None:
        expected = {f"expected_{name}": value for name, value in vars(plan.expected).items()}
        summary |= {name: value if math.isfinite(value) else None for name, value in expected.items()}
    arrays = {
        "mean_coef": snapshot.mean_coef,
        "tail_coef": snapshot.tail_coef,
        "last_coef": snapshot.coef,
        "penalty": plan.penalty,
        "truth": problem.coef,
    }
    if plan.reference is not None:
        arrays["reference_coef"] = plan.reference.coef
    if problem.X_scale is not None and mean is not None:
        arrays["mean_coef_original"], arrays["intercept_original"] = problem.original_units(mean)  # type: ignore[assignment]
    names = {"columns": np.array(problem.columns), "target": np.array(problem.target)} if problem.columns else {}
    write_arrays(folder / "result.npz", {k: np.asarray(v.cpu()) for k, v in arrays.items() if v is not None} | names)
    if problem.columns and plan.reference is not None and mean is not None:
        write_csv(folder / "coefficients.csv", coefficient_table(problem, plan.reference.coef, mean))
    figures: dict[str, Any] = {}
    if cfg.figures is not False and plan.reference is not None and mean is not None:
        from lntrain.experiments.run_figures import (
            draw,  # matplotlib takes half a second to load, and a sweep's jobs draw nothing
        )

        figures = draw(job, history, mean, snapshot.step, folder / "figures")
    write_json(folder / "summary.json", summary)
    dashboard.text("summary", result_text(summary, plan.reference))
    hparams = {  # five, the number that TensorBoard ticks at first
        "lr": plan.lr, "std": plan.std, "alpha": plan.alpha, "batch_size": plan.dynamics.batch_size or problem.n, "seed": job.seed,
    }  # fmt: skip
    dashboard.finish(figures, hparams, summary, snapshot.step)
    return summary
