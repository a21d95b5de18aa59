"""Which path a run takes: pure functions of what is run, and on how many threads."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from lntrain.engine import buffers, gram, kernels, lanes, panels, single_row, threads
from lntrain.engine.adaptive import LEAST_EPS
from lntrain.engine.formulas import PARAMETRISATIONS
from lntrain.engine.state import Run
from lntrain.models.diagonal import DiagonalLinear
from lntrain.noise.column_space import ColumnSpaceNoise
from lntrain.noise.labels import GaussianNoise, NoNoise, RademacherNoise, unpaired
from lntrain.optim.counting import count_step
from lntrain.optim.held import ADAPTIVE

# w^L at which decaying weights are clamped: negligible in results, but its ulp is no denormal, which would be slow
FLOOR = {torch.float64: 1e-290, torch.float32: 1e-30}
COPY_BYTES = 2_000_000  # X up to this size is copied into aligned rows at each call; beyond it, read where it is
NOISES = {
    NoNoise: kernels.NONE,
    GaussianNoise: kernels.GAUSSIAN,
    ColumnSpaceNoise: kernels.GAUSSIAN,
    RademacherNoise: kernels.RADEMACHER,
}


class Path(StrEnum):
    """The paths of the map in engine/__init__.py."""

    TORCH = "torch"
    CUDA = "cuda"
    THREADS = "threads"
    GRAM = "gram"
    LANES = "lanes"
    PANELS = "panels"
    SINGLE_ROW = "single_row"
    WHOLE_BATCH = "whole_batch"
    SPARSE = "sparse"
    ADAPTIVE = "adaptive"
    GENERAL = "general"


LEANEST_FIRST = (Path.SPARSE, Path.PANELS, Path.WHOLE_BATCH, Path.SINGLE_ROW, Path.GENERAL)


def choose_path(run: Run, *, many: int = 1) -> Path:
    """The path that `run` takes on `many` threads; with LANES, replicas that fill no vector take `alone`."""
    if applies(run) is not None:
        return Path.TORCH
    return Path.CUDA if run.X.device.type == "cuda" else on_cpu(run, many)


def on_cpu(run: Run, many: int) -> Path:
    """As `choose_path`, for a run on the CPU to which a compiled path `applies`."""
    if is_adaptive(run):
        return Path.ADAPTIVE
    if unfit(run, Path.GRAM) is None:
        return Path.GRAM
    if run.X.layout == torch.strided and rows_read(run) * run.X.shape[1] * run.X.itemsize >= threads.LARGE_BYTES:
        return Path.THREADS
    return Path.LANES if in_lanes(run, many) else alone(run)


def alone(run: Run) -> Path:
    """The path of a replica that runs by itself on one thread, for an X that fits the caches."""
    return next(path for path in LEANEST_FIRST if unfit(run, path) is None)


def unfit(run: Run, path: Path) -> str | None:
    """None if `path` can run `run`, to which a compiled path `applies`, else why not."""
    gpu, sparse = run.X.device.type == "cuda", run.X.layout != torch.strided
    if path == Path.TORCH:
        return "it is no path of compiled code"
    if (path == Path.CUDA) != gpu:
        return f"X is on {'a GPU' if gpu else 'the CPU'}"
    if (path == Path.SPARSE) != sparse:
        return "X is sparse" if sparse else "X is dense"
    if run.column_space is not None:  # in as many rows as X has directions, whatever the rule of its steps
        return None if path == Path.GRAM else f"its noise is drawn in the directions of X's columns: {Path.GRAM} alone"
    if (path == Path.ADAPTIVE) != is_adaptive(run):
        return f"the optimizer is {type(run.optimizer).__name__}"
    if path in (Path.GRAM, Path.LANES, Path.PANELS, Path.WHOLE_BATCH) and not (plain(run) and run.sampling == "full"):
        return "it needs plain steps on the whole batch: no batch_size, momentum, weight decay or depth above 2"
    if path == Path.SINGLE_ROW and not (plain(run) and one_row(run)):
        return "it needs plain steps on one drawn row: batch_size=1, no momentum, weight decay or depth above 2"
    n, d = run.X.shape
    if path == Path.GRAM and (n < gram.TALL * d or n * d < gram.LEAST):
        return f"it needs {gram.TALL} rows a column and {gram.LEAST} numbers in X, which is {n} x {d}"
    if path == Path.PANELS and vectors(run, path) == 0:
        return f"a panel of {len(run.y)} rows does not fit the first cache"
    if path == Path.LANES and in_lanes(run, 1) == 0:
        return f"it needs {lanes.count(run.X.itemsize)} replicas, and an X below {threads.LARGE_BYTES / 1e6:.0f} MB"
    return None


def in_lanes(run: Run, many: int) -> int:
    """How many of the first replicas run in SIMD lanes: whole vectors only, 0 if there is not one for every thread."""
    width = lanes.count(run.X.itemsize)
    vectors = (run.replicas or 1) // width
    small = run.X.layout == torch.strided and run.X.nbytes < threads.LARGE_BYTES
    return vectors * width if small and plain(run) and run.sampling == "full" and vectors >= many else 0


def vectors(run: Run, path: Path) -> int:
    """Vectors per panel of X, or vectors of weights kept in registers where a step reads one row; else 0."""
    n, d = run.X.shape
    if path == Path.PANELS:
        return panels.width(n, d, run.X.itemsize)
    if path == Path.GRAM:
        return panels.width(min(n, d), d, run.X.itemsize) if plain(run) else 0
    if path == Path.SINGLE_ROW and copied(run.X):
        return single_row.width(d, run.X.itemsize)
    return 0


def copied(X: Tensor) -> bool:
    """X is copied into aligned rows at each call; a larger one is read where it is."""
    return X.nbytes <= COPY_BYTES


def is_adaptive(run: Run) -> bool:
    """The optimiser is Adam, AdamW or RMSprop."""
    return type(run.optimizer) in ADAPTIVE


def plain(run: Run) -> bool:
    """A step is the multiplicative one: as kernels.plain of its rules."""
    if is_adaptive(run):
        return False
    group = run.optimizer.param_groups[0]
    return bool(group["momentum"] == 0 and group["weight_decay"] == 0 and run.model.depth == 2)


def one_row(run: Run) -> bool:
    """A step reads one drawn row."""
    return run.batch_size == 1 and run.sampling not in ("full", "noisy_rows")


def rows_read(run: Run) -> int:
    """Rows of X that a step reads."""
    return len(run.y) if run.sampling in ("full", "noisy_rows") else run.batch_size


def applies(run: Run) -> str | None:
    """None if a path other than torch's can run `run`, else why not."""
    gpu = run.X.device.type == "cuda"
    if gpu and run.X.layout != torch.strided:
        return f"X is {run.X.layout} on {run.X.device}, not dense on a GPU"
    if not gpu and (run.X.device.type != "cpu" or run.X.layout not in (torch.strided, torch.sparse_csr)):
        return f"X is {run.X.layout} on {run.X.device}, not dense or CSR on the CPU"
    if (reason := supported(run)) is not None:
        return reason
    if gpu and run.column_space is not None:
        return "the noise is drawn in the directions of X's columns, which compiled steps on a GPU do not know"
    if run.X.layout == torch.sparse_csr and not (plain(run) and one_row(run)):
        return "a sparse X needs SGD with batch_size=1, depth 2, no momentum and no weight decay"
    if gpu and is_adaptive(run):
        return f"the optimizer is {type(run.optimizer).__name__}, whose steps are compiled for the CPU alone"
    return None


