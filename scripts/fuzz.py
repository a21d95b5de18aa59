"""Random malformed files, configurations, checkpoints and arguments: each is taken, or refused by one clear line.

    python scripts/fuzz.py --cases 100000 --seed 1

A quarter of the cases for each of four properties. What fails is shrunk by Hypothesis and printed; what was found
before stands in EXAMPLES and is tried first.
"""

from __future__ import annotations

import argparse
import gzip
import io
import math
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import lntrain
from lntrain import cli
from lntrain.experiments import classify, selectivity, sensing
from lntrain.experiments.arms import Study
from lntrain.experiments.figure1 import curves_of
from lntrain.runs import build
from lntrain.runs.files import CHECKPOINTS, read_checkpoint, write_checkpoint
from lntrain.training.divergence import DivergenceError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # trio, where it is installed, at the import of Hypothesis
    from hypothesis import HealthCheck, example, given, seed, settings
    from hypothesis import strategies as st

HANG = 60  # seconds
FOLDER = Path(tempfile.mkdtemp(prefix="lntrain-fuzz-"))
NUMBERS = st.sampled_from(
    [
        *(0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 1e-12, 1e-300, -1e-300, 5e-324, 1e12, 1e300, 2**31, 2**53 + 1, 2**64),
        *(10**30, math.nan, math.inf, -math.inf, True, False),
    ]
)
WORDS = st.sampled_from(["", "auto", "null", "none", "full", "nan", "1e3", "a.b", "\u00e9", "x" * 300, "${seed}", "{}"])
VALUES = st.one_of(
    NUMBERS, WORDS, st.none(), st.lists(NUMBERS, max_size=3), st.dictionaries(WORDS, NUMBERS, max_size=2)
)
EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "drop", "insert", "repeat"]), st.floats(0, 1), st.binary(max_size=9)),
    min_size=1,
    max_size=6,
)


class Hang(Exception):  # noqa: N818
    """A case that takes too long."""


@contextmanager
def in_time() -> Iterator[None]:
    """A case has a minute; what it warns of is an error."""

    def late(_: int, __: FrameType | None) -> None:
        raise Hang(f"more than {HANG} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(HANG)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of numbers at the edge of floating point
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one_line(error: BaseException, *names: str) -> None:
    """A refusal is one line with something to read, which names the file if there is one."""
    said = cli._one_line(error)
    assert said.strip(), repr(error)
    assert "\n" not in said, said
    assert not cli.TEMPLATE.search(said), said
    assert not names or any(name in said for name in names), said


def edited(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """The bytes with each edit done at its place, a share of their number."""
    for kind, share, new in edits:
        at = int(share * len(content))
        after = content[at + 1 :] if kind == "flip" else content[at:]
        if kind == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << len(new) % 8)]) + after
        elif kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + len(new) :]
        elif kind == "insert":
            content = content[:at] + new + after
        elif kind == "repeat":
            content = content[:at] + content[at : at + 40] * 2 + after
    return content


def _files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(8, 3)).round(3), rng.normal(size=8).round(3)
    head, rows = "a,b,y", "\n".join(",".join(map(str, (*x[:2], t))) for x, t in zip(X, y, strict=True))
    text = f"{head}\n{rows}\n".encode()
    sparse = "\n".join(f"{t} 1:{a!r} 3:{b!r}" for (a, _, b), t in zip(X.tolist(), y.tolist(), strict=True)).encode()
    arrays, packed = io.BytesIO(), io.BytesIO()
    np.savez(arrays, X=X, y=y)
    np.savez_compressed(packed, X=X, y=y)
    made = {
        "a.csv": text,
        "b.csv": text.replace(b",", b";").replace(b".", b","),
        "c.csv": text.replace(b"a,b", b"city,b").replace(b"\n-", b"\nred,-", 1),
        "d.tsv": text.replace(b",", b"\t"),
        "e.csv.gz": gzip.compress(text),
        "f.txt": text,
        "g.npz": arrays.getvalue(),
        "h.npz": packed.getvalue(),
        "i.svmlight": sparse,
    }
    try:
        import pandas as pd

        table = io.BytesIO()
        pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": list("uvuvuvuv"), "y": y}).to_parquet(table)
        made["j.parquet"] = table.getvalue()
    except ImportError:
        pass
    return made


