"""The fused engine: many steps of label-noise (S)GD on a DiagonalLinear in one compiled call.

Its slow reference is engine/loop.py: same random numbers, same trajectory up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain.engine import adaptive, buffers, gram, kernels, lanes, panels, single_row, sparse, steps, threads
from lntrain.engine.drawing import stream_of
from lntrain.engine.formulas import FORMULAS, PARAMETRISATIONS
from lntrain.engine.paths import (
    FLOOR,
    NOISES,
    Path,
    alone,
    copied,
    in_lanes,
    is_adaptive,
    on_cpu,
    plain,
    rows_read,
    unfit,
    vectors,
)
from lntrain.engine.simd import VECTOR_BYTES, aligned
from lntrain.engine.state import BLOCK, Run
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.labels import unpaired
from lntrain.noise.philox import SAMPLINGS
from lntrain.noise.schedules import factors

SEGMENT = 1024 * BLOCK  # steps a compiled call makes under a schedule: bounds its memory


def advance(run: Run, stop: int, path: Path | None = None) -> None:
    """Train `run` up to step `stop`, in place; on `path`, or on the path chosen for it."""
    if run.step >= stop:
        return
    if path is not None and (reason := unfit(run, path)) is not None:
        raise ValueError(f"path={str(path)!r} cannot run this: {reason}")
    path = path or on_cpu(run, torch.get_num_threads())
    shared, path = (in_lanes(run, 1), alone(run)) if path == Path.LANES else (0, path)  # the others run alone
    X = None if shared == run.replicas else _layout(run, path)
    constant = run.lr_schedule is None and run.noise.schedule is None  # type: ignore[union-attr]
    while run.step < stop:
        _segment(run, X, stop if constant else min(stop, (run.step // SEGMENT + 1) * SEGMENT), path, shared)


def _segment(run: Run, X: Any, stop: int, path: Path, shared: int) -> None:
    """Run steps run.step..stop-1 of every replica; results are written back only at the end."""
    group, count = run.optimizer.param_groups[0], stop - run.step
    states, made = _load(run, vectors(run, path))
    dtype = states[0].weights.dtype
    lr = group["lr"] if run.lr_schedule is None else run.base_lr[0]
    rates = (float(lr) * step_factors(run.lr_schedule, run.step, count, "lr_schedule")).astype(dtype)
    noise: Any = run.noise
    levels = step_factors(None if noise.schedule is None else noise.factor, run.noise_step, count, "noise.schedule")
    stds, ratios = (np.broadcast_to(v, len(states)) for v in (run.std, group.get("lr_ratio", 1.0)))
    y = _padded(_labels(run))
    rules = [_rule(run, float(ratio)) for ratio in ratios]
    streams = [stream_of(rule, *key) for rule, key in zip(rules, run.keys(), strict=True)]
    std = [(s * levels).astype(dtype) for s in stds]
    where = (run.step, run.noise_step, count, rates)
    if path == Path.THREADS:
        threads.run_steps(X, y, rules, states, streams, *where, std, made)
    else:
        _side_by_side(run, X, y, list(zip(rules, states, streams, std, strict=True)), where, made, path, shared)
    _store(run, states, count)
    run.step = stop
    if run.lr_schedule is not None:
        run.set_lr(float(run.lr_schedule(stop - 1)))
    if "noise_step" in group:
        group["noise_step"] += count


def _side_by_side(
    run: Run,
    X: Any,
    y: Any,
    replicas: list[tuple[Any, Any, Any, Any]],
    where: tuple[int, int, int, Any],
    made: int,
    path: Path,
    shared: int,
) -> None:
    """Steps of the replicas (rule, state, stream, stds), on threads: the first `shared` in lanes, the others alone."""
    width = lanes.count(run.X.dtype.itemsize)
    packed = _packed(run, lanes.pack) if shared else None

    def together(r: int) -> None:
        lanes.run_steps(packed, y[: len(run.y)], replicas[r : r + width], *where)

    projected = _padded(X.Q.T @ y[: len(run.y)]) if isinstance(X, gram.Reduced) else None

    def by_itself(r: int) -> None:
        rule, state, stream, std = replicas[r]
        if projected is not None:
            gram.run_steps(X, projected, rule, gram.smaller(rule, run.X.shape[1]), state, stream, *where, std)
            return
        held = steps.empty(rule, state.weights.dtype)
        steps.run_steps(X, y, rule, state, held, stream, *where, std, made)

    jobs = [partial(together, r) for r in range(0, shared, width)]
    jobs += [partial(by_itself, r) for r in range(shared, len(replicas))]
    flush = path == Path.ADAPTIVE  # denormals, in the pool's own threads alone
    many = min(len(jobs), torch.get_num_threads())
    with ThreadPoolExecutor(many, initializer=torch.set_flush_denormal, initargs=(flush,)) as pool:
        list(pool.map(lambda job: job(), jobs))


def _packed(run: Run, pack: Callable[[NDArray[Any]], Any]) -> Any:
    """X as `pack` makes it, which is costly; cached, and packed anew if X may have changed or for another path."""
    version = None if run.X.is_inference() else run.X._version
    if run.packed is None or version is None or run.packed[0] != (version, pack):
        run.packed = (version, pack), pack(run.X.detach().numpy())
    return run.packed[1]


def _rule(run: Run, ratio: float) -> kernels.Rule:
    model, group, n = run.model, run.optimizer.param_groups[0], len(run.y)
    assert isinstance(model, DiagonalLinear)
    real = _real(run)
    parametrisation = PARAMETRISATIONS[model.parametrisation]
    inner = FORMULAS[type(parametrisation)].inner if plain(run) else 1
    rule = kernels.Rule(
        parametrisation=parametrisation,
        depth=model.depth,
        noise=NOISES[type(unpaired(run.noise))],
        paired=int(run.noise.period == 2),
        sampling=SAMPLINGS.index(run.sampling),
        rows=n,
        batch_size=run.batch_size,
        scale=real(2 * inner * run.loss_constant / rows_read(run) * ratio),
        spread=real(n / run.batch_size),
        momentum=real(group.get("momentum", 0)),
        undampened=real(1 - group.get("dampening", 0)),
        nesterov=bool(group.get("nesterov")),
        decay=real(0 if group.get("decoupled_weight_decay") else group["weight_decay"]),
        floor=real(FLOOR[run.X.dtype] ** (1 if is_adaptive(run) else 1 / model.depth)),
    )
    return rule if run.column_space is None else gram.smaller(rule, min(run.X.shape))


def _real(run: Run) -> Any:
    return np.float64 if run.X.dtype == torch.float64 else np.float32


def step_factors(schedule: Any, start: int, count: int, name: str) -> NDArray[np.float64]:
    """The schedule at steps start..start+count-1; without one, a block of ones that serves every block."""
    return np.ones(BLOCK) if schedule is None else factors(schedule, start, start + count, name, block=BLOCK)


def _load(run: Run, many: int) -> tuple[list[kernels.State], int]:
    """(a State for each replica, steps that the optimiser has made: 0 if it has no buffers yet)."""
    weights = run.model.weights
    assert isinstance(weights, tuple)
    kept, made = buffers.read(run)
    dtype, d = run.X.dtype, run.X.shape[1]
    many_runs = run.replicas or 1

    def stack(tensors: Any) -> NDArray[Any]:
        return padded(torch.stack([t.detach() for t in tensors], -2).reshape(many_runs, len(tensors), d).numpy())

    padded = partial(_padded, vectors=max(many, 1))
    sums = {name: total.reshape(many_runs, -1) for name, total in run.sums.items()}
    columns = (
        stack(weights),
        stack(kept),
        padded(sums["coef_block"].to(dtype).numpy()),
        padded(sums["coef_total"].numpy()),
        padded(sums["noise_block"].to(dtype).numpy()),
        padded(sums["noise_total"].numpy()),
        padded(np.zeros((many_runs, 2 + len(weights), d), sums["coef_block"].to(dtype).numpy().dtype)),
    )
    return [kernels.State(*(column[r] for column in columns)) for r in range(many_runs)], made


def _store(run: Run, states: list[kernels.State], count: int) -> None:
    """The replicas' states after `count` steps back into the model, the optimiser and the sums."""
    weights, d = run.model.weights, run.X.shape[1]
    assert isinstance(weights, tuple)
    with torch.no_grad():
        for m, w in enumerate(weights):
            w.copy_(_gather([state.weights[m, :d] for state in states], w))
        kept = range(len(states[0].buffers))
        buffers.write(run, [_gather([state.buffers[k, :d] for state in states], weights[0]) for k in kept], count)
        for name, total in run.sums.items():
            width = total.shape[-1]
            total.copy_(_gather([getattr(state, name)[:width] for state in states], total))