def supported(run: Run) -> str | None:
    """None if the compiled steps do what torch would do with this model, optimiser and noise, else why not."""
    return _model(run) or _optimizer(run) or _noise(run) or _hooks(run)


def _model(run: Run) -> str | None:
    model = run.model
    if type(model) is not DiagonalLinear:
        return f"the model is a {type(model).__name__}, not a DiagonalLinear"
    if model.parametrisation not in PARAMETRISATIONS:
        return f"the parametrisation is {model.parametrisation}, not {', '.join(PARAMETRISATIONS)}"
    if model.groups is not None:
        return "the model has groups, beta_g = u_g v_g"
    if run.X.dtype not in FLOOR:
        return f"the dtype is {run.X.dtype}, not float32 or float64"
    if not all(w.requires_grad for w in model.weights):
        return "a weight is frozen (requires_grad=False)"
    return None


def _optimizer(run: Run) -> str | None:
    optimizer, weights = run.optimizer, [id(w) for w in run.model.parameters()]
    if type(optimizer) not in buffers.NAMES:
        kinds = "LabelNoiseSGD, or torch.optim's SGD, Adam, AdamW or RMSprop"
        return f"the optimizer is {type(optimizer).__name__}, not {kinds}"
    held = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    if len(held) != 1 or sorted(held[0]) != sorted(weights):
        return "the optimizer must hold the model's weights, all in one group"
    group = optimizer.param_groups[0]
    for option in ("maximize", "differentiable"):
        if group[option]:
            return f"{option}=True is not supported"
    if is_adaptive(run) and (reason := _adaptive(run)) is not None:
        return reason
    return "perturb() was called since the optimizer's last step" if group.get("noise_draw") else None


def _adaptive(run: Run) -> str | None:
    group, kind = run.optimizer.param_groups[0], type(run.optimizer).__name__
    if run.column_space is not None:
        return f"the noise is drawn in the directions of X's columns, and the optimizer is {kind}"
    for option in ("amsgrad", "capturable", "centered", "momentum"):
        if group.get(option):
            return f"{option}={group[option]} of {kind} is not supported"
    if any(isinstance(value, Tensor) for value in (group["lr"], group["weight_decay"], *group.get("betas", ()))):
        return f"lr, betas or weight_decay of {kind} is a tensor, not a number"
    if group["eps"] < (least := LEAST_EPS[run.X.dtype]):
        return f"eps={group['eps']} of {kind} is below {least}"
    if len({int(held["step"]) for held in run.optimizer.state.values() if "step" in held}) > 1:
        return f"the weights have made different numbers of steps by {kind}"
    return None


def _noise(run: Run) -> str | None:
    noise = unpaired(run.noise)
    if type(noise) in NOISES:
        return None
    return f"the noise is {type(noise).__name__}, not one of {', '.join(kind.__name__ for kind in NOISES)}, Antithetic"


def _hooks(run: Run) -> str | None:
    model, optimizer = run.model, run.optimizer
    after = [hook for hook in optimizer._optimizer_step_post_hooks.values() if hook is not count_step]
    around = (optimizer._optimizer_step_pre_hooks, model._forward_hooks, model._forward_pre_hooks)
    if after or any(around) or any(w._backward_hooks for w in model.parameters()):
        return "hooks are registered, which a fused step would pass by"
    return None