FILES = _files()


def readers(name: str, edits: list[tuple[str, float, bytes]], missing: str, onehot: bool) -> None:
    """A malformed table is read to finite numbers, or refused by a line that names it."""
    path = FOLDER / name
    path.write_bytes(edited(FILES[name], edits))
    options: Any = {"missing": missing, "categorical": "onehot" if onehot else "refuse"}
    target = None if name.endswith((".npz", ".svmlight")) else "y"
    with in_time():
        try:
            problem = lntrain.from_file(path, target=target, **options)
        except ValueError as error:
            one_line(error, name, "problem.")
            return
    assert bool(torch.isfinite(problem.X).all())
    assert bool(torch.isfinite(problem.y).all())


TASKS = {
    "train": ["problem.n=6", "problem.d=4", "problem.k=1", "steps=30", "model.replicas=2"],
    "diabetes": ["problem=diabetes", "steps=20"],
    "antithetic": ["problem.n=6", "problem.d=4", "problem.k=1", "steps=20", "noise=antithetic", "optimizer=nesterov"],
    "cosine": ["problem.n=6", "problem.d=4", "problem.k=1", "steps=20", "lr_schedule=cosine", "batch_size=2"],
    "figure1": ["experiment=figure1", "problem.n=6", "problem.d=4", "problem.k=1", "steps=20", "model.replicas=2"],
    "selectivity": ["experiment=selectivity", "selectivity.n=6", "selectivity.d=5", "selectivity.useful=2"],
    "sensing": ["experiment=matrix_sensing", "matrix_sensing.d=3", "matrix_sensing.rank=1"],
}
LEFT = ("hydra", "task", "trust", "run_dir", "_target_", "device", "sweep", "data", "network")  # tested by other means


def _leaves(cfg: DictConfig, place: str = "") -> Iterator[str]:
    for key in map(str, cfg):
        at = f"{place}.{key}" if place else key
        if key in LEFT:
            continue
        if OmegaConf.is_dict(cfg[key]):
            yield from _leaves(cfg[key], at)
        else:
            yield at


def _composed() -> dict[str, DictConfig]:
    cli._register()
    with initialize_config_module("lntrain.conf", version_base="1.3"):
        return {name: compose("config", overrides) for name, overrides in TASKS.items()}


CONFIGURATIONS = _composed()
KEYS = {name: sorted(_leaves(cfg)) for name, cfg in CONFIGURATIONS.items()}
COUNTS = ("replicas", "steps", "points", "batch_size")
SIZES = ("problem.n", "problem.d", "selectivity.n", "selectivity.d", "selectivity.width", "selectivity.test")


def _changed(name: str, places: list[float], values: list[Any]) -> tuple[DictConfig, dict[str, Any]]:
    cfg, keys = CONFIGURATIONS[name].copy(), KEYS[name]
    changes = {keys[int(share * (len(keys) - 1))]: value for share, value in zip(places, values, strict=False)}
    for key, value in changes.items():
        large = isinstance(value, (int, float)) and math.isfinite(value) and abs(value) > 1000
        if large and (
            key in SIZES or "matrix_sensing" in key or key.endswith(("replicas", "steps", "points", "batch_size"))
        ):
            continue  # memory and time, that one asked for
        OmegaConf.update(cfg, key, value)
    return cfg, changes


def configurations(name: str, places: list[float], values: list[Any]) -> None:
    """A configuration makes a run whose numbers are finite, diverges, or is refused by one line."""
    with in_time():
        try:
            cfg, _ = _changed(name, places, values)
            _run(cfg)
        except (ValueError, HydraException, OmegaConfBaseException, DivergenceError) as error:
            one_line(error)


