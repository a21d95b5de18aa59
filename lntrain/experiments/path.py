"""The label-noise regularisation path: one noise level a replica, drawn over scikit-learn's lasso_path."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from lntrain.data.problem import Problem
from lntrain.experiments import figures
from lntrain.experiments import path_figure as path_plot
from lntrain.penalty.formula import alpha_max, mean_squares
from lntrain.runs.build import DTYPES, dynamics_of, leave_out, noise_of, number, settle
from lntrain.runs.dashboard import Dashboard
from lntrain.runs.files import read_checkpoint, write_arrays, write_checkpoint, write_json
from lntrain.runs.watch import signals, watch
from lntrain.theory.plan import Plan, make_plan
from lntrain.training.evaluation import distance
from lntrain.training.loop import Snapshot, train


def run(cfg: DictConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train cfg.path.points penalties at once, each with its own lr and std; returns the summary."""
    began = time.monotonic()
    if cfg.model.dtype not in DTYPES:
        raise ValueError(f"model.dtype={cfg.model.dtype!r}: choose one of {', '.join(DTYPES)}")
    problem: Problem = instantiate(cfg.problem, _convert_="all")
    cfg = cfg.copy()
    settle(cfg, problem)
    alphas = _grid(cfg, problem)
    plans = [_plan(cfg, problem, float(alpha)) for alpha in alphas]
    rates, stds = [plan.lr for plan in plans], [plan.std for plan in plans]
    cfg.steps = steps = max(plan.steps for plan in plans)
    cfg.batch_size = plans[0].dynamics.batch_size
    print(
        f"path      {problem.name}: n={problem.n}, d={problem.d}, {len(alphas)} penalties from {alphas[0]:.3g} to {alphas[-1]:.3g}\n"
        f"noise     std {min(stds):.3g} to {max(stds):.3g}, lr {min(rates):.3g} to {max(rates):.3g}, {steps} steps",
        flush=True,
    )
    cfg.noise.std = None
    dtype = DTYPES[cfg.model.dtype]
    model = instantiate(cfg.model, _partial_=True, _convert_="all")(
        in_features=problem.d, replicas=len(alphas), dtype=dtype
    )
    leave_out(model, torch.stack([plan.kept for plan in plans]))
    optimizer = instantiate(cfg.optimizer, _partial_=True, _convert_="all")(
        model.parameters(), lr=rates, noise=noise_of(cfg, tuple(stds)), seed=cfg.seed
    )
    state = read_checkpoint(folder)["state"] if resume else None
    snapshots = train(
        model, optimizer, problem.to(dtype), steps, batch_size=cfg.batch_size, sampling=cfg.sampling,
        loss_constant=cfg.loss_scale, engine=cfg.engine, state=state,
    )  # fmt: skip

    def save(snapshot: Snapshot) -> None:
        write_checkpoint(folder, {"config": OmegaConf.to_yaml(cfg), "state": snapshot.state_dict(), "history": {}})

    start = 0 if state is None else int(state["step"])
    with signals() as asked:
        options: dict[str, Any] = {"every": cfg.checkpoint_every, "save": save, "asked": asked, "folder": folder}
        for latest in watch(snapshots, steps=steps, start=start, **options):
            snapshot = latest
    save(snapshot)
    return _finish(cfg, folder, problem, alphas, plans, snapshot, time.monotonic() - began)


def _grid(cfg: DictConfig, problem: Problem) -> NDArray[np.float64]:
    low, high, points = cfg.path.lowest_ratio, cfg.path.highest_ratio, cfg.path.points
    if not (0 < low < high < 1 and points >= 2):
        raise ValueError(
            f"path: lowest_ratio={low} < highest_ratio={high} must lie in (0, 1) and points={points} be >= 2"
        )
    return alpha_max(problem.X, problem.y) * np.geomspace(high, low, points)


def _plan(cfg: DictConfig, problem: Problem, alpha: float) -> Plan:
    """One penalty's step size, std, certified Lasso and steps: its distance within cfg.accuracy."""
    return make_plan(
        problem, dynamics_of(cfg), alpha=alpha, lr=number(cfg, "optimizer.lr"), steps=number(cfg, "steps", whole=True),
        accuracy=cfg.accuracy, corrected=cfg.penalty.corrected, tail=cfg.average == "tail",
    )  # fmt: skip


def lasso_path(problem: Problem, alphas: NDArray[np.float64], *, positive: bool = False) -> NDArray[np.float64]:
    """scikit-learn's lasso_path with lambda_j = alpha c_j, (points, d): columns scaled by c_j, coefficients back."""
    from sklearn.linear_model import lasso_path as sklearn_path

    c = mean_squares(problem.X).cpu().numpy()
    X, y = problem.X.double().cpu().numpy(), problem.y.double().cpu().numpy()
    _, coefs, _ = sklearn_path(X / c, y, alphas=alphas, tol=1e-8, positive=positive, max_iter=100_000)
    return np.asarray(coefs.T / c, dtype=np.float64)


def _finish(
    cfg: DictConfig, folder: Path, problem: Problem, alphas: NDArray[np.float64], plans: list[Plan],
    snapshot: Snapshot, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    references = [plan.reference for plan in plans if plan.reference is not None]
    average = snapshot.tail_coef if plans[0].tail else snapshot.mean_coef
    assert average is not None
    mean = average.cpu()
    distances = [float(distance(m, lasso.coef)) for m, lasso in zip(mean, references, strict=True)]
    dense = np.geomspace(alphas[0], alphas[-1], 400)
    curve = lasso_path(problem, dense, positive=references[0].positive)
    figure = path_plot.path(
        alphas, mean, dense, curve, names=problem.columns or None,
        title=f"{problem.name}: {len(alphas)} noise levels, {snapshot.step:.3g} steps",
    )  # fmt: skip
    figures.save({"path": figure}, folder / "figures")
    arrays = {
        "alphas": alphas,
        "mean_coef": mean.numpy(),
        "reference_coef": torch.stack([r.coef for r in references]).numpy(),
    }
    if problem.columns:
        arrays |= {"columns": np.array(problem.columns), "target": np.array(problem.target)}
    write_arrays(folder / "result.npz", {**arrays, "distances": np.array(distances)})
    summary = {
        "status": "done", "problem": problem.name, "points": len(alphas), "steps": snapshot.step, "seconds": seconds,
        "steps_per_second": snapshot.step * len(alphas) / seconds, "seed": cfg.seed,
        "distance_largest": max(distances), "distance_median": float(np.median(distances)),
        "reference_gap": max(r.gap for r in references),
    }  # fmt: skip
    write_json(folder / "summary.json", summary)
    dashboard = Dashboard(folder, layout={})
    dashboard.finish(
        {"path": figure}, {"problem": problem.name, "steps": snapshot.step, "seed": cfg.seed}, summary, snapshot.step
    )
    dashboard.close()
    print(
        f"distance  to the Lasso over the path: median {np.median(distances):.4f}, largest {max(distances):.4f}\nwrote     {folder}"
    )
    return summary
