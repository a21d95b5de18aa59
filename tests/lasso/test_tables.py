"""lasso on any table: dependent, nearly dependent and tied columns, by solvers that never start worse than zero."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

from lntrain import weighted_lasso, weighted_lasso_path
from lntrain.lasso import active_sets
from lntrain.lasso import solvers as lasso_solvers
from lntrain.lasso.solve import (
    GAP,
    LassoSolution,
    as_float64,
    duality_gap,
    equicorrelation_set,
    lasso_objective,
    relabelled_lasso,
)


def binary(seed):
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(4, 40)), int(rng.integers(3, 40))
    X = (rng.random((n, d)) < 0.4).astype(float)
    return X[:, X.any(0)], rng


def doubled(seed):
    X, rng = binary(seed)
    X = np.hstack([X, X])
    return X, X[:, :3].sum(1) + 0.3 * rng.standard_normal(len(X))


def complementary(seed):
    X, rng = binary(seed)
    X = np.hstack([X, 1 - X, np.ones((len(X), 1))])
    X = X[:, X.any(0)]
    return X, X[:, :3].sum(1) + 0.3 * rng.standard_normal(len(X))


def near(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((25, 15))
    X = np.hstack([X, X + 1e-9 * rng.standard_normal(X.shape), -X * (1 + 1e-13)])
    return X, X[:, :3].sum(1) + 0.3 * rng.standard_normal(25)


def tied(seed):
    """Whole numbers everywhere: many columns reach their penalty together."""
    X, y = doubled(seed)
    return X, np.round(y)


def constant(seed):
    rng = np.random.default_rng(seed)
    parts = [1 + 1e-12 * rng.standard_normal((30, 3)), 1e-17 * rng.standard_normal((30, 2)), np.ones((30, 1))]
    X = np.hstack([rng.standard_normal((30, 6)), *parts])
    return X, 2 + X[:, 0] + 0.1 * rng.standard_normal(30)


def wide(seed):
    rng = np.random.default_rng(seed)
    X = np.repeat(rng.standard_normal((12, 60)), 8, axis=1) + 0.2 * rng.standard_normal((12, 480))
    return X, X[:, 0] - X[:, 100] + 0.1 * rng.standard_normal(12)


def fields(seed):
    """One-hot fields: the columns of each sum to one."""
    rng = np.random.default_rng(seed)
    X = np.hstack([np.eye(4)[rng.integers(0, 4, 50)] for _ in range(8)])
    return X, X[:, 0] - X[:, 5] + 0.3 * rng.standard_normal(50)


def smooth(seed):
    rng = np.random.default_rng(seed)
    X = rng.random((20, 4)) @ np.exp(-((np.linspace(0, 1, 90) - rng.random((4, 1))) ** 2) / 0.08)
    return X, X[:, 10] + 0.01 * rng.standard_normal(20)


def exact(seed):
    """y in the range of X: at small penalties nearly nothing is left of it."""
    X, _ = doubled(seed)
    return X, X @ np.linspace(-1, 1, X.shape[1])


KINDS = [doubled, complementary, near, tied, constant, wide, fields, smooth, exact]
IDS = [kind.__name__ for kind in KINDS]


def _penalty(X, y, ratio):
    c = (X**2).mean(0)
    return ratio * np.max(np.abs(X.T @ y) / len(y) / c) * c


def _twin(X, y, penalty, positive=False):
    """scikit-learn's, from zero: no certificate asked for, every point bounds the optimum from above."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = Lasso(alpha=1.0, fit_intercept=False, tol=1e-12, max_iter=300, positive=positive).fit(X / penalty, y)
    return found.coef_ / penalty


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_any_table_is_solved_and_its_gap_is_true(kind, positive):
    for seed in range(8):
        X, y = kind(seed)
        for ratio in (0.3, 0.03, 1e-3, 1e-5):
            penalty = _penalty(X, y, ratio)
            solution = weighted_lasso(X, y, penalty, positive=positive)
            assert 0 <= solution.gap <= GAP
            assert not positive or bool((solution.coef >= 0).all())
            F = solution.objective
            assert abs(F / lasso_objective(X, y, penalty, solution.coef) - 1) < 1e-12
            best = lasso_objective(X, y, penalty, _twin(X, y, penalty, positive))
            assert F * (1 - solution.gap) <= best * (1 + 1e-12)  # rounding of two objectives


