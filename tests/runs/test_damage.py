"""A damaged file is named; its job is run again or listed, and the others go on."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from lntrain.runs import folders
from lntrain.sweeps import report as sweep_report
from lntrain.sweeps.table import collect

SMALL = ("problem.n=12", "problem.d=8", "problem.k=2", "steps=40", "model.replicas=null")
SWEEP = ("-m", *SMALL, "seed=0,1,2", "sweep.name=s", "hydra/launcher=basic")
BROKEN = {"cut": b'{"status": "do', "empty": b"", "no object": b"[1, 2]", "binary": b"\xff\xfe\x00", "a number": b"3"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished sweep of three jobs."""
    from hydra.core.global_hydra import GlobalHydra

    from lntrain import cli

    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["lntrain", *SWEEP])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 0
    return folder / "outputs" / "sweeps" / "s"


@pytest.fixture
def sweep(done, tmp_path):
    """A copy of it, where the command finds it."""
    folder = tmp_path / "outputs" / "sweeps" / "s"
    shutil.copytree(done, folder)
    return folder


@pytest.mark.parametrize("content", list(BROKEN.values()), ids=list(BROKEN))
@pytest.mark.parametrize("name", ["summary.json", "job.json"])
def test_a_job_with_a_damaged_file_is_run_again(name, content, sweep, lntrain):
    (sweep / "seed=1" / name).write_bytes(content)
    code, out, err = lntrain(*SWEEP)
    assert (code, err) == (0, "")
    assert "skipped   2 jobs are finished" in out
    (line,) = [line for line in out.splitlines() if line.startswith(("again", "resumed"))]
    assert str(sweep / "seed=1" / name) in line or str(sweep.relative_to(sweep.parents[2]) / "seed=1" / name) in line
    assert "is damaged" in line
    assert folders.summary_of(sweep / "seed=1")["status"] == "done"


@pytest.mark.parametrize("content", [*BROKEN.values(), b'{"jobs": 3}', b'{"jobs": {"seed=1": 3}}'])
def test_a_damaged_list_of_jobs_is_made_anew(content, sweep, lntrain):
    (sweep / "sweep.json").write_bytes(content)
    code, out, err = lntrain(*SWEEP)
    assert code == 0
    assert err.count("\n") == 1
    assert "sweep.json is damaged" in err
    assert "skipped   3 jobs are finished" in out
    assert len(json.loads((sweep / "sweep.json").read_text())["jobs"]) == 3


@pytest.mark.parametrize("content", list(BROKEN.values()), ids=list(BROKEN))
@pytest.mark.parametrize("name", ["summary.json", "job.json"])
def test_a_report_lists_the_job_and_tells_of_the_others(name, content, sweep):
    (sweep / "seed=1" / name).write_bytes(content)
    table = collect(sweep)
    assert [row.status for row in table.rows] == ["done", "damaged", "done"]
    assert name in table.rows[1].reason
    assert table.groups[0].means["distance_mean"][2] == 2
    assert "damaged" in (sweep_report.report(sweep) / "table.md").read_text()


@pytest.mark.parametrize("content", list(BROKEN.values()), ids=list(BROKEN))
@pytest.mark.parametrize("name", ["metrics.jsonl", "result.npz"])
def test_a_report_is_made_without_what_it_cannot_read(name, content, sweep):
    path = sweep / ("seed=1" if name == "metrics.jsonl" else "seed=0") / name
    path.write_bytes(content)
    page = (sweep_report.report(sweep) / "index.html").read_text()
    assert f"{name}" in page or not content  # no rows at all are no damage
    assert "damaged" in page or (not content and name == "metrics.jsonl")


@pytest.mark.parametrize("content", [*BROKEN.values(), b'{"jobs": 3}', b'{"jobs": {"seed=1": 3}}'])
def test_a_report_tells_of_a_damaged_list_of_jobs(content, sweep):
    (sweep / "sweep.json").write_bytes(content)
    table = collect(sweep)
    assert [row.status for row in table.rows] == ["done"] * 3
    assert list(table.axes) == ["seed"]
    assert any("sweep.json is damaged" in note for note in table.notes)


def test_a_report_takes_an_empty_folder(sweep):
    (sweep / "report").mkdir()
    assert (sweep_report.report(sweep) / "index.html").is_file()


def test_a_resume_of_a_run_whose_job_is_damaged_names_it(sweep, lntrain):
    (sweep / "seed=1" / "job.json").write_bytes(b"{")
    code, _, err = lntrain(f"resume={sweep / 'seed=1'}")
    assert (code, err.count("\n")) == (2, 1)
    assert "job.json is damaged" in err


def test_jobs_of_other_steps_are_not_averaged_in_silence(sweep, lntrain):
    assert lntrain(f"resume={sweep / 'seed=1'}", "steps=60")[0] == 0
    assert "different steps: 40 to 60" in " ".join(sweep_report.headline(collect(sweep), []))


def test_jobs_that_are_short_of_steps_are_marked(sweep):
    table = collect(sweep)
    assert all(row.short and "short of steps: about" in row.reason for row in table.rows)
    page = (sweep_report.report(sweep) / "index.html").read_text()
    assert "3 of 3 jobs are short of steps" in page
    assert "3 of 3, 3 short of steps" in page
    for row in table.rows:
        path = row.folder / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "short_of_steps": None}))
    assert not any(row.short for row in collect(sweep).rows)


@pytest.mark.parametrize("content", [b'{"confjg": "1", "code": "2"}', b"{}"], ids=["a flipped bit", "nothing"])
def test_a_resume_needs_no_key_of_job_json(content, lntrain, tmp_path):
    assert lntrain(*SMALL, "figures=false", "run_dir=a")[0] == 0
    (tmp_path / "a" / "job.json").write_bytes(content)
    code, _, err = lntrain("resume=a")
    assert (code, err) == (0, "")
    assert set(json.loads((tmp_path / "a" / "job.json").read_text())) >= {"config", "code"}
