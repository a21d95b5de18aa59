"""cli: exit codes, one line for each mistake, multiruns."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

SMALL = ["problem.n=12", "problem.d=8", "problem.k=2", "model.replicas=null"]
RUN = [*SMALL, "optimizer.lr=0.002", "penalty.alpha_ratio=0.2", "steps=60"]


def _summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_run_says_its_prediction_first_then_what_was_reached(lntrain, tmp_path):
    code, out, err = lntrain(*RUN, "run_dir=here", "seed=0")
    assert (code, err) == (0, "")
    assert out.index("predicted before step 1") < out.index("lambda / the predicted one") < out.index("wrote")
    summary = _summary(tmp_path / "here")
    assert (summary["status"], summary["seed"], summary["steps"]) == ("done", 0, 60)
    for name in ("metrics.jsonl", "result.npz", "checkpoint.pt", ".hydra/config.yaml", "figures/errors.png"):
        assert (tmp_path / "here" / name).is_file()
    assert list((tmp_path / "here").glob("events.out.tfevents.*"))


def test_runs_go_under_outputs_and_never_into_one_folder(lntrain, tmp_path):
    assert [lntrain(*RUN)[0] for _ in range(2)] == [0, 0]
    assert len(list((tmp_path / "outputs" / "runs").glob("*/summary.json"))) == 2


def _files(folder):
    """The data of the table below."""
    good = "a,b,y\n1,2,3\n2,1,5\n4,4,4\n"
    tables = {
        "good.csv": good,
        "ragged.csv": good + "1,2\n",
        "text.csv": good + "1,red,2\n",
        "gap.csv": good + "1,,2\n",
        "inf.csv": good + "1,inf,2\n",
        "flat.csv": "a,b,y\n1,2,3\n1,1,5\n",
        "flat_y.csv": "a,y\n1,3\n2,3\n",
        "one.csv": "a,y\n1,2\n",
        "empty.csv": "",
        "data.parquet": "x",
        "data.xyz": "x",
        "bad.svmlight": "what is this\n",
        "bad.npz": "no zip",
    }
    for name, content in tables.items():
        (folder / name).write_text(content)
    np.savez(folder / "no_y.npz", X=np.ones((3, 2)))
    (folder / "empty_folder").mkdir()


CSV = ["problem=file", "problem.target=y"]
MISTAKES = {
    # configuration
    "a misspelt key": (["nosie.std=1"], "nosie"),
    "a misspelt key inside a group": (["noise.sdt=1"], "sdt"),
    "a misspelt group choice": (["noise=gausian"], "gausian"),
    "a wrong type": (["seed=zero"], "seed"),
    "a word for a number": (["noise.std=loud"], "std"),
    "a broken override": (["seed"], "seed"),
    "an unknown task": (["task=dance"], "task='dance'"),
    "an unknown parametrisation": (["model.parametrisation=cube"], "parametrisation='cube'"),
    "an unknown sampling": (["sampling=all"], "sampling='all'"),
    "an unknown engine": (["engine=warp"], "engine='warp'"),
    "a device that is not there": (["device=cuda:99"], "device='cuda:99' cannot be used"),
    "a device that is none": (["device=abacus"], "device='abacus' cannot be used"),
    "another task on a device": (["experiment=path", "device=cuda"], "experiment=path runs on the CPU"),
    "an unknown dtype": (["model.dtype=float8"], "model.dtype='float8'"),
    "an unknown design": (["problem.design=cauchy"], "design='cauchy'"),
    "flips of numbers": (["noise=flips"], "noise=flips is for classes"),
    "classes without data": (["task=classification"], "experiment=digits"),
    "images that are not there": (["experiment=digits", "data=cifar10"], "data.download=true"),
    "an unknown loss": (["experiment=digits", "classification.loss=hinge"], "classification.loss='hinge'"),
    "no std for classes": (["experiment=digits", "noise=gaussian"], "noise.std is not given"),
    "no replica of a study": (["experiment=selectivity", "study.replicas=0"], "study.replicas=0"),
    "annealing for too long": (["experiment=selectivity", "study.anneal=2"], "study.anneal=2"),
    "an unknown annealing": (["experiment=selectivity", "study.annealed=batch"], "what='batch'"),
    "automatic steps of a study": (["experiment=selectivity", "steps=auto"], "needs numbers for steps"),
    "all inputs useful": (["experiment=selectivity", "selectivity.useful=200"], "useful=200"),
    "a rank above d": (["experiment=matrix_sensing", "matrix_sensing.rank=17"], "rank=17"),
    "batch norm in a study": (
        ["experiment=digits", "network=resnet18", "network.width=8", "network.norm=batch"],
        "norm=group",
    ),
    "two wishes": (["noise.std=1", "penalty.alpha=0.1"], "noise.std and penalty.alpha are both given"),
    "a negative std": (["noise.std=-1"], "noise.std=-1"),
    "a penalty of zero": (["penalty.alpha=0"], "penalty.alpha=0"),
    "a negative lr": (["optimizer.lr=-0.1"], "optimizer.lr=-0.1"),
    "lr is a word": (["optimizer.lr=fast"], "optimizer.lr='fast'"),
    "no steps": (["steps=0"], "steps=0"),
    "half a step": (["steps=10.5"], "steps=10.5"),
    "steps is a word": (["steps=some"], "steps='some'"),
    "batch of none": (["batch_size=0"], "batch_size=0"),
    "batch too large": (["batch_size=13", "sampling=without"], "batch_size=13"),
    "sampling without a batch": (["sampling=shuffle"], "needs a batch_size"),
    "momentum of one": (["optimizer.momentum=1.0"], "momentum=1.0"),
    "nesterov without momentum": (["optimizer.nesterov=true"], "Nesterov"),
    "negative weight decay": (["optimizer.weight_decay=-1"], "weight_decay=-1"),
    "a loss of nothing": (["loss_constant=0"], "loss_constant=0"),
    "init of zero": (["model.init=0"], "init=0"),
    "init is a word": (["model.init=tiny"], "init"),
    "no replicas": (["model.replicas=0"], "replicas=0"),
    "a deep model": (["model.depth=3"], "model.depth=3"),
    "more ones than columns": (["problem.k=9"], "k=9"),
    "one row": (["problem.n=1"], "n=1"),
    "rho of one": (["problem.design=correlated", "problem.rho=1"], "rho=1"),
    "one column scale": (["problem.column_scales=[1]"], "column_scales"),
    "an unknown experiment": (["experiment=figure9"], "figure9"),
    "a distance of zero": (["target_distance=0"], "target_distance=0"),
    # numbers at the edge, and what is no number
    "a device without data": (["device=meta"], "device='meta' cannot be used"),
    "a schedule that is a number": (["noise.schedule=1"], "noise.schedule=1 is no schedule"),
    "a study's schedule that is a number": (
        ["experiment=selectivity", "noise.schedule=1"],
        "noise.schedule=1 is no schedule",
    ),
    "a list of schedules": (["lr_schedule=[1]"], "cannot be composed"),
    "infinitely many steps": (["steps=inf"], "steps=inf is no whole number"),
    "steps that are not one": (["steps=nan"], "steps=nan is no whole number"),
    "steps beyond all time": (["steps=1e308"], "steps=1e+308 must lie in"),
    "a batch beyond all rows": (["batch_size=99999999999999999999"], "must be at most"),
    "more replicas than memory": (["model.replicas=99999999999999"], "must be at most"),
    "hardly any penalty": (["penalty.alpha_ratio=1e-12"], "no plan can be made of these numbers"),
    "hardly any noise": (["noise.std=1e-9"], "no plan can be made of these numbers"),
    "hardly any step": (["optimizer.lr=1e-300"], "no plan can be made of these numbers"),
    "hardly any distance": (["target_distance=1e-300"], "no plan can be made of these numbers"),
    "hardly any loss": (["loss_constant=1e-300"], "no plan can be made of these numbers"),
    "a huge init": (["model.init=1e300"], "no plan can be made of these numbers"),
    "points without end": (["points_per_octave=18446744073709551616"], "points_per_octave=18446744073709551616"),
    "no points": (["points_per_octave=0"], "points_per_octave=0"),
    "checkpoints in the past": (["checkpoint_every=-1"], "checkpoint_every=-1"),
    "checkpoints at no time": (["checkpoint_every=nan"], "checkpoint_every=nan"),
    "a seed of the past": (["problem.seed=-3"], "problem.seed=-3"),
    "no chunk": (["experiment=digits", "classification.chunk=0"], "classification.chunk=0"),
    "no width": (["experiment=selectivity", "selectivity.width=0"], "selectivity.width=0"),
    "no measurements": (["experiment=matrix_sensing", "matrix_sensing.measurements=[]"], "measurements=[]"),
    "no levels": (["experiment=figure1", "figure1.stds=[]"], "figure1.stds=[]"),
    "a level that is none": (["experiment=figure1", "figure1.stds=[nan]"], "std=nan"),
    "penalties without end": (["experiment=path", "path.points=1000000000"], "points=1000000000"),
    # what would be passed over in silence
    "a task without its settings": (["task=path"], "experiment=path"),
    "a penalty of classes": (["experiment=digits", "penalty.alpha=.3"], "does not read penalty.alpha"),
    "a problem of classes": (["experiment=digits", "problem.n=9"], "does not read problem.n"),
    "a path's own penalty": (["experiment=path", "penalty.alpha=.3"], "does not read penalty.alpha"),
    "a study of a training": (["study.replicas=3"], "does not read study.replicas"),
    "a key that is none": (["+foo=1"], "no key foo"),
    "Hydra's folder": (["hydra.run.dir=x"], "run_dir=FOLDER"),
    # of one line
    "an option that is none": (["--foo"], "--foo is no option"),
    "a variable that is not there": (["seed=${oc.env:NOPE}"], "'NOPE' not found"),
    "an interpolation of nothing": (["seed=${nope}"], "'nope' not found"),
    "itself": (["seed=${seed}"], "Recursive interpolation"),
    "no seed at all": (["~seed"], "'seed'"),
    # data
    "no path": (["problem=file"], "problem.path"),
    "no such file": ([*CSV, "problem.path=nowhere.csv"], "no file 'nowhere.csv'"),
    "an unknown ending": ([*CSV, "problem.path=data.xyz"], "ends in '.xyz'"),
    "no target": (["problem=file", "problem.path=good.csv"], "problem.target"),
    "a wrong target": (["problem=file", "problem.path=good.csv", "problem.target=z"], "problem.target='z'"),
    "ragged rows": ([*CSV, "problem.path=ragged.csv"], "ragged.csv, line 5"),
    "text in a column": ([*CSV, "problem.path=text.csv"], "'red'"),
    "a missing value": ([*CSV, "problem.path=gap.csv"], "'b' is empty"),
    "an infinite value": ([*CSV, "problem.path=inf.csv"], "'b' is inf"),
    "no Parquet file": ([*CSV, "problem.path=data.parquet"], "data.parquet"),
    "perhaps in pairs": (["noise.antithetic=perhaps"], "noise.antithetic='perhaps'"),
    "an unknown average": (["average=best"], "average='best'"),
    "half a replica": (["model.replicas=0.5"], "replicas=0.5"),
    "no budget at all": (["budget=0"], "budget=0"),
    "a constant target": ([*CSV, "problem.path=flat_y.csv"], "target is constant"),
    "one data row": ([*CSV, "problem.path=one.csv"], "1 row"),
    "an empty file": ([*CSV, "problem.path=empty.csv"], "empty"),
    "npz without y": ([*CSV, "problem.path=no_y.npz"], "X and y are needed"),
    "npz of garbage": ([*CSV, "problem.path=bad.npz"], "bad.npz"),
    "svmlight of garbage": ([*CSV, "problem.path=bad.svmlight"], "svmlight"),
    # resume
    "resume nowhere": (["resume=nowhere"], "resume=nowhere"),
    "resume an empty folder": (["resume=empty_folder"], "no checkpoint.pt"),
    "resume with another option": (["resume=empty_folder", "seed=1"], "resume=FOLDER"),
}


@pytest.mark.parametrize(("overrides", "says"), list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_is_one_line_and_exit_2(overrides, says, lntrain, tmp_path):
    _files(tmp_path)
    base = [] if any(o.startswith(("problem=", "resume=", "experiment=", "task=")) for o in overrides) else [*SMALL]
    base = [b for b in base if b.split("=")[0] not in {o.split("=")[0] for o in overrides}]
    code, _, err = lntrain(*base, *overrides)
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert err.startswith("lntrain: ")
    assert says in err
    assert "Traceback" not in err
    assert "$" not in err
    assert not list(tmp_path.glob("outputs/runs/*"))


def test_a_group_that_is_misspelt_is_told_its_choices(lntrain):
    code, _, err = lntrain("noise=gausian")
    assert code == 2
    assert err.startswith("lntrain: In 'config': Could not find 'noise/gausian': choose one of ")
    assert "gaussian" in err


def test_a_diverging_run_exits_1_and_says_so(lntrain, tmp_path):
    code, _, err = lntrain(*SMALL, "optimizer.lr=5", "penalty.alpha_ratio=0.2", "steps=2000", "run_dir=here")
    assert code == 1
    assert "lr=5" in err
    assert "a stable lr" in err
    assert len(err.strip().splitlines()) == 1
    summary = _summary(tmp_path / "here")
    assert summary["status"] == "diverged"
    assert "diverged by step" in summary["reason"]


def test_a_multirun_goes_on_past_a_bad_job_and_exits_1(lntrain, tmp_path):
    code, _, err = lntrain("-m", "hydra/launcher=basic", *RUN, "batch_size=0,3", "hydra.sweep.dir=sweep")
    assert code == 1
    assert "batch_size=0" in err
    assert "Traceback" not in err
    status = sorted(_summary(path.parent)["status"] for path in (tmp_path / "sweep").glob("*/summary.json"))
    assert status == ["done", "failed"]


def test_another_sweeper_than_ours_exits_1_too_and_the_next_command_begins_anew(lntrain):
    others = ["-m", "hydra/sweeper=basic", "hydra/launcher=basic", *RUN, "hydra.sweep.dir=sweep"]
    code, _, err = lntrain(*others, "batch_size=0,3")
    assert code == 1
    assert "failed" in err
    assert lntrain(*RUN)[0] == 0


def test_a_multirun_of_good_jobs_exits_0_a_folder_each(lntrain, tmp_path):
    code, _, err = lntrain("-m", "hydra/launcher=basic", *RUN, "seed=0,1", "hydra.sweep.dir=sweep")
    assert (code, err) == (0, "")
    folders = sorted(path.parent for path in (tmp_path / "sweep").glob("*/summary.json"))
    assert [_summary(folder)["seed"] for folder in folders] == [0, 1]
    assert [folder.name for folder in folders] == ["seed=0", "seed=1"]
    assert (folders[0] / "result.npz").read_bytes() != (folders[1] / "result.npz").read_bytes()


def test_a_multirun_with_one_run_dir_is_refused(lntrain, tmp_path):
    code, _, err = lntrain("-m", *RUN, "seed=0,1", "run_dir=here")
    assert code == 2
    assert "run_dir" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "here").exists()


def test_resume_with_more_steps_goes_on_and_equals_the_longer_run(lntrain, tmp_path):
    assert lntrain(*RUN, "run_dir=short")[0] == 0
    assert lntrain("resume=short", "steps=300")[0] == 0
    assert lntrain(*RUN, "steps=300", "run_dir=long")[0] == 0
    with np.load(tmp_path / "short" / "result.npz") as a, np.load(tmp_path / "long" / "result.npz") as b:
        for name in ("mean_coef", "last_coef", "reference_coef"):
            np.testing.assert_array_equal(a[name], b[name])
    assert _summary(tmp_path / "short")["steps"] == 300
    code, _, err = lntrain("resume=short", "steps=10")
    assert code == 2
    assert "steps=10" in err


@pytest.mark.parametrize("experiment", ["figure1", "path"])
def test_resuming_a_finished_experiment_is_no_error(experiment, lntrain, tmp_path):
    small = [*SMALL[:3], f"experiment={experiment}", "optimizer.lr=0.002", "steps=20", "run_dir=here"]
    small += ["model.replicas=2", "figure1.stds=[0.4]"] if experiment == "figure1" else ["path.points=3"]
    assert lntrain(*small)[0] == 0
    code, _, err = lntrain("resume=here")
    assert (code, err) == (0, "")
    assert _summary(tmp_path / "here")["status"] == "done"


def test_an_unforeseen_error_exits_1_with_a_traceback(lntrain, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr("lntrain.experiments.train.build", broken)
    code, _, err = lntrain(*RUN, "run_dir=here")
    assert code == 1
    assert "Traceback" in err
    assert _summary(tmp_path / "here")["status"] == "failed"


def test_the_console_script_runs_from_another_directory(tmp_path):
    command = [sys.executable, "-c", "from lntrain.cli import main; main()", "noise.sdt=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("lntrain: ")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