def _gather(rows: list[NDArray[Any]], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(rows)).reshape(like.shape)


def _labels(run: Run) -> NDArray[Any]:
    """y (n,), or Q' y (r,) where the noise is drawn in the directions Q of X's columns."""
    y: NDArray[Any] = run.y.detach().numpy()
    noise = run.column_space
    return y if noise is None else (noise.basis.T @ y.astype(np.float64)).astype(y.dtype)


def _layout(run: Run, path: Path) -> Any:
    """X in the layout of this path; its rows are copied to start on cache lines if cheap, else read in place."""
    if path == Path.SPARSE:
        parts = run.X.values(), run.X.col_indices(), run.X.crow_indices()
        return sparse.Sparse(*(part.detach().numpy() for part in parts))
    many, noise = vectors(run, path), run.column_space
    if noise is not None:
        B = _packed(run, noise.coordinates).astype(_real(run))
        return _small(B, many) if plain(run) else steps.General(_padded(B))
    if path == Path.GRAM:
        Q, R = _packed(run, gram.factors)
        return gram.Reduced(_small(R, many), Q)
    X = run.X.detach().numpy()
    if path == Path.PANELS:
        return panels.pack(X, many)
    rows = _padded(X) if copied(run.X) else np.ascontiguousarray(X)
    if path == Path.ADAPTIVE:
        return adaptive.adaptive(run, rows)
    if path == Path.SINGLE_ROW:
        return single_row.SingleRow(rows, (0,) * many)
    return {Path.WHOLE_BATCH: steps.Whole, Path.GENERAL: steps.General}.get(path, np.asarray)(rows)


def _small(rows: NDArray[Any], many: int) -> Any:
    """The rows in panels of so many vectors, or whole."""
    return panels.pack(rows, many) if many else steps.Whole(_padded(rows))


def _padded(array: NDArray[Any], vectors: int = 1) -> NDArray[Any]:
    """An aligned copy whose last axis is padded with zeros to a multiple of `vectors` SIMD vectors."""
    lanes = VECTOR_BYTES // 4  # of float32, so that sums in float64 have the same length
    width = -(-array.shape[-1] // (vectors * lanes)) * vectors * lanes
    width += lanes * (width % 512 == 0)  # rows 2048 bytes apart would compete for few sets of the L1 cache
    out = aligned((*array.shape[:-1], width), array.dtype)
    out[..., : array.shape[-1]] = array
    return out