def _run(cfg: DictConfig) -> None:
    if cfg.task in ("selectivity", "matrix_sensing", "classification"):
        made = {"selectivity": selectivity, "matrix_sensing": sensing, "classification": classify}[cfg.task]
        assert isinstance(made.build(cfg), Study)
        return
    if cfg.task == "figure1":
        curves_of(cfg, 6)
        return
    spec = build.build(cfg)
    if spec.settled.steps <= 100:
        for snapshot in build.snapshots_of(cfg, spec, spec.model, spec.optimizer):
            assert snapshot.coef is not None
            assert bool(torch.isfinite(snapshot.coef).all())


def _checkpoint() -> tuple[dict[str, Any], bytes]:
    held = {
        "config": "steps: 3\n",
        "state": {"step": 3, "coef": torch.arange(40.0)},
        "history": {"rows": [{"step": 1.0}]},
    }
    write_checkpoint(FOLDER, held)
    return held, (FOLDER / CHECKPOINTS[0]).read_bytes()


SAVED, CHECKPOINT = _checkpoint()


def checkpoints(edits: list[tuple[str, float, bytes]]) -> None:
    """A checkpoint that was altered is refused by name, or nothing that counts was."""
    (FOLDER / CHECKPOINTS[1]).unlink(missing_ok=True)
    (FOLDER / CHECKPOINTS[0]).write_bytes(edited(CHECKPOINT, edits))
    with in_time(), redirect_stderr(io.StringIO()):
        try:
            found = read_checkpoint(FOLDER)
        except ValueError as error:
            one_line(error, "checkpoint.pt")
            return
    assert found["config"] == SAVED["config"]
    assert found["history"] == SAVED["history"]
    assert found["state"]["step"] == 3
    assert torch.equal(found["state"]["coef"], SAVED["state"]["coef"])


