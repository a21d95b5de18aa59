"""Fixtures that several test files share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the problems are tiny: threads only add noise to the timing

import pytest
import torch

from lntrain import Problem, sparse_regression


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def problem() -> Problem:
    """n=12, d=8, two true coefficients of either sign, unequal columns and noisy data."""
    return sparse_regression(12, 8, 2, signs="random", noise=0.1, column_scales=(0.5, 2.0), seed=3)