@pytest.mark.parametrize("seed", [409, *range(60)])
def test_every_column_doubled(seed):
    X, y = doubled(seed)
    penalty = _penalty(X, y, 0.03)
    for shift in (0.0, 1e-17, -1e-17):  # penalties that differ by rounding took different ways
        assert weighted_lasso(X, y, penalty + shift).gap <= GAP


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_labels_move_on_any_table(kind):
    for seed in range(4):
        X, y = kind(seed)
        solutions = [weighted_lasso(X, y, _penalty(X, y, ratio)) for ratio in (0.3, 0.03, 1e-3)]
        changes = (
            np.std(y) * np.array([[1e-3], [0.1], [3.0]]) * np.random.default_rng(seed).standard_normal((3, len(y)))
        )
        moved = relabelled_lasso(X, y, changes, solutions).numpy()
        penalties = np.stack([solution.penalty for solution in solutions])
        assert (duality_gap(X, y + changes, penalties, moved) <= GAP).all()
        for r in range(3):
            cold = weighted_lasso(X, y + changes[r], penalties[r])
            value = lasso_objective(X, y + changes[r], penalties[r], moved[r])
            assert value == pytest.approx(cold.objective, rel=2 * GAP)


def test_labels_that_stay_cost_nothing(monkeypatch):
    X, y = wide(0)
    solution = weighted_lasso(X, y, _penalty(X, y, 0.1))

    def refuse(*_):
        raise AssertionError("solved again")

    monkeypatch.setattr(active_sets, "active_set_lasso", refuse)
    assert torch.equal(relabelled_lasso(X, y, np.zeros((2, 12)), [solution] * 2), solution.coef.expand(2, -1))


def test_a_wide_table_is_solved_on_few_of_its_columns(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 4000))
    y = X[:, :5].sum(1) + 0.3 * rng.standard_normal(40)
    solve, seen = active_sets.active_set_lasso, []
    monkeypatch.setattr(
        active_sets, "active_set_lasso", lambda rows, *rest: seen.append(len(rows)) or solve(rows, *rest)
    )
    solution = weighted_lasso(X, y, _penalty(X, y, 0.1))
    cold = len(seen)
    moved = relabelled_lasso(X, y, 1e-3 * rng.standard_normal((1, 40)), [solution])
    assert bool(moved.any())
    assert max(seen) <= 200  # a pool is 64 columns or twice the support, at most 40, and the support
    assert cold <= 6
    assert len(seen) - cold <= 2


@pytest.mark.parametrize("start", [np.nan, np.inf, 1e300, 1e15, -1e15], ids=str)
@pytest.mark.parametrize("positive", [False, True])
def test_a_start_worse_than_zero_is_dropped(start, positive):
    X, y = doubled(1)
    penalty = _penalty(X, y, 0.1)
    cold = weighted_lasso(X, y, penalty, positive=positive)
    warm = weighted_lasso(X, y, penalty, positive=positive, start=np.full(X.shape[1], start))
    assert torch.equal(cold.coef, warm.coef)


def test_a_solver_gone_astray_is_not_the_next_ones_start(monkeypatch):
    """What an unstable path left, 1e15, warm-started coordinate descent, which never came back."""
    X, y = doubled(2)
    starts = []

    def descend(X, y, penalty, start, *_):
        starts.append(start)
        return lasso_solvers.coordinate_descent(X, y, penalty, start, *_)

    monkeypatch.setattr("lntrain.lasso.solve._solve_by_lars", lambda X, y, penalty, positive: np.full(X.shape[1], 1e15))
    monkeypatch.setattr("lntrain.lasso.solve._solve", descend)
    assert weighted_lasso(X, y, _penalty(X, y, 0.1)).gap <= GAP
    assert not starts[0].any()