def _array(shape: tuple[int, ...], value: Any) -> Any:
    made = np.random.default_rng(0).normal(size=shape)
    if isinstance(value, (int, float)) and made.size:
        made.flat[made.size // 2] = float(min(max(value, -1e308), 1e308) if math.isfinite(value) else value)
    return made


SHAPES = st.sampled_from([(4, 3), (4, 3), (4, 3), (4,), (3,), (0, 3), (4, 0), (1, 1), (2, 2, 2), ()])
FACE: dict[str, Callable[[Any, Any, Any, tuple[int, ...]], Any]] = {
    "Problem": lambda a, b, c, s: lntrain.Problem(_array(s, a), _array(s[:1], b)),
    "weighted_lasso": lambda a, b, c, s: lntrain.weighted_lasso(_array(s, a), _array(s[:1], b), c),
    "effective_penalty": lambda a, b, c, s: lntrain.effective_penalty(_array(s, a), lr=b, std=c),
    "GaussianNoise": lambda a, b, c, s: lntrain.GaussianNoise(a),
    "LabelFlips": lambda a, b, c, s: lntrain.LabelFlips(a, b),
    "Antithetic": lambda a, b, c, s: lntrain.Antithetic(a),
    "DiagonalLinear": lambda a, b, c, s: lntrain.DiagonalLinear(3, init=a, depth=b, replicas=None if c is None else 2),
    "LabelNoiseSGD": lambda a, b, c, s: lntrain.LabelNoiseSGD(
        lntrain.DiagonalLinear(3).parameters(), lr=a, noise=1.0, momentum=b, seed=c
    ),
    "sparse_regression": lambda a, b, c, s: lntrain.sparse_regression(5, 4, 1, noise=a, rho=b, seed=c),
    "train": lambda a, b, c, s: list(_trained(a, b, c)),
}


def _trained(lr: Any, batch_size: Any, loss_constant: Any) -> Iterator[Any]:
    model = lntrain.DiagonalLinear(4)
    optimizer = lntrain.LabelNoiseSGD(model.parameters(), lr=lr, noise=1.0)
    problem = lntrain.sparse_regression(5, 4, 1)
    return lntrain.train(model, optimizer, problem, 12, batch_size=batch_size, loss_constant=loss_constant)


def face(name: str, a: Any, b: Any, c: Any, shape: tuple[int, ...]) -> None:
    """A public function answers, or refuses by one line: a ValueError, or a TypeError for what is no number."""
    if name == "train" and isinstance(b, (int, float)) and b > 1e6:
        return  # a batch as large as was asked for, in memory
    plain = all(isinstance(v, (int, float)) for v in (a, b, c))
    with in_time(), redirect_stdout(io.StringIO()):
        try:
            FACE[name](a, b, c, shape)
        except (ValueError, DivergenceError) as error:
            one_line(error)
        except RuntimeError as error:
            if "duality gap" not in str(error):
                raise
        except TypeError:
            if plain:  # numbers are refused by a ValueError
                raise


EXAMPLES: dict[str, list[tuple[Any, ...]]] = {  # found before
    "readers": [
        ("g.npz", [("flip", 0.0, b"")], "refuse", False),
        ("h.npz", [("cut", 0.9, b"")], "refuse", False),
        ("i.svmlight", [("insert", 0.1, b"99999999:")], "refuse", False),
        ("e.csv.gz", [("insert", 0.0, b"$")], "refuse", False),
        ("a.csv", [("flip", 0.375, b"\x00\x00\x00\x00")], "refuse", False),
    ],
    "configurations": [
        ("selectivity", [0.0, 0.0, 0.390625], [None, 0, 0]),
        ("figure1", [0.15625], [None, 2, 1]),
        ("cosine", [0.5, 0.453125], [0, 1e12, 0]),
    ],
    "checkpoints": [([("flip", 0.5, b""), ("flip", 0.9609375, b"")],)],
    "face": [
        ("train", 0, math.inf, None, (4, 3)),
        ("train", 0, None, 2**64, (4, 3)),
        ("weighted_lasso", None, None, 5e-324, (4, 3)),
    ],
}
PLACES, THREE = st.lists(st.floats(0, 1), min_size=1, max_size=3), st.lists(VALUES, min_size=3, max_size=3)
PROPERTIES: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "readers": (
        readers,
        (st.sampled_from(sorted(FILES)), EDITS, st.sampled_from(["refuse", "drop", "mean"]), st.booleans()),
    ),
    "configurations": (configurations, (st.sampled_from(sorted(TASKS)), PLACES, THREE)),
    "checkpoints": (checkpoints, (EDITS,)),
    "face": (face, (st.sampled_from(sorted(FACE)), VALUES, VALUES, VALUES, SHAPES)),
}


def run(name: str, cases: int, number: int) -> str | None:
    """None where a property holds over so many cases; else what it says of the smallest that it does not hold for."""
    holds, strategies = PROPERTIES[name]

    def anew(case: tuple[Any, ...]) -> None:  # Hypothesis leaves its settings on the function
        holds(*case)

    test: Any = given(case=st.tuples(*strategies))(anew)
    for found in EXAMPLES.get(name, []):
        test = example(case=found)(test)
    quiet = list(HealthCheck)
    own = settings(max_examples=cases, deadline=None, database=None, suppress_health_check=quiet, print_blob=False)
    try:
        seed(number)(own(test))()
    except BaseException:
        return traceback.format_exc()
    return None


def main() -> None:
    """All properties; exit 1 where one does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(PROPERTIES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = 0
    for name in [options.only] if options.only else list(PROPERTIES):
        began = time.monotonic()
        said = run(name, options.cases if options.only else -(-options.cases // len(PROPERTIES)), options.seed)
        failed += said is not None
        print(f"seed {options.seed}: {name}: {'holds' if said is None else 'FAILS'}, {time.monotonic() - began:.0f} s")
        print(said or "", end="", flush=True)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
