"""How fast the engine is, side by side with what one would write by hand: `python scripts/benchmark.py [--quick]`.

Each repeat runs every rival once, one after the other, so that a busy machine slows all alike;
a rate is the median over repeats. Prints a Markdown table, writes outputs/benchmark/*.json.
"""

# ruff: noqa: E402  the environment must be set before BLAS is loaded

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # the rivals' BLAS; torch's own threads are set for each row
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numba as nb
import numpy as np
import scipy.sparse
import torch
from hydra import compose, initialize_config_module
from numpy.typing import NDArray

from lntrain import DiagonalLinear, GaussianNoise, LabelNoiseSGD, Problem, sparse_regression, train
from lntrain.cli import _register
from lntrain.experiments import train as job
from lntrain.noise import Noise

Rival = Callable[[int], None]  # an implementation: runs the given number of steps
LR, STD = 1e-4, 0.1
JAX = {"jax": False, "jax, drawn ahead": True}  # rival -> ahead
SIZES = ((40, 100), (100, 1000), (500, 5000))
LARGE = (1000, 100_000)


def naive(problem: Problem, batch: int | None) -> Rival:
    """What one writes first: u, v, autograd, torch's SGD."""
    u, v = torch.full((problem.d,), 0.2, requires_grad=True), torch.zeros(problem.d, requires_grad=True)
    optimizer = torch.optim.SGD([u, v], lr=LR)

    def run(steps: int) -> None:
        for _ in range(steps):
            rows = slice(None) if batch is None else torch.randint(problem.n, (batch,))
            x, y = problem.X[rows], problem.y[rows]
            loss = 0.5 * (x @ (u * v) - y - STD * torch.randn(len(y))).square().mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return run


def by_numpy(problem: Problem, batch: int | None) -> Rival:
    """The gradient by hand."""
    X, y, rng = problem.X.numpy(), problem.y.numpy(), np.random.default_rng(0)
    u, v = np.full(problem.d, 0.2, np.float32), np.zeros(problem.d, np.float32)

    def run(steps: int) -> None:
        for _ in range(steps):
            rows = slice(None) if batch is None else rng.integers(problem.n, size=batch)
            x, noise = X[rows], rng.standard_normal(len(X) if batch is None else batch, np.float32)
            g = np.float32(LR / len(x)) * (x.T @ (x @ (u * v) - y[rows] - np.float32(STD) * noise))
            before = u.copy()
            u[:] -= g * v
            v[:] -= g * before

    return run


