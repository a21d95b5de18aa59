"""layers: packages import only those below them, each heavy library has one home, and the face is what it promises."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lntrain

ROOT = Path(lntrain.__file__).parent
# lowest first; `_moved` finds modules by their old names, and imports none
PACKAGES = (
    "_moved",
    "_checks",
    "noise",
    "models",
    "data",
    "optim",
    "penalty",
    "lasso",
    "engine",
    "theory",
    "training",
    "sharpness",
    "runs",
    "experiments",
    "sweeps",
    "claims",
    "cli",
)
HOMES = {
    "hydra": {"cli", "runs", "experiments", "sweeps"},
    "omegaconf": {"cli", "runs", "experiments", "sweeps"},
    "tensorboard": {"runs.dashboard", "runs.events"},
    "torch.utils.tensorboard": {"runs.dashboard", "runs.events"},
    # runs.dashboard, sweeps.page and sweeps.report for the type of a figure alone
    "matplotlib": {
        "experiments.figures",
        "experiments.figure_names",
        "experiments.path_figure",
        "sweeps.figures",
        "runs.dashboard",
        "sweeps.page",
        "sweeps.report",
    },
    "tqdm": {"runs.watch"},
    "torchvision": {"models.networks", "models.replicas"},
    "mlxtend": {"data.images"},
    "pandas": {"data.readers"},
    "pyarrow": {"data.readers", "data.tabular"},
}
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}


def imports_of(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward(module, source):
    """The imports of a module's text that do not point down."""
    own = PACKAGES.index(module.split(".")[0])
    packages = [(name, name.split(".")[1]) for name in imports_of(source) if name.startswith("lntrain.")]
    return [name for name, package in packages if package in PACKAGES and PACKAGES.index(package) > own]


def test_every_package_has_its_place_and_its_line():
    assert {module.split(".")[0] for module in MODULES.values()} - {"__init__"} == set(PACKAGES)
    for path in FILES:
        if path.name == "__init__.py":
            assert len(ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]) < 120, path


def test_there_are_at_most_twenty_entries():
    assert len([p for p in ROOT.iterdir() if p.name != "__pycache__" and not p.name.startswith(".")]) <= 20


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != ROOT or p.stem == "cli"], ids=MODULES.get)
def test_imports_point_down(path):
    assert upward(MODULES[path], path.read_text()) == []


def test_an_import_turned_round_is_seen():
    assert upward("lasso.solve", "from lntrain.theory.plan import make_plan") == ["lntrain.theory.plan.make_plan"]
    assert upward("theory.plan", "from lntrain.lasso import solve") == []


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_each_heavy_library_has_one_home(path):
    module = MODULES[path]
    for name in imports_of(path.read_text()):
        for library, homes in HOMES.items():
            if name.startswith(f"{library}."):
                assert module in homes or module.split(".")[0] in homes, f"{module} imports {name}"


def _loaded(statement):
    code = f"{statement}; import sys; print(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_face_loads_torch_and_numpy_alone():
    loaded = _loaded("from lntrain import *")
    assert {"torch", "numpy", "numba"} <= loaded
    assert not loaded & {"hydra", "omegaconf", "tensorboard", "matplotlib", "torchvision", "sklearn", "pandas"}


def test_the_public_names_are_all_there_once_and_found_when_asked_for():
    assert all(hasattr(lntrain, name) for name in lntrain.__all__)
    assert len(set(lntrain.__all__)) == len(lntrain.__all__)
    assert dir(lntrain) == sorted(lntrain.__all__)
    fixed = (
        "Problem",
        "sparse_regression",
        "DiagonalLinear",
        "LabelNoiseSGD",
        "GaussianNoise",
        "RademacherNoise",
        "Antithetic",
        "LabelFlips",
        "NoisyTargets",
        "effective_penalty",
        "noise_for_penalty",
        "weighted_lasso",
        "train",
        "evaluate",
    )
    assert set(fixed) <= set(lntrain.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lasoo'"):
        _ = lntrain.lasoo


def test_no_module_hides_behind_its_function():
    import lntrain.training.loop as loop

    assert callable(lntrain.train)
    assert lntrain.train is loop.train
    assert callable(lntrain.quadratic)


MOVED = ("regime", "references", "flow", "laws", "corrections", "gamma", "model", "schedule")
REACHED = ("penalty", "lasso", "noise", "sharpness", "engine", "claims", "cli", "optim")
FRESH = """
import importlib, os, sys, warnings
import numba, torch  # loaded once for all children, each of which sees lntrain for the first time
for name in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    import lntrain
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module = getattr(lntrain, name)
    assert importlib.import_module(f"lntrain.{name}") is module is importlib.import_module(module.__name__)
    print(name, module.__name__, len(seen), *(warning.message for warning in seen[:1]), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def fresh():
    """What `lntrain.NAME` is in a process of its own, and the warnings that it gave."""
    command = [sys.executable, "-c", FRESH, *MOVED, *REACHED]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.split()[0]: line.split(maxsplit=3)[1:] for line in said.splitlines()}


@pytest.mark.parametrize("name", MOVED)
def test_old_paths_are_found_for_one_release(fresh, name):
    module, count, message = fresh[name]
    assert count == "1"
    assert message.startswith(f"lntrain.{name} is {module}")


@pytest.mark.parametrize("name", REACHED)
def test_packages_are_reached_from_the_front_door(fresh, name):
    assert fresh[name] == [f"lntrain.{name}", "0"]