@pytest.mark.parametrize("kind", [doubled, fields, wide], ids=["doubled", "fields", "wide"])
def test_a_sparse_table_is_the_dense_one(kind):
    X, y = kind(3)
    penalty = _penalty(X, y, 0.05)
    sparse, dense = (weighted_lasso(matrix, y, penalty) for matrix in (csr_array(X), X))
    assert max(sparse.gap, dense.gap) <= GAP
    assert sparse.objective == pytest.approx(dense.objective, rel=1e-9)


def test_indices_of_64_bits_and_entries_in_parts_are_understood():
    X, y = fields(0)
    whole = csr_array(X)
    halves = csr_array((np.repeat(whole.data / 2, 2), np.repeat(whole.indices, 2), 2 * whole.indptr), shape=X.shape)
    halves.indices, halves.indptr = halves.indices.astype(np.int64), halves.indptr.astype(np.int64)
    path, theirs = (weighted_lasso_path(matrix, y, [0.1, 0.01])[-1] for matrix in (halves, X))
    assert halves.nnz == 2 * whole.nnz  # not changed
    torch.testing.assert_close(path.penalty, theirs.penalty, rtol=1e-12, atol=0)


def test_scikit_learns_descent_takes_what_as_float64_gives():
    X, y = fields(1)
    wide_indices = csr_array(X)
    wide_indices.indices, wide_indices.indptr = (
        part.astype(np.int64) for part in (wide_indices.indices, wide_indices.indptr)
    )
    found = lasso_solvers.coordinate_descent(
        as_float64(wide_indices), y, _penalty(X, y, 0.1), np.zeros(32), False, 1e-9, 999
    )
    assert duality_gap(X, y, _penalty(X, y, 0.1), found) <= GAP


def test_a_gap_is_a_bound_or_says_that_it_is_none():
    X, y = doubled(4)
    penalty, coef = _penalty(X, y, 0.1), np.random.default_rng(0).standard_normal(X.shape[1])
    best = weighted_lasso(X, y, penalty).objective
    for size in (0.0, 1e-8, 1e-3, 1.0, 1e6):
        F = lasso_objective(X, y, penalty, size * coef)
        assert F - best <= duality_gap(X, y, penalty, size * coef) * F
    assert duality_gap(X, y, penalty, -np.abs(coef), positive=True) == np.inf
    assert not duality_gap(X, y, penalty, np.full_like(coef, np.nan)) <= GAP
    F = lasso_objective(X, y, penalty, coef)
    assert duality_gap(X, np.stack([y, y]), penalty, np.stack([coef, 0 * coef]))[0] == duality_gap(X, y, penalty, coef)


def test_the_equicorrelation_set_holds_every_solutions_support():
    for kind in (doubled, complementary, fields, near):
        X, y = kind(5)
        penalty = _penalty(X, y, 0.1)
        solution = weighted_lasso(X, y, penalty)
        allowed = equicorrelation_set(X, y, solution)
        for seed in range(4):
            order = np.random.default_rng(seed).permutation(X.shape[1])
            other = weighted_lasso(X[:, order], y, penalty[order])
            assert bool(allowed[order][other.support].all())
        assert not bool(allowed.all())
    X, y = doubled(5)
    allowed = equicorrelation_set(X, y, weighted_lasso(X, y, _penalty(X, y, 0.1)))
    half = X.shape[1] // 2
    assert torch.equal(allowed[:half], allowed[half:])


def test_the_equicorrelation_set_of_a_rough_solution_is_larger_never_wrong():
    X, y = wide(1)
    penalty = _penalty(X, y, 0.1)
    exact_, rough = weighted_lasso(X, y, penalty), _twin(X, y, penalty) * (1 + 1e-3)
    loose = LassoSolution(torch.from_numpy(rough), 0.0, 0.0, exact_.penalty)
    assert bool(equicorrelation_set(X, y, loose)[exact_.support].all())
    square = weighted_lasso(X, y, penalty, positive=True)
    assert bool(equicorrelation_set(X, y, square)[square.support].all())
    opposed = torch.from_numpy(X.T @ (y - X @ square.coef.numpy())) < 0
    assert not bool(equicorrelation_set(X, y, square)[opposed].any())