def by_jax(problem: Problem, batch: int | None, *, ahead: bool) -> Rival | None:
    """lax.scan under jit; None where jax is absent. ahead: draw for 1000 steps at once, not within each step."""
    try:
        jax: Any = importlib.import_module("jax")
    except ImportError:
        return None
    X, y, n = jax.numpy.asarray(problem.X.numpy()), jax.numpy.asarray(problem.y.numpy()), problem.n

    def draw(key: Any, *steps: int) -> Any:
        picked, noisy = jax.random.split(key)
        rows = jax.random.randint(picked, (*steps, batch or 1), 0, n)
        return rows, jax.random.normal(noisy, (*steps, batch or n))

    def step(carry: Any, drawn: Any) -> Any:
        (u, v), (rows, noise) = carry, drawn if ahead else draw(drawn)
        x, labels = (X, y) if batch is None else (X[rows], y[rows])
        g = LR / len(labels) * (x.T @ (x @ (u * v) - labels - STD * noise))
        return (u - g * v, v - g * u), None

    def scan(carry: Any, key: Any) -> Any:
        return jax.lax.scan(step, carry, draw(key, 1000) if ahead else jax.random.split(key, 1000))[0]

    chunk = jax.jit(scan)
    carry: Any = (jax.numpy.full(problem.d, 0.2), jax.numpy.zeros(problem.d))

    def run(steps: int) -> None:
        nonlocal carry
        for k in range(steps // 1000):
            carry = chunk(carry, jax.random.PRNGKey(k))
        jax.block_until_ready(carry)

    return run


def ours(
    problem: Problem, batch: int | None, engine: str, replicas: int | None = None, *, noise: Noise | None = None
) -> Rival:
    """train(): noise, means and checks included."""

    def run(steps: int) -> None:
        model = DiagonalLinear(problem.d, parametrisation="hadamard", replicas=replicas, dtype=torch.float32)
        optimizer = LabelNoiseSGD(model.parameters(), lr=LR, noise=noise or GaussianNoise(STD))
        for _ in train(model, optimizer, problem, steps, batch_size=batch, engine=engine, snapshots=[steps]):
            pass

    return run


def timed(work: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def fitting(rival: Rival, seconds: float, *, unit: int = 1) -> int:
    """A number of steps that takes about `seconds`, and much longer than the start-up."""
    rival(unit)  # compiled, or warm
    steps, begin = unit, timed(rival, unit)
    while (spent := timed(rival, steps)) < max(seconds / 4, 4 * begin):
        steps *= 4
    return max(unit, int(steps * max(1, seconds / spent)) // unit * unit)


def side_by_side(rivals: dict[str, Rival], seconds: float, repeats: int) -> dict[str, float]:
    """Steps a second of each: median over interleaved repeats."""
    units = {name: 1000 if name in JAX else 1 for name in rivals}
    steps = {name: fitting(rival, seconds, unit=units[name]) for name, rival in rivals.items()}
    seen: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, rival in rivals.items():
            seen[name].append(steps[name] / timed(rival, steps[name]))
    return {name: float(np.median(rates)) for name, rates in seen.items()}


def sgemm() -> Rival:
    """numpy's float32 product of two matrices of 1024 x 1024, so many times."""
    a, b = (np.random.default_rng(k).standard_normal((1024, 1024), np.float32) for k in (0, 1))

    def run(steps: int) -> None:
        for _ in range(steps):
            a @ b

    return run


def rates_of(n: int, d: int, batch: int | None, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    torch.set_num_threads(threads)
    problem = sparse_regression(n, d, 5, seed=0).to(torch.float32)
    rivals: dict[str, Rival] = {"naive": naive(problem, batch), "fused": ours(problem, batch, "fused")}
    if threads == 1:
        rivals |= {"numpy": by_numpy(problem, batch), "torch": ours(problem, batch, "torch")}
        for name, ahead in JAX.items():
            if (scan := by_jax(problem, batch, ahead=ahead)) is not None and (n, d) != (500, 5000):
                rivals[name] = scan
        if batch is None:
            rivals["sgemm"] = sgemm()
    if n * d <= 100_000:
        rivals["fused_64"] = ours(problem, batch, "fused", replicas=64)
    rates = side_by_side(rivals, options.seconds, options.repeats)
    row: dict[str, Any] = {"n": n, "d": d, "batch": batch, "threads": threads, "steps_per_second": rates}
    row["over_naive"] = rates["fused"] / rates["naive"]
    if "fused_64" in rates:
        row["replica_steps_per_second"] = 64 * rates["fused_64"]
    if "sgemm" in rates:  # two passes over X, a product and a sum each
        row["gemm_fraction"] = 4 * n * d * rates["fused"] / (2 * 1024**3 * rates["sgemm"])
        row["gemm_gflops"] = 2 * 1024**3 * rates["sgemm"] / 1e9
    return row


@nb.njit(nogil=True, fastmath=True)
def _read(a):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(a.shape[0]):
        total += a[i]
    return total


def read_bandwidth(array: NDArray[np.float32], threads: int, repeats: int) -> float:
    """Bytes per second that `threads` threads read and sum."""
    parts = np.array_split(array.reshape(-1), threads)
    _read(parts[0][:1])
    with ThreadPoolExecutor(threads) as pool:
        return array.nbytes / min(timed(lambda: list(pool.map(_read, parts))) for _ in range(repeats))


def memory(field: str) -> int:
    """Resident bytes now ("VmRSS") or at the peak since its last reset ("VmHWM"); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def sparse(options: argparse.Namespace) -> dict[str, Any]:
    """Steps on one row of a CSR matrix, 100 numbers per row, against the same matrix dense."""
    n, d = LARGE[0], LARGE[1] // 5
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((n, d), density=100 / d, format="lil", dtype=np.float32, rng=rng)
    X[rng.integers(n, size=d), np.arange(d)] = 1.0  # no column of zeros
    y = torch.as_tensor(np.asarray(X.tocsr()[:, :5].sum(1), np.float32))
    rivals = {name: ours(Problem(each, y), 1, "fused") for name, each in (("csr", X.tocsr()), ("dense", X.toarray()))}
    rates = side_by_side(rivals, options.seconds, options.repeats)
    return {
        "n": n,
        "d": d,
        "numbers_a_row": X.nnz / n,
        "steps_per_second": rates,
        "ratio": rates["csr"] / rates["dense"],
    }


def metrics(repeats: int, steps: int = 10_000_000) -> dict[str, float]:
    """What metrics, TensorBoard and checkpoints add to the bare engine; start-up and final figures excluded."""
    problem, wishes = sparse_regression(40, 100, 5, seed=0), ["optimizer.lr=0.01", "noise.std=20", f"steps={steps}"]
    _register()
    with initialize_config_module("lntrain.conf", version_base="1.3"):
        cfg = compose("config", [*wishes, "model.replicas=null"])
    seen: dict[str, list[float]] = {"bare": [], "job": []}
    for _ in range(repeats):
        model = DiagonalLinear(100)
        run = train(model, LabelNoiseSGD(model.parameters(), lr=0.01, noise=20.0), problem, steps)
        seen["bare"].append(steps / timed(lambda run=run: [None for _ in run]))
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            seen["job"].append(job.run(cfg, Path(folder))["steps_per_second"])
    rates = {name: float(np.median(each)) for name, each in seen.items()}
    return rates | {"cost": rates["bare"] / rates["job"] - 1}


def large() -> None:
    """In a process of its own: time and peak memory where X does not fit any cache."""
    n, d = LARGE
    warm = Problem(torch.full((8, 1_000_000), 1e-3), torch.ones(8))  # large enough to be split over threads
    ours(warm, None, "fused")(16)  # compiled before memory is measured
    del warm
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which includes the compiler's memory
    base = memory("VmRSS")
    X = np.empty((n, d), np.float32)
    np.random.default_rng(0).standard_normal(out=X, dtype=np.float32)
    y = X[:, :5].sum(1)
    problem, torch_threads = Problem(torch.from_numpy(X), torch.from_numpy(y)), 2
    torch.set_num_threads(torch_threads)
    run = ours(problem, None, "fused")
    run(8)
    seen = []
    for _ in range(5):  # side by side, for other machines share the memory's bus
        read = [read_bandwidth(X, threads, 3) for threads in (1, 2)]
        seen.append((X.nbytes * 32 / (timed(run, 40) - timed(run, 8)), *read))
    peak = memory("VmHWM")
    speed, one, two = np.median(seen, 0)
    print(
        json.dumps(
            {
                "n": n,
                "d": d,
                "steps_per_second": speed / X.nbytes,
                "gigabytes_per_second": speed / 1e9,
                "read_bandwidth": {"1": one / 1e9, "2": two / 1e9},
                "fraction": float(np.median([rate / both for rate, _, both in seen])),
                "fractions": [rate / both for rate, _, both in seen],
                "memory_over_X": (peak - base) / X.nbytes,
            }
        )
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    names = ("naive", "numpy", "torch", *JAX, "fused")
    head = ["n, d", "batch", "threads", *(f"{name} steps/s" for name in names)]
    head += ["fused / naive", "/ numpy", *(f"/ {name}" for name in JAX), "of sgemm", "R=64 replica-steps/s"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in rows:
        rates = row["steps_per_second"]
        over = [f"{rates['fused'] / rates[name]:.1f}" if name in rates else "" for name in ("naive", "numpy", *JAX)]
        cells = [f"{row['n']}, {row['d']}", str(row["batch"] or "full"), str(row["threads"])]
        cells += [f"{rates[name]:,.0f}" if name in rates else "" for name in names] + over
        cells += [f"{row['gemm_fraction']:.0%}" if "gemm_fraction" in row else ""]
        cells += [f"{row['replica_steps_per_second']:,.0f}" if "replica_steps_per_second" in row else ""]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="short repeats, one thread, no large problem")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    parser.add_argument("--large", action="store_true", help=argparse.SUPPRESS)  # the child process
    options = parser.parse_args()
    if options.large:
        return large()
    options.seconds, options.repeats = (0.1, 3) if options.quick else (0.4, 7)
    threads = (1,) if options.quick else (1, 2)
    cases = [(n, d, batch, t) for n, d in SIZES for batch in (None, 1) for t in threads]
    rows = [rates_of(n, d, batch, t, options) for n, d, batch, t in cases]
    print(markdown(rows))
    if not any("jax" in row["steps_per_second"] for row in rows):
        print("\njax is not installed: its columns are empty")
    result: dict[str, Any] = {
        "rows": rows,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    if not options.quick:
        child = subprocess.run([sys.executable, __file__, "--large"], capture_output=True, text=True, check=True)
        result["large"] = json.loads(child.stdout.splitlines()[-1])
        result |= {"sparse": sparse(options), "metrics": metrics(options.repeats)}
        for part in ("large", "sparse", "metrics"):
            print(f"\n{part}: " + ", ".join(f"{key} {value}" for key, value in result[part].items()))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(result, indent=2))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
