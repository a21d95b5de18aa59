"""A command never touches a run that is there, and leaves nothing where it did not begin."""

from __future__ import annotations

import pytest

from lntrain.runs import folders

SMALL = ("problem.n=12", "problem.d=8", "problem.k=2", "steps=40", "figures=false", "model.replicas=null")
NO_PLAN = {  # compose, but plan nothing
    "no data": ("problem.n=0",),
    "steps": ("steps=0",),
    "replicas": ("model.replicas=-1",),
    "depth": ("model.depth=3",),
    "device": ("device=nonsense",),
    "code": ("model.init={_target_:os.getcwd}",),
}


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def finished(lntrain, tmp_path):
    """A finished run in `a`, and what it holds."""
    assert lntrain(*SMALL, "run_dir=a")[0] == 0
    return content(tmp_path / "a")


@pytest.mark.parametrize("options", [(), *NO_PLAN.values()], ids=["valid", *NO_PLAN])
def test_a_run_that_is_there_is_left_as_it_is(options, lntrain, tmp_path, finished):
    code, _, err = lntrain(*SMALL, *options, "run_dir=a")
    assert code == 2
    assert err.splitlines() == [err.strip()]
    assert "resume=a" in err
    assert "overwrite=true" in err
    assert content(tmp_path / "a") == finished


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_began_and_ended_since_the_look_is_left_as_it_is(overwrite, tmp_path, monkeypatch):
    """Two commands for one folder: the second looks before the first has begun, and gets the lock after its end."""
    folder, lock = tmp_path / "a", folders.lock

    def late(place):
        place.mkdir(exist_ok=True)
        (place / "summary.json").write_text('{"status": "done"}')
        return lock(place)

    monkeypatch.setattr(folders, "lock", late)
    with pytest.raises(ValueError, match=r"holds a run \(done\)"), folders.new_run(folder, overwrite=overwrite):
        pytest.fail("it began")
    assert (folder / "summary.json").read_text() == '{"status": "done"}'


def test_a_run_that_began_just_after_the_look_is_not_moved_aside(tmp_path, monkeypatch):
    folder, look = tmp_path / "a", folders._refuse_taken
    looks = []

    def then_begins(place, overwrite):
        look(place, overwrite)
        if not looks:
            place.mkdir()
            (place / "summary.json").write_text('{"status": "done"}')
        looks.append(place)

    monkeypatch.setattr(folders, "_refuse_taken", then_begins)
    with pytest.raises(ValueError, match=r"holds a run \(done\)"), folders.new_run(folder, overwrite=False):
        pytest.fail("it began")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (folder / "summary.json").read_text() == '{"status": "done"}'


def test_overwrite_moves_the_old_run_aside(lntrain, tmp_path, finished):
    for number in (1, 2):
        (tmp_path / "a" / ".checkpoint.pt.1.tmp").touch()  # of a killed writer: it does not move along
        code, out, _ = lntrain(*SMALL, "run_dir=a", "overwrite=true", f"seed={number}")
        assert code == 0
        assert f"moved     a to a.{number}" in out
    assert content(tmp_path / "a.1") == finished
    assert len({(tmp_path / name / "result.npz").read_bytes() for name in ("a", "a.1", "a.2")}) == 3


@pytest.mark.parametrize("options", NO_PLAN.values(), ids=NO_PLAN)
def test_a_command_that_does_not_plan_brings_the_old_run_back(options, lntrain, tmp_path, finished):
    assert lntrain(*SMALL, *options, "run_dir=a", "overwrite=true")[0] == 2
    assert content(tmp_path / "a") == finished
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("options", NO_PLAN.values(), ids=NO_PLAN)
@pytest.mark.parametrize("where", ["new/er/est", "empty", None])
def test_a_command_that_does_not_plan_leaves_nothing(options, where, lntrain, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = lntrain(*SMALL, *options, *([] if where is None else [f"run_dir={where}"]))
    assert code == 2
    assert err.startswith("lntrain: ")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["empty"]


def test_what_is_no_run_is_not_cleared(lntrain, tmp_path):
    for name in ("job.json", "figures/mine.png", "notes.txt"):
        folder = tmp_path / name.partition(".")[0].partition("/")[0]
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
        before = content(folder)
        assert lntrain(*SMALL, f"run_dir={folder.name}")[0] == 2
        assert content(folder) == before


def test_a_file_that_is_missing_leaves_no_folder(lntrain, tmp_path, finished):
    for where in (["run_dir=new"], ["run_dir=a", "overwrite=true"], []):
        code, _, err = lntrain("problem=file", "problem.path=typo.csv", *where)
        assert (code, err) == (2, "lntrain: problem.path: no file 'typo.csv'\n")
    assert content(tmp_path / "a") == finished
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("where", "word"),
    [("", "names no folder"), ("..", "names no folder|not empty|holds"), ("file", "cannot be written"),
     ("file/below", "cannot be written"), ("x" * 300, "cannot be written"), ("/proc/lntrain", "cannot be written")],
    ids=["empty", "above", "a file", "below a file", "a name too long", "no place"],
)  # fmt: skip
def test_an_unusable_folder_is_one_line(where, word, lntrain, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, err = lntrain(*SMALL, f"run_dir={where}")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert any(each in err for each in word.split("|"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "/tmp/x"])
def test_a_sweeps_name_stays_in_its_place(name, lntrain, tmp_path):
    code, _, err = lntrain("-m", *SMALL, "seed=0,1", f"sweep.name={name}")
    assert code == 2
    assert "sweep.name=" in err
    assert list(tmp_path.iterdir()) == []


def test_a_report_does_not_clear_what_it_did_not_write(lntrain, tmp_path):
    from lntrain.sweeps.report import report

    assert lntrain("-m", *SMALL, "seed=0,1", "sweep.name=s", "hydra/launcher=basic")[0] == 0
    folder = tmp_path / "outputs" / "sweeps" / "s"
    report(folder)
    report(folder)
    (folder / "report" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        report(folder)
    assert (folder / "report" / "thesis.tex").read_text() == "mine"
