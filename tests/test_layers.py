"""layers: imports point down only, and each heavy library has one home."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lntrain

ROOT = Path(lntrain.__file__).parent
LAYERS = [
    {"stream", "schedule", "config", "homotopy", "dual_flow", "tabular"},
    {"problem", "model", "noise", "curvature", "networks", "replicas", "delimited", "certificate", "lasso_solvers"},
    {"readers", "quadratic", "images", "controls"},
    {"counting"},
    {"optim", "penalty"},
    {"engine"},
    {"lasso", "train", "sharpness", "corrections", "regime", "dual"},
    {"flow", "dynamics", "descend", "references", "gamma", "support"},
    {"expectation"},
    {"choose"},
    {"plan", "prediction"},
    {"diagnostics"},
    {"laws", "events"},
    {"dashboard", "report", "files", "watch"},
    {"coefficients"},
    {"plot_names"},
    {"plots"},
    {"path_plot"},
    {"build"},
    {"forecast"},
    {"run_figures"},
    {"job", "figure1", "path", "claims", "runfolder", "sweep_plots"},
    {"sweep_jobs", "members"},
    {"study", "batched", "table", "cluster"},
    {"classify", "selectivity", "sensing", "sweep", "sweep_page"},
    {"cli", "sweep_report"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
TASKS = {
    "cli",
    "build",
    "forecast",
    "job",
    "figure1",
    "path",
    "study",
    "classify",
    "selectivity",
    "sensing",
    "members",
    "batched",
    "sweep",
    "sweep_jobs",
    "cluster",
}
HOMES = {
    "hydra": TASKS,
    "omegaconf": TASKS,
    "tensorboard": {"dashboard", "events"},
    "torch.utils.tensorboard": {"dashboard", "events"},
    "matplotlib": {
        "plots",
        "plot_names",
        "path_plot",
        "sweep_plots",
        "dashboard",
        "sweep_report",
        "sweep_page",
    },  # the last three for the type of a figure alone
    "tqdm": {"watch"},
    "torchvision": {"networks", "replicas"},
    "mlxtend": {"images"},
}
FILES = sorted(ROOT.rglob("*.py"))


def _module(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path, *, top_level=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_layer():
    assert {_module(p) for p in FILES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize(
    "path", [p for p in FILES if p != ROOT / "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_point_down(path):
    own = _module(path)
    for name in _imports(path):
        if not name.startswith("lntrain."):
            continue
        other = name.split(".")[1]
        if other in RANK and other != own:
            assert RANK[other] < RANK[own], f"{own} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_heavy_library_has_one_home(path):
    own = _module(path)
    for name in _imports(path):
        for library, homes in HOMES.items():
            if name == library or name.startswith(f"{library}."):
                assert own in homes, f"{own} imports {name}"


def _loaded(statement):
    code = f"{statement}; import sys; print(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_lntrain_loads_torch_and_numpy_alone():
    loaded = _loaded("import lntrain")
    assert {"torch", "numpy"} <= loaded
    assert not loaded & {"hydra", "omegaconf", "tensorboard", "matplotlib", "torchvision", "sklearn", "pandas"}


def test_the_public_names_are_all_there_and_sorted_by_all():
    assert all(hasattr(lntrain, name) for name in lntrain.__all__)
    assert len(set(lntrain.__all__)) == len(lntrain.__all__)
    fixed = [
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
    ]
    assert set(fixed) <= set(lntrain.__all__)
