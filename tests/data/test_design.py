"""design: what theory reads of X is right, whatever X is, and computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from lntrain import Problem, effective_penalty, noise_for_penalty, sparse_regression
from lntrain.data.design import Design
from lntrain.penalty import alpha_max, finite_step_bias, gradient_kurtosis, mean_squares, stable_lr
from lntrain.theory import make_plan
from lntrain.theory.dynamics import Dynamics

X = np.random.default_rng(0).normal(size=(6, 4)) * (np.random.default_rng(1).random((6, 4)) < 0.7)
KINDS = {
    "array": lambda: X,
    "list": lambda: X.tolist(),
    "tensor": lambda: torch.from_numpy(X),
    "csr tensor": lambda: torch.from_numpy(X).to_sparse_csr(),
    "scipy": lambda: csr_array(X),
    "problem": lambda: Problem(X, X.sum(1)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_every_kind_of_x_has_the_same_design(kind):
    design = Design.of(KINDS[kind]())
    assert design.shape == (6, 4)
    torch.testing.assert_close(design.X, torch.from_numpy(X), rtol=0, atol=0)
    torch.testing.assert_close(design.c, torch.from_numpy((X**2).mean(0)))
    torch.testing.assert_close(design.kurtosis, torch.from_numpy((X**4).mean(0) / (X**2).mean(0) ** 2))
    on = torch.tensor([True, False, True, False])
    torch.testing.assert_close(design.gram(on), torch.from_numpy(X.T @ X / 6)[:, on])
    torch.testing.assert_close(design.gram(~on), torch.from_numpy(X.T @ X / 6)[:, ~on])
    dense = design.array.toarray() if hasattr(design.array, "toarray") else design.array
    np.testing.assert_array_equal(dense, X)


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((0, 3)), np.ones((2, 2, 2))])
def test_what_is_no_matrix_is_refused(bad):
    with pytest.raises(ValueError, match=r"X has shape .*: give a matrix \(n, d\)"):
        Design(bad)


def test_formulas_take_a_problem_as_they_take_its_matrix():
    problem = sparse_regression(20, 30, 3, seed=2)
    coef = torch.linspace(-1, 1, 30, dtype=torch.float64)
    for of in (
        lambda X: effective_penalty(X, lr=0.01, std=2.0, batch_size=3),
        lambda X: torch.tensor(noise_for_penalty(X, 0.1, lr=0.01)),
        lambda X: torch.tensor(alpha_max(X, problem.y)),
        lambda X: torch.tensor(stable_lr(X, coef)),
        lambda X: gradient_kurtosis(X, 1.0, 5),
        lambda X: finite_step_bias(X, coef, torch.ones(30), lr=0.01),
        mean_squares,
    ):
        torch.testing.assert_close(of(problem), of(problem.X), rtol=1e-14, atol=0)


def test_a_plan_reads_the_design_of_its_problem(monkeypatch):
    problem, made, check = sparse_regression(seed=1), [], Design.__post_init__

    def count(self):
        made.append(self)
        check(self)

    monkeypatch.setattr(Design, "__post_init__", count)
    make_plan(problem, Dynamics())
    assert sum(design.shape == (40, 100) for design in made) <= 3  # it was a float64 copy a step size
