"""The label-noise regularisation path: one noise level per replica, drawn over scikit-learn's lasso_path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig

from lntrain.data.problem import Problem
from lntrain.experiments.gallery.run import judged
from lntrain.penalty.formula import alpha_max
from lntrain.runs import build
from lntrain.runs.history import Memory
from lntrain.runs.session import Outcome, Session, State
from lntrain.runs.settled import Setting, settle, yaml_with
from lntrain.theory.plan import Plan, make_plan
from lntrain.training.evaluation import distance
from lntrain.training.loop import Snapshot

MOST = 1000  # penalties of one path


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train cfg.path.points penalties at once, each with its own lr and std; returns the summary."""
    session, dtype = Session(cfg, folder, resume=resume), build.dtype_of(cfg)
    problem: Problem = instantiate(cfg.problem, _convert_="all")
    setting = settle(cfg, problem)
    alphas = _grid(cfg, problem)
    plans = [_plan(cfg, setting, problem, float(alpha)) for alpha in alphas]
    rates, stds, steps = [p.lr for p in plans], [p.std for p in plans], max(p.steps for p in plans)
    print(
        f"path      {problem.name}: n={problem.n}, d={problem.d}, {len(alphas)} penalties "
        f"from {alphas[0]:.3g} to {alphas[-1]:.3g}\n"
        f"noise     std {min(stds):.3g} to {max(stds):.3g}, lr {min(rates):.3g} to {max(rates):.3g}, {steps} steps",
        "".join(f"\nnote      {note}" for note in (*build.noise_notes(cfg, problem), *_notes(plans))),
        sep="",
        flush=True,
    )
    pairs, size = setting.pairs[0], setting.sizes[0]
    model = build.model_of(cfg, setting, problem.d, dtype, replicas=len(alphas))
    build.leave_out(model, torch.stack([plan.kept for plan in plans]))
    data = problem.to(dtype)
    optimizer = build.optimizer_of(cfg, model, build.noise_of(cfg, data, tuple(stds), antithetic=pairs), lr=rates)

    def training(state: State) -> Iterator[Snapshot]:
        options = {"sampling": cfg.sampling, "pairs": pairs, "state": state}
        return build.training_of(cfg, data, model, optimizer, steps=steps, batch_size=size, **options)

    numbers = {**setting.values(), "noise.std": None, "steps": steps}
    with session.begin(yaml_with(cfg, numbers), Memory(), layout={}):
        last = session.train(training, steps)
        summary = session.finish(_outcome(cfg, problem, alphas, plans, last, session.seconds))
    for key, what in (("distance", "to the Lasso over the path"), ("distance_fit", "of the fit")):
        print(f"distance  {what}: median {summary[f'{key}_median']:.4f}, largest {summary[f'{key}_largest']:.4f}")
    print(f"wrote     {folder}", flush=True)
    return summary


def _notes(plans: list[Plan]) -> list[str]:
    """What the plans expect, and where the data leave the coefficients open."""
    known = [plan.expected for plan in plans if plan.expected is not None]
    if not known:
        return []
    coef, fit = (float(np.median([getattr(e, name) for e in known])) for name in ("distance", "fit"))
    notes = [f"expected: a distance of {coef:.4f} to the Lasso (median over the path), {fit:.4f} of the fit"]
    if loose := sum(plan.ill_determined is not None for plan in plans):
        notes.append(
            f"ill-determined: at {loose} of {len(plans)} penalties the Lasso is not unique, or nearly so; judge the fit"
        )
    return notes


def _grid(cfg: DictConfig, problem: Problem) -> NDArray[np.float64]:
    low, high, many = cfg.path.lowest_ratio, cfg.path.highest_ratio, cfg.path.points
    if not (0 < low < high < 1 and isinstance(many, int) and 2 <= many <= MOST):
        raise ValueError(
            f"path: lowest_ratio={low} < highest_ratio={high} must lie in (0, 1) and points={many} in 2..{MOST}"
        )
    return alpha_max(problem, problem.y) * np.geomspace(high, low, many)


def _plan(cfg: DictConfig, setting: Setting, problem: Problem, alpha: float) -> Plan:
    """One penalty's step size, std, certified Lasso, and steps for a distance within cfg.target_distance."""
    wish: dict[str, Any] = {"lr": build.number(cfg, "optimizer.lr"), "steps": build.number(cfg, "steps", whole=True)}
    judged: dict[str, Any] = {"target_distance": cfg.target_distance, "tail": setting.average == "tail"}
    dynamics = build.dynamics_of(cfg, setting)
    with build.planning():
        return make_plan(problem, dynamics, alpha=alpha, corrected=setting.corrected, **wish, **judged)


def _outcome(
    cfg: DictConfig, problem: Problem, alphas: NDArray[np.float64], plans: list[Plan], last: Snapshot, seconds: float
) -> Outcome:
    references = [plan.reference for plan in plans if plan.reference is not None]
    average = last.tail_coef if plans[0].tail else last.mean_coef
    assert average is not None
    mean = average.cpu()
    lassos, X = torch.stack([reference.coef for reference in references]), problem.design.X
    distances = distance(mean, lassos).tolist()
    fits = distance(mean.double() @ X.T, lassos @ X.T).tolist()
    arrays = {
        "alphas": alphas,
        "mean_coef": mean.numpy(),
        "reference_coef": lassos.numpy(),
        "distances": np.array(distances),
        "distances_fit": np.array(fits),
    }
    if problem.columns:
        arrays |= {"columns": np.array(problem.columns), "target": np.array(problem.target)}
    summary = {
        "status": "done",
        "problem": problem.name,
        "points": len(alphas),
        "steps": last.step,
        "seconds": seconds,
        "steps_per_second": last.step * len(alphas) / seconds,
        "seed": cfg.seed,
        "distance_largest": max(distances),
        "distance_median": float(np.median(distances)),
        "distance_fit_largest": max(fits),
        "distance_fit_median": float(np.median(fits)),
        "ill_determined": sum(plan.ill_determined is not None for plan in plans),
        "reference_gap": max(r.gap for r in references),
    }
    summary |= judged(cfg, {"path": arrays})

    def draw() -> dict[str, Any]:
        from lntrain.experiments import path_figure

        return {"path": path_figure.draw(problem, alphas, mean, last.step, positive=references[0].positive)}

    hparams = {"problem": problem.name, "steps": last.step, "seed": cfg.seed}
    return Outcome(summary, arrays, draw, hparams, last.step)
