"""lasso: what is no number or does not fit is refused in one line, by every public function."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from lntrain import weighted_lasso, weighted_lasso_path
from lntrain.lasso.solve import closed_form_lasso, duality_gap, equicorrelation_set, lasso_objective, relabelled_lasso

X2, Y2, SIGNS = np.eye(2), np.array([1.0, 2.0]), [1.0, 1.0]
SOLVED = weighted_lasso(X2, Y2, 0.1)
PUBLIC = {
    "weighted_lasso": lambda X, y: weighted_lasso(X, y, 0.1),
    "relabelled_lasso": lambda X, y: relabelled_lasso(X, y, np.ones((1, 2)), [SOLVED]),
    "weighted_lasso_path": lambda X, y: weighted_lasso_path(X, y, [0.1]),
    "closed_form_lasso": lambda X, y: closed_form_lasso(X, y, 0.1, SIGNS),
    "equicorrelation_set": lambda X, y: equicorrelation_set(X, y, SOLVED),
    "lasso_objective": lambda X, y: lasso_objective(X, y, [0.1, 0.1], [0.0, 0.0]),
    "duality_gap": lambda X, y: duality_gap(np.asarray(X), np.asarray(y), np.full(2, 0.1), np.zeros(2)),
}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200], ids=str)
@pytest.mark.parametrize("solve", PUBLIC.values(), ids=PUBLIC)
def test_what_is_no_number_is_refused_where_it_stands(solve, value):
    X, y = X2.copy(), Y2.copy()
    X[0, 1] = y[1] = value
    with pytest.raises(ValueError, match=r"^X\[0, 1\] is .*: drop or fill such rows, or rescale"):
        solve(X, Y2)
    with pytest.raises(ValueError, match=r"^y\[1\] is .*: drop or fill"):
        solve(X2, y)
    if solve is PUBLIC["weighted_lasso"]:
        with pytest.raises(ValueError, match=r"^X is "):
            solve(csr_array(X), Y2)


@pytest.mark.parametrize("solve", PUBLIC.values(), ids=PUBLIC)
def test_shapes_that_do_not_fit_are_one_line(solve):
    for X, y in (
        (X2, [1.0]),
        (X2, [1.0] * 3),
        ([1.0, 2.0], Y2),
        (np.ones((2, 0)), Y2),
        (np.ones((0, 2)), []),
        (np.eye(3), Y2),
    ):
        with pytest.raises(ValueError, match=r"do not fit|has shape|fits|columns") as error:
            solve(X, y)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: weighted_lasso(X2, Y2, 0.1, start=[1.0]), r"start has shape \(1,\): \(2,\) fits"),
        (lambda: weighted_lasso(X2, Y2, 0.1, start=np.ones((1, 2))), r"start has shape \(1, 2\)"),
        (lambda: weighted_lasso(X2, Y2, np.ones((2, 2))), r"penalty has shape \(2, 2\): X has 2 columns"),
        (lambda: relabelled_lasso(X2, Y2, np.ones(2), [SOLVED]), r"changes has shape \(2,\): \(1, 2\) fits"),
        (lambda: relabelled_lasso(X2, Y2, np.ones((2, 2)), [SOLVED]), r"changes has shape \(2, 2\): \(1, 2\) fits"),
        (lambda: relabelled_lasso(np.eye(3)[:2], Y2, np.ones((1, 2)), [SOLVED]), r"coef has shape \(2,\): \(3,\) fits"),
        (lambda: relabelled_lasso(X2, Y2, [[np.nan, 0]], [SOLVED]), r"changes\[0, 0\] is nan"),
        (
            lambda: relabelled_lasso(X2, Y2, np.ones((2, 2)), [SOLVED, weighted_lasso(X2, Y2, 0.1, positive=True)]),
            "in two calls",
        ),
        (lambda: weighted_lasso_path(X2, Y2, 0.1), r"alphas has shape \(\)"),
        (lambda: weighted_lasso_path(X2, Y2, [0.1, np.nan]), r"penalty\[0\]=nan must be positive"),
        (lambda: weighted_lasso_path(X2, Y2, [0.1], weights=[1.0]), r"weights has shape \(1,\)"),
        (lambda: closed_form_lasso(X2, Y2, 0.1, [1.0]), r"signs has shape \(1,\): \(2,\) fits"),
        (lambda: closed_form_lasso(X2, Y2, [0.1] * 3, SIGNS), r"penalty has shape \(3,\)"),
        (lambda: closed_form_lasso(X2, Y2, 0.0, SIGNS), "must be positive"),
        (lambda: closed_form_lasso(X2, Y2, 0.1, [np.nan, 1.0]), r"signs\[0\] is nan"),
        (lambda: duality_gap(X2, Y2, np.full(2, 0.1), np.zeros(3)), "do not fit"),
        (lambda: lasso_objective(X2, Y2, 0.1, [0.0]), r"coef has shape \(1,\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_no_labels_no_moves_no_signs():
    X = (np.random.default_rng(0).random((9, 5)) < 0.4).astype(float)
    X = np.hstack([X, X])
    zero = weighted_lasso(X, np.zeros(len(X)), 0.1)
    assert (zero.objective, zero.gap, bool(zero.support.any())) == (0.0, 0.0, False)
    assert relabelled_lasso(X, np.zeros(len(X)), np.zeros((0, len(X))), []).shape == (0, X.shape[1])
    assert not bool(closed_form_lasso(X2, Y2, 3.0, [0.0, 0.0]).support.any())
    assert not bool(relabelled_lasso(X, np.zeros(len(X)), np.zeros((1, len(X))), [zero]).any())
