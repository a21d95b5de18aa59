"""The loop: a generator of snapshots. It knows nothing of Lasso, Hydra or TensorBoard."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lntrain._checks import real_number, whole_number
from lntrain._moved import KEYS, SAMPLINGS, renamed
from lntrain.data.problem import Problem
from lntrain.engine import choose
from lntrain.engine.state import BLOCK, Run
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.labels import LabelFlips, Noise
from lntrain.noise.philox import check_sampling
from lntrain.noise.schedules import Schedule
from lntrain.optim.held import held_of
from lntrain.training.divergence import divergence_bound, leave_diverged, loss_of
from lntrain.training.points import POINTS_PER_OCTAVE, log_spaced

HEARTBEAT = 0.2  # seconds between heartbeats
LONGEST = 2**40  # steps per chunk: without this limit it doubles at each of thousands of close snapshots


@dataclass(frozen=True)
class Snapshot:
    """Where a run stands after `step` steps. Means run over the pre-step values, steps 0..step-1.

    coef, mean_coef (d,) or (R, d); mean_noise (n,) or (R, n), the mean realised label noise
    (times n/b for batches); tail_coef, tail_noise the same over steps earlier_step..step-1, about the
    second half, which forgets the start exponentially and not as 1 / step; log_weights (m, d) or (R, m, d), log w^2,
    and earlier_log_weights at earlier_step, about half way; loss () or (R,) on the clean labels;
    lr and std at this step; scheduled: False for a heartbeat; engine: "fused" or "torch".
    """

    step: int
    coef: Tensor | None
    mean_coef: Tensor | None
    mean_noise: Tensor
    log_weights: Tensor | None
    earlier_log_weights: Tensor | None
    earlier_step: int
    loss: Tensor
    lr: float
    std: Any
    scheduled: bool
    engine: str
    _state: dict[str, Any] = field(repr=False)
    tail_coef: Tensor | None = None
    tail_noise: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """All that `train(..., state=)` needs to resume, bit for bit on one machine; loads with weights_only=True."""
        return copy.deepcopy(self._state)


@renamed
def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    problem: Problem,
    steps: int,
    *,
    noise: Noise | float | None = None,
    seed: int | Sequence[int] | None = None,
    batch_size: int | None = None,
    sampling: str | None = None,
    loss_constant: float = 0.5,
    lr_schedule: Schedule | None = None,
    engine: str = "auto",
    snapshots: str | Iterable[int] = "log",
    state: dict[str, Any] | None = None,
    diverged: str = "stop",
) -> Iterator[Snapshot]:
    """Train by (stochastic) gradient descent on loss_constant * mean (prediction - noisy label)^2.

    Args:
        model: a DiagonalLinear, or any nn.Module on the torch path.
        optimizer: LabelNoiseSGD, or any torch optimiser that asks for no closure.
        problem: X (n, d), dense or CSR, y (n,), in the model's dtype.
        steps: the last step, counted from the run's beginning also when resuming from `state`.
        noise: of the labels, a std or a noise, for an optimiser that carries none; drawn as LabelNoiseSGD draws it.
        seed: of this noise and of drawn rows, 0 unless given; or one a replica. A LabelNoiseSGD has its own.
        batch_size: rows per step, None for all. sampling: "full", "replacement" (the default with a
            batch_size), "without", "shuffle" (epochs) or "noisy_rows" (full gradient, noise on b labels).
        loss_constant: 0.5 is half the mean square, 0.25 the paper's.
        lr_schedule: step -> factor on lr.
        engine: "auto", "torch", or "fused": a DiagonalLinear by SGD, Adam, AdamW or RMSprop in compiled code.
        snapshots: "log" (4 an octave) or the steps to report.
        state: an earlier snapshot's state_dict(), of the same problem, dtype, lr, optimiser and noise.
        diverged: "stop" with an error, or "keep": a replica that diverges is NaN from there on, the others go on.

    Yields:
        Snapshot at each scheduled step, the last one at `steps`, and heartbeats between.

    Raises:
        ValueError: arguments that do not fit, by name. DivergenceError: the loss left all bounds, with "keep" that of
            every replica.

    >>> problem = Problem([[1.0], [1.0]], [1.0, 1.0])
    >>> model = DiagonalLinear(1, init=0.5)
    >>> *_, last = train(model, torch.optim.SGD(model.parameters(), lr=0.1), problem, 200)
    >>> round(float(last.coef), 3)
    1.0
    """
    # Checked here, at the call, not at the first `next`: hence a plain function around the generator.
    run = _begin(model, optimizer, problem, batch_size, sampling, loss_constant, lr_schedule)
    if noise is not None or seed is not None:
        run.carry(noise, seed)
    steps = whole_number("steps", steps, 1)
    if diverged not in ("stop", "keep") or (diverged == "keep" and run.replicas is None):
        raise ValueError(f'diverged={diverged!r}: give "stop", or "keep" for a model with replicas')
    scheduled = _schedule(steps, snapshots, run.period)
    if state is not None:
        _restore(run, state)
    return _advance(run, problem, steps, scheduled, diverged == "keep", *choose(engine, run))


def _begin(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    problem: Problem,
    batch_size: int | None,
    sampling: str | None,
    loss_constant: float,
    lr_schedule: Schedule | None,
) -> Run:
    size, sampling = check_sampling(problem.n, batch_size, sampling)
    loss_constant = real_number("loss_constant", loss_constant, positive=True)
    parameter = next(model.parameters())
    if parameter.dtype != problem.X.dtype or parameter.device != problem.X.device:
        raise ValueError(
            f"model is {parameter.dtype} on {parameter.device}, problem {problem.X.dtype} on {problem.X.device}: "
            "make them one, e.g. problem.to(dtype)"
        )
    if isinstance(model, DiagonalLinear) and model.in_features != problem.d:
        raise ValueError(f"model has in_features={model.in_features}, the problem d={problem.d}")
    if not any(held_of(optimizer, model)):
        raise ValueError("optimizer holds none of the model's parameters: build it from model.parameters()")
    run = Run(model, optimizer, problem.X, problem.y, size, sampling, loss_constant, lr_schedule)
    if isinstance(run.noise, LabelFlips):
        raise ValueError("LabelFlips perturbs classes: regression needs GaussianNoise or RademacherNoise")
    run.check_column_space()
    for name, many in (("noise_std", "std"), ("lr_ratio", "lr"), ("seed", "seed")):
        values = optimizer.param_groups[0].get(name)
        if isinstance(values, list) and len(values) != run.replicas:
            raise ValueError(f"{many} holds {len(values)} values: the model has {run.replicas or 'no'} replicas")
    return run


def _schedule(steps: int, snapshots: str | Iterable[int], period: int = 1) -> set[int]:
    """The steps to report; "log" takes only ends of antithetic pairs, where the noise has mean 0."""
    if isinstance(snapshots, str):
        if snapshots != "log":
            raise ValueError(f'snapshots={snapshots!r}: give "log" or the steps to report')
        chosen = set(log_spaced(steps, POINTS_PER_OCTAVE, period=period))
    else:
        chosen = {whole_number("snapshots", s) for s in snapshots}
    return {s for s in chosen if 1 <= s < steps} | {steps}


def _advance(
    run: Run,
    problem: Problem,
    steps: int,
    scheduled: set[int],
    keep: bool,
    engine: str,
    advance: Callable[[Run, int], None],
) -> Iterator[Snapshot]:
    halves = {s // 2 // run.period * run.period for s in scheduled}
    stops = sorted(s for s in scheduled | halves | {steps} if s > run.step)
    bound = divergence_bound(loss_of(run), run.y, run.std, run.loss_constant)
    if keep:
        leave_diverged(run, problem, bound, keep=True)  # those of a state that is resumed
    chunk, beat, pause = 256, time.monotonic(), HEARTBEAT
    if not run.history:
        _record(run)
    if not stops:
        yield _snapshot(run, engine, scheduled=True)
    for stop in stops:
        while run.step < stop:
            began = time.monotonic()
            goal = run.step + chunk
            advance(
                run, min(stop, goal // BLOCK * BLOCK if chunk >= BLOCK else goal)
            )  # whole blocks: see engine/sparse
            leave_diverged(run, problem, bound, keep=keep)
            now = time.monotonic()
            chunk = max(16, min(2 * chunk, LONGEST, int(chunk * HEARTBEAT / 2 / max(now - began, 1e-6))))
            if now - beat > pause and run.step < stop:
                yield _snapshot(run, engine, scheduled=False)
                beat = time.monotonic()
                pause = max(HEARTBEAT, 20 * (beat - now))  # the heartbeats of a large model must not slow its training
        _record(run)
        if stop in scheduled:
            yield _snapshot(run, engine, scheduled=True)
            beat = time.monotonic()


def _record(run: Run) -> None:
    """Record log-weights and sums; keep only the last half of the run, for tail means and the support rule."""
    half = run.step // 2 // run.period * run.period
    run.history = [kept for kept in run.history if half <= kept["step"] != run.step]
    record = {"step": run.step, **{f"{name}_sum": run.total(name) for name in ("coef", "noise") if run.summed(name)}}
    log_weights = getattr(run.model, "log_weights", None)
    run.history.append(record if log_weights is None else {**record, "log_weights": log_weights.clone()})


def _half_way(run: Run) -> dict[str, Any]:
    """The last record at most half way, at the end of a pair where noise comes in pairs."""
    half = run.step // 2 // run.period * run.period
    before = [kept for kept in run.history if kept["step"] <= half]
    return before[-1] if before else run.history[0]


def _tail(run: Run, earlier: dict[str, Any], name: str) -> Tensor:
    """The mean of "coef" or "noise" since `earlier`; over all steps if none came after it or it holds no sum."""
    since, before = run.step - earlier["step"], earlier.get(f"{name}_sum")
    return run.mean(name) if before is None or since == 0 else (run.total(name) - before) / since


def _snapshot(run: Run, engine: str, *, scheduled: bool) -> Snapshot:
    coef = None if run.coef is None else run.coef.clone()
    earlier = _half_way(run)
    mean = None if coef is None else run.mean("coef") if run.step else coef.double()
    if run.lr_schedule is not None:
        run.set_lr(float(run.lr_schedule(run.step)))
    std = torch.as_tensor(run.std, dtype=torch.float64) * float(run.noise.factor(run.noise_step))  # type: ignore[union-attr]
    return Snapshot(
        step=run.step,
        coef=coef,
        mean_coef=mean,
        mean_noise=run.mean("noise"),
        log_weights=run.model.log_weights if hasattr(run.model, "log_weights") else None,  # type: ignore[arg-type]
        earlier_log_weights=earlier.get("log_weights"),
        earlier_step=earlier["step"],
        loss=loss_of(run),
        lr=float(run.optimizer.param_groups[0]["lr"]),
        std=std.tolist(),
        scheduled=scheduled,
        engine=engine,
        _state=_state(run),
        tail_coef=mean if coef is None or not run.step else _tail(run, earlier, "coef"),
        tail_noise=_tail(run, earlier, "noise"),
    )


def _state(run: Run) -> dict[str, Any]:
    return {
        "step": run.step,
        "model": {key: value.clone() for key, value in run.model.state_dict().items()},
        "optimizer": copy.deepcopy(run.optimizer.state_dict()),
        "base_lr": list(run.base_lr),
        "sums": {key: value.clone() for key, value in run.sums.items()},
        "history": list(run.history),
        "batch_size": run.batch_size,
        "sampling": run.sampling,
        "loss_constant": run.loss_constant,
        "stream": run.stream,
        "trained_on": run.fingerprint,
    }


def _restore(run: Run, state: dict[str, Any]) -> None:
    if not isinstance(state, dict):
        raise ValueError(f"state is a {type(state).__name__}: give a snapshot's state_dict()")
    state = {KEYS.get(name, name): value for name, value in state.items()}  # of a former release
    state["sampling"] = SAMPLINGS.get(state.get("sampling", ""), state.get("sampling"))
    state.setdefault("stream", "labels")
    missing = {"step", "model", "optimizer", "base_lr", "sums", "history"} - set(state)
    if missing:
        raise ValueError(f"state lacks {', '.join(sorted(missing))}: give a snapshot's state_dict()")
    for name in ("batch_size", "sampling", "loss_constant", "stream"):
        if state[name] != getattr(run, name):
            raise ValueError(
                f"{name}={getattr(run, name)!r} differs from the state's {state[name]!r}: go on with the same"
            )
    known = state.get("trained_on", {})
    for name, value in run.fingerprint.items():
        if known.get(name, value) != value:
            raise ValueError(f"{name}={value!r} differs from the state's {known[name]!r}: go on with the same")
    now = [group["lr"] for group in state["optimizer"]["param_groups"]]  # of an optimiser that goes on under a schedule
    if run.base_lr not in (state["base_lr"], now):
        raise ValueError(f"lr={run.base_lr} differs from the state's {state['base_lr']}: go on with the same")
    state = copy.deepcopy(state)
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.step, run.base_lr = state["step"], state["base_lr"]
    run.history = [  # former releases stored pairs (step, log-weights)
        kept if isinstance(kept, dict) else {"step": kept[0], "log_weights": kept[1]} for kept in state["history"]
    ]
    run.sums = {key: value.to(run.sums[key].device) for key, value in state["sums"].items()}
