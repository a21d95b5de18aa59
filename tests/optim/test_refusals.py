"""What would be taken in silence for something else is refused or told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from lntrain import (
    Antithetic,
    DiagonalLinear,
    GaussianNoise,
    LabelFlips,
    LabelNoiseSGD,
    NoNoise,
    ParameterNoise,
    effective_penalty,
    noise_for_penalty,
    sparse_regression,
    train,
    weighted_lasso,
)


def _optimizer(**options):
    return LabelNoiseSGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1, **options)


def _snapshots(*steps):
    model = DiagonalLinear(8)
    return train(model, LabelNoiseSGD(model.parameters()), sparse_regression(12, 8, 2), 5, snapshots=steps)


X = torch.ones(4, 1)
REFUSED = {
    "momentum of 1": (lambda: _optimizer(momentum=1.0), r"momentum=1\.0 must lie in \[0, 1\)"),
    "dampening": (lambda: _optimizer(momentum=0.5, dampening=float("nan")), "dampening=nan"),
    "half a seed": (lambda: _optimizer(seed=1.5), r"seed=1\.5 must be a whole number"),
    "a large seed": (lambda: _optimizer(seed=2**64), "seed=18446744073709551616 must be"),
    "a negative seed": (lambda: _optimizer(seed=-1), "seed=-1 must be"),
    "half a seed of many": (lambda: _optimizer(seed=[0, 1.5]), r"seed=1\.5 must be"),
    "a negative snapshot": (lambda: _snapshots(-1), "snapshots=-1 must be"),
    "half a snapshot": (lambda: _snapshots(2, 1.5), r"snapshots=1\.5 must be"),
    "nan in X": (lambda: effective_penalty(torch.tensor([[1.0], [torch.nan]]), lr=0.1, std=1.0), "not finite"),
    "infinity in X": (lambda: effective_penalty(torch.tensor([[1.0], [torch.inf]]), lr=0.1, std=1.0), "not finite"),
    "a negative penalty": (lambda: noise_for_penalty(X, -0.1, lr=0.1), r"penalty=-0\.1 is out of reach"),
    "a penalty of nan": (lambda: noise_for_penalty(X, float("nan"), lr=0.1), "penalty=nan is out of reach"),
    "a negative Lasso": (lambda: weighted_lasso(X, torch.ones(4), -1.0), "must be positive"),
    "pairs of a number": (lambda: Antithetic(5), r"Antithetic\(5\): pairs"),
    "pairs of flips": (lambda: Antithetic(LabelFlips(0.1, 3)), r"Antithetic\(LabelFlips.*: pairs"),
    "pairs of pairs": (lambda: Antithetic(Antithetic(GaussianNoise(1.0))), r"Antithetic\(Antithetic.*: pairs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_name(case):
    call, word = REFUSED[case]
    with pytest.raises(ValueError, match=word) as error:
        call()
    assert "\n" not in str(error.value)


def test_whole_numbers_of_any_kind_are_taken():
    assert _optimizer(seed=np.int64(3)).param_groups[0]["seed"] == 3
    assert _optimizer(seed=2**64 - 1).param_groups[0]["seed"] == 2**64 - 1
    assert [s.step for s in _snapshots(np.int64(2), torch.tensor(3)) if s.scheduled] == [2, 3, 5]


def _step(optimizer):
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()


def test_steps_without_noise_are_told_once():
    optimizer = _optimizer(noise=0.5)
    with pytest.warns(UserWarning, match=r"never perturbed by GaussianNoise\(std=0\.5.*plain SGD"):
        _step(optimizer)
    _step(optimizer)  # warnings are errors


@pytest.mark.parametrize("noise", [0.0, NoNoise(), ParameterNoise(0.1)], ids=str)
def test_nothing_is_told_where_labels_need_no_noise(noise):
    with warnings.catch_warnings(action="error"):
        _step(_optimizer(noise=noise))


def test_nothing_is_told_where_labels_were_perturbed():
    optimizer = _optimizer(noise=0.5)
    for _ in range(2):
        optimizer.perturb(torch.zeros(2))
        _step(optimizer)
    assert optimizer.param_groups[0]["noise_step"] == 2
    _step(optimizer)  # it knows how


def test_an_optimizer_names_its_noise():
    assert "noise: GaussianNoise(std=0.5, schedule=None)" in repr(_optimizer(noise=0.5))
