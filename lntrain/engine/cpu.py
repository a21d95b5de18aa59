"""The fused engine: many steps of label-noise (S)GD on a DiagonalLinear in one compiled call.

Its slow twin is engine/loop.py: same numbers drawn, same trajectory up to rounding.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lntrain.engine import kernels, lanes, panels, singles, sparse, steps, wide
from lntrain.engine.simd import VECTOR_BYTES, aligned
from lntrain.engine.state import BLOCK, Run
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.labels import Antithetic, GaussianNoise, NoNoise, RademacherNoise
from lntrain.noise.philox import SAMPLINGS, stream_key
from lntrain.noise.schedules import factors
from lntrain.optim.counting import count_step
from lntrain.optim.sgd import LabelNoiseSGD, noise_std

# w^L at which decaying weights stop: far below what results read; an ulp of it is no denormal, which is slow
FLOOR = {torch.float64: 1e-290, torch.float32: 1e-30}
SEGMENT = 1024 * BLOCK  # steps a compiled call makes under a schedule: bounds its memory
COPY_BYTES = 2_000_000  # X up to this size is copied into aligned rows at each call; beyond it, read where it is

_PARAMETRISATIONS = {"difference": kernels.DIFFERENCE, "square": kernels.SQUARE, "hadamard": kernels.HADAMARD}
_NOISES = {NoNoise: kernels.NONE, GaussianNoise: kernels.GAUSSIAN, RademacherNoise: kernels.RADEMACHER}


def applies(run: Run) -> str | None:
    """None where this engine can run `run`, else why not."""
    if run.X.device.type != "cpu" or run.X.layout not in (torch.strided, torch.sparse_csr):
        return f"X is {run.X.layout} on {run.X.device}, not dense or CSR on the CPU"
    if (reason := supported(run)) is not None:
        return reason
    rows_alone = run.batch_size == 1 and run.sampling not in ("full", "noisy_rows")
    if run.X.layout == torch.sparse_csr and not (_plain(run) and rows_alone):
        return "a sparse X needs batch_size=1, depth 2, no momentum and no weight decay"
    return None


def supported(run: Run) -> str | None:
    """None where a step by hand is what model, optimiser and noise would do by torch, else why not."""
    model, optimizer = run.model, run.optimizer
    if type(model) is not DiagonalLinear:
        return f"the model is a {type(model).__name__}, not a DiagonalLinear"
    if run.X.dtype not in FLOOR:
        return f"the dtype is {run.X.dtype}, not float32 or float64"
    if type(optimizer) not in (torch.optim.SGD, LabelNoiseSGD):
        return f"the optimizer is {type(optimizer).__name__}, not LabelNoiseSGD or torch.optim.SGD"
    held = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    if len(held) != 1 or sorted(held[0]) != sorted(id(w) for w in model.weights):
        return "the optimizer must hold the model's weights, all in one group"
    if not all(w.requires_grad for w in model.weights):
        return "a weight is frozen (requires_grad=False)"
    group = optimizer.param_groups[0]
    for option in ("maximize", "differentiable"):
        if group[option]:
            return f"{option}=True is not supported"
    if group.get("noise_draw"):
        return "perturb() was called since the optimizer's last step"
    noise = run.noise.noise if isinstance(run.noise, Antithetic) else run.noise
    if type(noise) not in _NOISES:
        return f"the noise is {type(noise).__name__}, not GaussianNoise, RademacherNoise, Antithetic or NoNoise"
    after = [hook for hook in optimizer._optimizer_step_post_hooks.values() if hook is not count_step]
    if (
        after
        or optimizer._optimizer_step_pre_hooks
        or model._forward_hooks
        or model._forward_pre_hooks
        or any(w._backward_hooks for w in model.weights)
    ):
        return "hooks are registered, which a fused step would pass by"
    return None


def advance(run: Run, stop: int) -> None:
    """Train `run` up to step `stop`, in place."""
    if run.step >= stop:
        return
    X = None if _shared(run) == run.replicas else _layout(run)  # which only those that run alone read
    constant = run.lr_schedule is None and run.noise.schedule is None  # type: ignore[union-attr]
    while run.step < stop:
        _segment(run, X, stop if constant else min(stop, (run.step // SEGMENT + 1) * SEGMENT))


def _segment(run: Run, X: Any, stop: int) -> None:
    """Steps run.step..stop-1 of every replica; only then is anything written back."""
    group, count = run.optimizer.param_groups[0], stop - run.step
    states, first = _load(run, _vectors(run))
    dtype = states[0].weights.dtype
    lr = group["lr"] if run.lr_schedule is None else run.base_lr[0]
    rates = (float(lr) * step_factors(run.lr_schedule, run.step, count, "lr_schedule")).astype(dtype)
    noise: Any = run.noise
    levels = step_factors(None if noise.schedule is None else noise.factor, run.noise_step, count, "noise.schedule")
    stds, ratios = (np.broadcast_to(v, len(states)) for v in (noise_std(run.optimizer), group.get("lr_ratio", 1.0)))
    y = _padded(run.y.detach().numpy())

    rules, pairs = [_rule(run, float(ratio)) for ratio in ratios], run.keys()
    keys = [np.uint64(stream_key(*pair)) for pair in pairs]
    std = [(s * levels).astype(dtype) for s in stds]
    rows = len(run.y) if run.sampling in ("full", "noisy_rows") else run.batch_size
    where = (run.step, run.noise_step, count, rates)
    if not isinstance(X, tuple) and rows * run.X.shape[1] * dtype.itemsize >= wide.WIDE_BYTES:
        wide.run_steps(X, y, rules, states, keys, *where, std, first)
    else:
        _side_by_side(run, X, y, list(zip(rules, states, keys, std, strict=True)), where, first)
    _store(run, states)
    run.step = stop
    if run.lr_schedule is not None:
        run.set_lr(float(run.lr_schedule(stop - 1)))
    if "noise_step" in group:
        group["noise_step"] += count


def _side_by_side(
    run: Run, X: Any, y: Any, replicas: list[tuple[Any, Any, Any, Any]], where: tuple[int, int, int, Any], new: bool
) -> None:
    """Steps of the replicas (rule, state, key, stds), on threads: those that share vectors together, the others alone."""
    shared, width = _shared(run), lanes.count(run.X.dtype.itemsize)
    packed, vectors = _packed(run) if shared else None, (0,) * _vectors(run)

    def together(r: int) -> None:
        lanes.run_steps(packed, y[: len(run.y)], replicas[r : r + width], *where)

    def alone(r: int) -> None:
        rule, state, key, std = replicas[r]
        own = (y, rule, state, key, *where, std)
        sparse.run_steps(X, *own) if isinstance(X, tuple) else steps.run_steps(X, vectors, *own, new)

    jobs = [partial(together, r) for r in range(0, shared, width)]
    jobs += [partial(alone, r) for r in range(shared, len(replicas))]
    with ThreadPoolExecutor(min(len(jobs), torch.get_num_threads())) as pool:
        list(pool.map(lambda job: job(), jobs))


def _shared(run: Run) -> int:
    """How many replicas, the first ones, run in the lanes of vectors: whole vectors, and enough for every thread."""
    width = lanes.count(run.X.dtype.itemsize)
    vectors = (run.replicas or 1) // width
    return vectors * width if _bare(run) and vectors >= torch.get_num_threads() else 0


def _bare(run: Run) -> bool:
    """Plain steps on the whole batch of a dense X that is not too large for the caches."""
    dense = run.X.layout == torch.strided and run.X.nbytes < wide.WIDE_BYTES
    return dense and _plain(run) and run.sampling == "full"


def _packed(run: Run) -> NDArray[Any]:
    """X as `lanes` reads it, made once, and anew where torch cannot tell that X is the same."""
    version = None if run.X.is_inference() else run.X._version
    if run.packed is None or version is None or run.packed[0] != version:
        run.packed = version, lanes.pack(run.X.detach().numpy())
    return run.packed[1]


def _rule(run: Run, ratio: float) -> kernels.Rule:
    model, group, n = run.model, run.optimizer.param_groups[0], len(run.y)
    assert isinstance(model, DiagonalLinear)
    real = np.float64 if run.X.dtype == torch.float64 else np.float32
    noise = run.noise.noise if isinstance(run.noise, Antithetic) else run.noise
    rows = n if run.sampling in ("full", "noisy_rows") else run.batch_size
    return kernels.Rule(
        parametrisation=_PARAMETRISATIONS[model.parametrisation],
        depth=model.depth,
        noise=_NOISES[type(noise)],
        paired=run.noise.period == 2,
        sampling=SAMPLINGS.index(run.sampling),
        batch_size=run.batch_size,
        scale=real(
            (4 if _plain(run) and model.parametrisation != "hadamard" else 2) * run.loss_constant / rows * ratio
        ),
        spread=real(n / run.batch_size),
        momentum=real(group["momentum"]),
        damping=real(1 - group["dampening"]),
        nesterov=bool(group["nesterov"]),
        decay=real(group["weight_decay"]),
        floor=real(FLOOR[run.X.dtype] ** (1 / model.depth)),
    )


def step_factors(schedule: Any, start: int, count: int, name: str) -> NDArray[np.float64]:
    """The schedule at steps start..start+count-1; without one, ones for a block, which all of them share."""
    return np.ones(BLOCK) if schedule is None else factors(schedule, start, start + count, name, block=BLOCK)


def _plain(run: Run) -> bool:
    """As steps.plain of its rules."""
    group = run.optimizer.param_groups[0]
    return bool(group["momentum"] == 0 and group["weight_decay"] == 0 and run.model.depth == 2)


def _vectors(run: Run) -> int:
    """How many a panel of X takes, or registers keep where a step reads one row; 0 where neither pays."""
    if not _plain(run) or run.X.layout != torch.strided:
        return 0
    n, d = run.X.shape
    if _bare(run):
        return panels.width(n, d, run.X.dtype.itemsize)
    if run.sampling not in ("full", "noisy_rows") and run.batch_size == 1 and run.X.nbytes <= COPY_BYTES:
        return singles.width(d, run.X.dtype.itemsize)
    return 0


def _load(run: Run, many: int) -> tuple[list[kernels.State], bool]:
    """A State for each replica, and whether its momentum buffers are still to come."""
    weights = run.model.weights
    assert isinstance(weights, tuple)
    buffers = [run.optimizer.state.get(w, {}).get("momentum_buffer") for w in weights]
    first = buffers[0] is None
    kept = [torch.zeros_like(w) if first else buffer for w, buffer in zip(weights, buffers, strict=True)]
    dtype, d = run.X.dtype, run.X.shape[1]
    shape = (run.replicas or 1, len(weights))

    def stack(tensors: Any) -> NDArray[Any]:
        return padded(torch.stack([t.detach() for t in tensors], -2).reshape(*shape, d).numpy())

    padded = partial(_padded, vectors=max(many, 1))
    sums = {name: total.reshape(shape[0], -1) for name, total in run.sums.items()}
    columns = (
        stack(weights),
        stack(kept),
        padded(sums["coef_block"].to(dtype).numpy()),
        padded(sums["coef_total"].numpy()),
        padded(sums["noise_block"].to(dtype).numpy()),
        padded(sums["noise_total"].numpy()),
        padded(np.zeros((shape[0], 2 + shape[1], d), sums["coef_block"].to(dtype).numpy().dtype)),
    )
    return [kernels.State(*(column[r] for column in columns)) for r in range(shape[0])], first


def _store(run: Run, states: list[kernels.State]) -> None:
    """The replicas' states back into the model, the optimiser and the sums."""
    weights, d = run.model.weights, run.X.shape[1]
    assert isinstance(weights, tuple)
    momentum = run.optimizer.param_groups[0]["momentum"] != 0
    with torch.no_grad():
        for m, w in enumerate(weights):
            w.copy_(_gather([state.weights[m, :d] for state in states], w))
            if momentum:
                buffer = run.optimizer.state[w].setdefault("momentum_buffer", torch.empty_like(w))
                buffer.copy_(_gather([state.buffers[m, :d] for state in states], w))
        for name, total in run.sums.items():
            width = total.shape[-1]
            total.copy_(_gather([getattr(state, name)[:width] for state in states], total))


