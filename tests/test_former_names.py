"""Former names of functions and fields, taken for one release with a warning."""

from __future__ import annotations

import importlib

import pytest
import torch

from lntrain.theory.support import Verdict

MOVED = {
    "lntrain.theory.laws": ("exponents", "lyapunov_exponents"),
    "lntrain.lasso": ("moved_lasso", "relabelled_lasso"),
}


@pytest.mark.parametrize("module", MOVED)
def test_a_function_is_found_by_its_former_name(module):
    home, (old, new) = importlib.import_module(module), MOVED[module]
    with pytest.warns(FutureWarning, match=rf"{module}\.{old} is {new} now"):
        assert getattr(home, old) is getattr(home, new)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = home.nothing


def test_a_verdicts_fields_are_found_by_their_former_names():
    found = Verdict(torch.tensor([True, False]), torch.tensor([False, False]))
    with pytest.warns(FutureWarning, match=r"Verdict\.on is support now"):
        assert found.on is found.support
    with pytest.warns(FutureWarning, match=r"Verdict\.off is complement now"):
        assert found.off is found.complement
    assert found.undecided.tolist() == [False, True]
