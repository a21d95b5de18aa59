"""One run against its Lasso: plan, training, metrics, and the predicted numbers beside those reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lntrain.runs.build import RunSpec, build, snapshots_of
from lntrain.runs.coefficients import coefficient_table, units_text, write_csv
from lntrain.runs.console import result_text
from lntrain.runs.forecast import time_text
from lntrain.runs.regression import History, arrays_of, judged, summary_of
from lntrain.runs.session import Outcome, Session
from lntrain.training.evaluation import evaluate
from lntrain.training.loop import Snapshot


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Run `cfg` in `folder`, or go on from its checkpoint; returns the summary it wrote."""
    session = Session(cfg, folder, resume=resume)
    spec = build(cfg)
    print(spec.plan_text, flush=True)
    if session.draws:  # nobody looks on while a sweep's jobs run
        print(f"time      {time_text(cfg, spec, spec.settled.steps - session.step)}", flush=True)
    if resume:
        print(f"resume    at step {session.step} of {spec.settled.steps}", flush=True)
    history = begin(session, spec, spec.settled.yaml(cfg))

    def take(snapshot: Snapshot) -> None:
        row = evaluate(spec.problem, snapshot, spec.plan.reference, spec.plan.penalty, average=spec.settled.average)
        record(session, spec, history, snapshot, row)

    with session:
        last = session.train(
            lambda state: snapshots_of(cfg, spec, spec.model, spec.optimizer, state), spec.settled.steps, take
        )
        summary = finish(session, spec, history, last, session.seconds)
    print(f"\n{report(spec, last, summary)}")
    speed = f"{summary['steps_per_second']:.3g} steps a second, metrics included ({last.engine} engine)"
    print(f"\nran       {speed}\nwrote     {folder}", flush=True)
    return summary


def begin(session: Session, spec: RunSpec, config: str) -> History:
    """Begin the history and the dashboard; config: stored in checkpoints, to resume with."""
    history = History(spec, session.remembered)
    purge = session.step + 1 if session.resumed else None
    session.begin(
        config, history, purge_step=purge, replicas=bool(spec.model.replicas), settled=spec.settled.steps // 100
    )
    if not session.resumed:
        session.dashboard.text("plan", spec.plan_text)
    return history


def record(session: Session, spec: RunSpec, history: History, snapshot: Snapshot, row: dict[str, float]) -> None:
    """A scheduled snapshot's metrics into the history and TensorBoard."""
    reference, mean = spec.plan.reference, judged(spec.plan, snapshot)
    history.add(snapshot, row)
    lines = {"one": 1.0}
    if reference is not None:
        lines |= {"l1": float(reference.coef.abs().sum()), "support": float(reference.support.sum())}
    shown = None if not session.draws or mean is None else mean.mean(0) if mean.ndim == 2 else mean
    session.dashboard.row(row, shown, lines)


def finish(session: Session, spec: RunSpec, history: History, snapshot: Snapshot, seconds: float) -> dict[str, Any]:
    """All that is written at the end; the summary."""
    plan, problem, mean = spec.plan, spec.problem, judged(spec.plan, snapshot)
    summary = summary_of(spec, history.metrics[-1], snapshot, seconds)
    if problem.columns and plan.reference is not None and mean is not None:
        write_csv(session.folder / "coefficients.csv", coefficient_table(problem, plan.reference.coef, mean))

    def draw() -> dict[str, Any]:
        if plan.reference is None or mean is None:
            return {}
        from lntrain.experiments import run_figures  # matplotlib takes half a second: a sweep's jobs draw nothing

        return run_figures.draw(spec, history, mean, snapshot.step)

    hparams = {  # five, the number that TensorBoard ticks at first
        "lr": plan.lr,
        "std": plan.std,
        "alpha": plan.alpha,
        "batch_size": plan.dynamics.batch_size or problem.n,
        "seed": spec.seed,
    }
    texts = {"summary": result_text(summary, plan.reference)}
    return session.finish(Outcome(summary, arrays_of(spec, snapshot), draw, hparams, snapshot.step, texts))


def report(spec: RunSpec, snapshot: Snapshot, summary: dict[str, Any]) -> str:
    """Predicted beside reached, and the coefficients in the data's own units."""
    reference = spec.plan.reference
    return result_text(summary, reference) + units_text(spec.problem, reference, judged(spec.plan, snapshot))