def _gather(rows: list[NDArray[Any]], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(rows)).reshape(like.shape)


def _layout(run: Run) -> Any:
    """X as a replica alone reads it: in panels, or by rows."""
    many = _vectors(run)
    return panels.pack(run.X.detach().numpy(), many) if many and run.sampling == "full" else _rows(run.X)


def _rows(X: Tensor) -> Any:
    """X with rows that begin on cache lines where a copy is cheap, else X itself; a CSR one as its three arrays."""
    if X.layout == torch.sparse_csr:
        return tuple(part.detach().numpy() for part in (X.values(), X.col_indices(), X.crow_indices()))
    array = np.ascontiguousarray(X.detach().numpy())
    return _padded(array) if array.nbytes <= COPY_BYTES else array


def _padded(array: NDArray[Any], vectors: int = 1) -> NDArray[Any]:
    """A copy whose last axis is filled up with zeros to so many vectors or a multiple, aligned to them."""
    lanes = VECTOR_BYTES // 4  # of float32, so that sums in float64 have the same length
    width = -(-array.shape[-1] // (vectors * lanes)) * vectors * lanes
    width += lanes * (width % 512 == 0)  # rows 2048 bytes apart would share a few places of the first cache
    out = aligned((*array.shape[:-1], width), array.dtype)
    out[..., : array.shape[-1]] = array
    return out
