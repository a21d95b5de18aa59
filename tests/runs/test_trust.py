"""A configuration calls listed objects alone: in a command, in a folder of configurations, in another's run folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import lntrain as package
from lntrain.runs import trust

SMALL = ("problem.n=12", "problem.d=8", "problem.k=2", "steps=40", "figures=false", "model.replicas=null", "run_dir=a")
HOSTILE = (
    "os.system", "os.remove", "os.popen", "os.getcwd", "os.execv", "os.path.exists", "posix.system", "subprocess.run",
    "subprocess.Popen",
    "subprocess.check_output", "pathlib.Path.write_text", "pathlib.Path", "shutil.rmtree",
    "builtins.eval", "builtins.exec", "builtins.open", "builtins.__import__", "eval", "exec", "importlib.import_module",
    "runpy.run_path", "code.interact", "pickle.loads", "pickle.load", "marshal.loads", "shelve.open", "joblib.load",
    "sympy.sympify", "numpy.load", "pandas.read_pickle", "pandas.eval", "webbrowser.open",
    "ctypes.CDLL", "socket.socket",
    "urllib.request.urlopen", "tempfile.mkdtemp",
    "logging.config.dictConfig", "hydra.utils.instantiate",
    "hydra.utils.get_method", "hydra.utils.call", "operator.attrgetter", "functools.partial", "functools.reduce",
    "torch.load", "torch.hub.load", "torch.jit.load", "torch.save", "torch.classes.load_library",
    "torch.ops.load_library",
    "torch.utils.cpp_extension.load", "torch.optim.sgd.torch.load", "torch.nn.modules.module.torch.hub.load",
    "torch.nn.functional.torch.load", "torch.optim.Optimizer.load_state_dict", "torch.nn.Module.apply",
    "torch.compile",
    "lntrain.runs.files.os.remove", "lntrain.runs.files.pickle.loads", "lntrain.runs.files.torch.load",
    "lntrain.cli.main",
    "lntrain.runs.folders.shutil.rmtree",
    "lntrain.cli.import_module", "lntrain.runs.build.instantiate", "lntrain.os.system",
    "lntrain.runs.files.write_atomically", "lntrain.GaussianNoise.__init__.__globals__", "lntrain.train", "lntrain", "",
    "lntrain.nothing", "torch", "secrets_of_mine.payload", ".os.system", "os..system", None, 3, ["os", "system"],
)  # fmt: skip
PLACES = {
    "model.init": "model.init={_target_:%s}",
    "model": "model._target_=%s",
    "deep": "+problem.extra=[[{a:{_target_:%s}}]]",
    "problem": "+problem.extra={_target_:%s}",
    "arguments": "model.init={_target_:lntrain.models.diagonal.LogNormalInit,_args_:[{_target_:%s}]}",
}


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module that leaves a trace when it is imported or called."""
    leave = "import pathlib\npathlib.Path('trace').touch()\n"
    (tmp_path / "secrets_of_mine.py").write_text(leave + "def payload(*_, **__):\n    pathlib.Path('trace').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "trace"


@pytest.mark.parametrize("target", HOSTILE, ids=str)
def test_what_is_not_listed_is_refused_and_not_called(target, payload):
    before = set(sys.modules)
    cfg = OmegaConf.create({"seed": 0, "model": {"init": [{"x": {"_target_": target}}]}})
    with pytest.raises(ValueError, match=r"model\.init\.0\.x\._target_=.*trust=true"):
        trust.check(cfg)
    assert not payload.exists()
    assert {name.partition(".")[0] for name in set(sys.modules) - before} <= {"lntrain"}


def test_what_the_packaged_configurations_name_is_listed():
    named = set()
    for path in Path(package.__file__).parents[1].glob("conf/**/*.yaml"):
        named |= {str(value) for _, value in trust.targets(OmegaConf.to_container(OmegaConf.load(path)), path.stem)}
    hydras = {name for name in named if name in trust.PLUGINS}
    assert len(named - hydras) >= 18
    trust.check(OmegaConf.create({"all": [{"_target_": name} for name in sorted(named - hydras)]}))


@pytest.mark.parametrize(
    "target", ["torch.optim.Adam", "torch.nn.Linear", "torch.optim.sgd.SGD", "lntrain.noise.GaussianNoise"]
)
def test_an_object_is_known_by_any_of_its_names(target):
    trust.check(OmegaConf.create({"a": {"_target_": target}}))
    assert trust.resolve(target) is not None


@pytest.mark.parametrize("place", PLACES)
def test_a_command_is_refused_before_anything_is_made(place, lntrain, payload, tmp_path):
    code, _, err = lntrain(*SMALL, PLACES[place] % "secrets_of_mine.payload")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "secrets_of_mine.payload" in err
    assert not payload.exists()
    assert not (tmp_path / "a").exists()


def test_trust_lets_it_through(lntrain, payload):
    code, *_ = lntrain(*SMALL, PLACES["model.init"] % "secrets_of_mine.payload", "trust=true")
    assert code != 0  # it gives no init
    assert payload.exists()


@pytest.mark.parametrize("itself", [False, True])
def test_a_strangers_run_folder_is_refused(itself, lntrain, payload, tmp_path):
    """Whatever the folder says of itself."""
    assert lntrain(*SMALL)[0] == 0
    checkpoint = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    del checkpoint["digested"]
    cfg = OmegaConf.create(checkpoint["config"])
    cfg = OmegaConf.merge(cfg, {"model": {"init": {"_target_": "secrets_of_mine.payload"}}, "trust": itself})
    torch.save({**checkpoint, "config": OmegaConf.to_yaml(cfg)}, tmp_path / "a" / "checkpoint.pt")
    code, _, err = lntrain("resume=a")
    assert code == 2
    assert "model.init._target_=secrets_of_mine.payload" in err
    assert not payload.exists()
    lntrain("resume=a", "trust=true")
    assert payload.exists()


HYDRAS = (
    "+hydra.callbacks.mine={_target_:secrets_of_mine.payload}",
    "hydra.callbacks.sweep._target_=secrets_of_mine.payload",
    "hydra.sweeper._target_=secrets_of_mine.payload",
    "hydra.launcher._target_=secrets_of_mine.payload",
    "++hydra.hydra_logging={version:1,handlers:{x:{class:secrets_of_mine.payload}}}",
)


@pytest.mark.parametrize("override", HYDRAS)
def test_hydra_itself_makes_its_packaged_objects_alone(override, lntrain, payload):
    for multirun in ((), ("-m", "seed=0,1")):
        code, _, err = lntrain(*multirun, *SMALL[:-1], override)
        assert code == 2
        assert "secrets_of_mine.payload" in err
        assert not payload.exists()


def _command(folder, *arguments):
    code = "from lntrain.cli import main; main()"
    options = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(folder)}, "capture_output": True, "text": True}
    return subprocess.run([sys.executable, "-c", code, *arguments], check=False, **options)


@pytest.mark.parametrize(
    ("name", "chosen", "text"),
    [
        ("model/mine.yaml", "model=mine", "_target_: secrets_of_mine.payload"),
        ("hydra/launcher/mine.yaml", "hydra/launcher=mine", "_target_: secrets_of_mine.payload"),
        ("hydra/job_logging/mine.yaml", "hydra/job_logging=mine",
         "version: 1\nformatters:\n  x:\n    (): secrets_of_mine.payload"),
        ("experiment/mine.yaml", "experiment=mine",
         "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: secrets_of_mine.payload"),
    ],
    ids=["a model", "a launcher", "a formatter", "an experiment"],
)  # fmt: skip
def test_a_folder_of_configurations_is_no_exception(name, chosen, text, payload, tmp_path):
    path = tmp_path / "conf" / name
    path.parent.mkdir(parents=True)
    path.write_text(text + "\n")
    done = _command(tmp_path, "--config-dir", "conf", *SMALL, chosen)
    assert done.returncode == 2, done.stderr
    assert "secrets_of_mine.payload" in done.stderr
    assert not payload.exists()
