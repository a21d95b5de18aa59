"""group lasso: exact identities, a proximal-gradient twin, its own certificate, and tables that are badly made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from lntrain import weighted_lasso
from lntrain.lasso.groups import group_duality_gap, group_lasso

SIZES = {"unequal": (3, 1, 4, 2), "ones": (1,) * 6, "one group": (5,)}


def _table(n, sizes, seed=0, noise=0.3):
    """Columns of unequal scales, correlated within a group; labels; the penalty that leaves about half the groups."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    X = (rng.standard_normal((n, len(labels))) + rng.standard_normal((n, len(sizes)))[:, labels]) * rng.uniform(
        0.3, 2.0, len(labels)
    )
    y = X @ (rng.standard_normal(len(labels)) * (labels % 2 == 0)) + noise * rng.standard_normal(n)
    return X, y, labels


def _blocks(X, labels):
    return [np.flatnonzero(labels == g) for g in range(labels.max() + 1)]


def _largest(X, y, labels):
    """The smallest penalty at which all groups are zero: max_g ||P_g y|| / sqrt(n), P_g the projection on X_g."""
    fits = [X[:, b] @ np.linalg.lstsq(X[:, b], y, rcond=None)[0] for b in _blocks(X, labels)]
    return max(np.linalg.norm(fit) for fit in fits) / np.sqrt(len(y))


def _proximal(X, y, penalty, labels, metric=None, steps=20_000):
    """FISTA with restarts on Cholesky-whitened groups: beta, for blocks of full rank."""
    n, blocks = len(y), _blocks(X, labels)
    kept = [X[:, b].T @ X[:, b] / n for b in blocks] if metric is None else metric
    roots = [np.linalg.inv(np.linalg.cholesky(K)).T for K in kept]
    A = np.hstack([X[:, b] @ root for b, root in zip(blocks, roots, strict=True)])
    own = np.concatenate([np.full(len(b), g) for g, b in enumerate(blocks)])
    step = n / np.linalg.norm(A, 2) ** 2
    z = ahead = np.zeros(A.shape[1])
    t = 1.0
    for _ in range(steps):
        new = ahead - step * A.T @ (A @ ahead - y) / n
        sizes = np.sqrt(np.bincount(own, new**2))
        new = new * np.maximum(1 - step * penalty / np.maximum(sizes, 1e-300), 0.0)[own]
        if (ahead - new) @ (new - z) > 0:
            t = 1.0
        grown = (1 + np.sqrt(1 + 4 * t * t)) / 2
        ahead, z, t = new + (t - 1) / grown * (new - z), new, grown
    beta = np.zeros(X.shape[1])
    for g, b in enumerate(blocks):
        beta[b] = roots[g] @ z[own == g]
    return beta


@pytest.mark.parametrize("n", [8, 60])
@pytest.mark.parametrize("positions", ["sorted", "mixed"])
def test_groups_of_one_are_the_weighted_lasso(n, positions):
    X, y, _ = _table(n, SIZES["ones"], seed=1)
    lam = np.linspace(0.02, 0.2, 6)
    order = np.arange(6) if positions == "sorted" else np.array([3, 0, 5, 1, 4, 2])
    found = group_lasso(X, y, lam[order], [[j] for j in order])
    lasso = weighted_lasso(X, y, lam * np.sqrt((X**2).mean(0)))
    torch.testing.assert_close(found.coef, lasso.coef, rtol=1e-8, atol=1e-10)
    assert found.objective == pytest.approx(lasso.objective, rel=1e-12)


def test_an_orthonormal_group_is_thresholded_as_a_block():
    """C_g = I, n = 8: beta_g = (1 - lambda/||b_g||)_+ b_g, b the least squares solution."""
    X = np.linalg.qr(np.random.default_rng(2).standard_normal((8, 6)))[0] * np.sqrt(8)
    y = X @ np.array([1.0, -2.0, 0.5, 0.1, 0.2, 1.0]) + np.random.default_rng(3).standard_normal(8)
    b, labels, lam = X.T @ y / 8, np.array([0, 1, 0, 1, 2, 2]), np.array([0.3, 0.5, 9.0])
    found = group_lasso(X, y, lam, labels)
    sizes = np.sqrt(np.bincount(labels, b**2))
    expected = b * np.maximum(1 - lam / sizes, 0)[labels]
    np.testing.assert_allclose(found.coef, expected, rtol=1e-12, atol=1e-14)
    assert found.active.tolist() == [True, True, False]


@pytest.mark.parametrize("n", [6, 40], ids="n={}".format)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("share", [0.5, 0.02])
def test_a_proximal_gradient_twin_agrees(n, sizes, share):
    X, y, labels = _table(n, SIZES[sizes])
    lam = share * _largest(X, y, labels) * np.linspace(1, 2, labels.max() + 1)
    found, twin = group_lasso(X, y, lam, labels), _proximal(X, y, lam, labels)
    np.testing.assert_allclose(X @ found.coef.numpy(), X @ twin, rtol=1e-5, atol=1e-6)
    assert found.gap <= 1e-12
    assert group_duality_gap(X, y, lam, labels, twin) < 1e-7
    assert found.gap == pytest.approx(group_duality_gap(X, y, lam, labels, found.coef), abs=1e-12)


def test_a_metric_of_ones_own():
    """Unequal curvature in a block: no closed form. The identity is Yuan and Lin's group lasso of raw columns."""
    X, y, labels = _table(30, SIZES["unequal"], seed=4)
    rng = np.random.default_rng(5)
    spread = [rng.standard_normal((len(b), 9)) for b in _blocks(X, labels)]
    for metric in ([np.eye(len(b)) for b in _blocks(X, labels)], [A @ A.T for A in spread]):
        found = group_lasso(X, y, 0.3, labels, metric=metric)
        twin = _proximal(X, y, np.full(4, 0.3), labels, metric)
        np.testing.assert_allclose(found.coef, twin, rtol=1e-6, atol=1e-8)
    own = [X[:, b].T @ X[:, b] / 30 for b in _blocks(X, labels)]
    plain = group_lasso(X, y, 0.3, labels)
    torch.testing.assert_close(group_lasso(X, y, 0.3, labels, metric=own).coef, plain.coef, rtol=1e-9, atol=1e-12)


def test_one_block_is_the_root_of_its_secular_equation():
    """min (1/2) q.z^2 - s.z + lambda ||z||, by bisection on ||z||."""
    s, q, lam = np.array([3.0, -1.0, 0.2]), np.array([0.01, 1.0, 50.0]), 0.7
    nu = brentq(lambda nu: np.sum((s / (q * nu + lam)) ** 2) - 1, 1e-6, 1e6, xtol=1e-12)
    X, y = np.diag(np.sqrt(3 * q)), np.sqrt(3) * s / np.sqrt(q)  # X^T X / n = diag q, X^T y / n = s
    found = group_lasso(X, y, lam, [[0, 1, 2]], metric=[np.eye(3)])
    np.testing.assert_allclose(found.coef, s * nu / (q * nu + lam), rtol=1e-8)


def test_at_the_largest_penalty_nothing_is_left():
    X, y, labels = _table(20, SIZES["unequal"])
    top = _largest(X, y, labels)
    assert not group_lasso(X, y, top * 1.000001, labels).active.any()
    assert group_lasso(X, y, top * 0.999, labels).active.sum() == 1


def test_equal_columns_in_a_group_share_and_the_rank_says_so():
    X, y, labels = _table(15, (2, 3), seed=6)
    twice = np.hstack([X, X[:, 2:3], np.zeros((15, 1))])
    found = group_lasso(twice, y, 0.1, [[0, 1], [2, 3, 4, 5, 6]])
    plain = group_lasso(X, y, 0.1, labels)
    assert found.ranks.tolist() == [2, 3]
    assert found.objective == pytest.approx(plain.objective, rel=1e-12)
    np.testing.assert_allclose(twice @ found.coef.numpy(), X @ plain.coef.numpy(), rtol=1e-9, atol=1e-10)
    assert found.coef[2] == pytest.approx(float(found.coef[5]), rel=1e-9)  # of least norm: equal shares
    assert found.coef[6] == 0


def test_equal_columns_in_two_groups_have_one_fit():
    X, y, _ = _table(15, (2, 2), seed=7)
    found = group_lasso(np.hstack([X, X]), y, 0.1, [[0, 1], [2, 3], [4, 5], [6, 7]])
    plain = group_lasso(X, y, 0.1, [[0, 1], [2, 3]])
    assert found.gap <= 1e-9
    assert found.objective == pytest.approx(plain.objective, rel=1e-9)


def test_the_second_of_two_equal_groups_is_exactly_zero():
    X, y, _ = _table(20, (5,), seed=3, noise=0.0)
    found = group_lasso(np.hstack([X, X]), y, 1e-3, [range(5), range(5, 10)])
    sizes = [float(found.coef[:5].norm()), float(found.coef[5:].norm())]
    assert max(sizes) > 0.1
    assert all(size == 0 or size > 1e-6 for size in sizes)  # shared or not, nothing is rounding


@pytest.mark.parametrize("small", [1e-4, 1e-9])
def test_nearly_dependent_columns_and_scales_far_apart(small):
    X, y, labels = _table(25, (3, 2), seed=8)
    X[:, 1] = X[:, 0] + small * X[:, 1]
    X[:, 4] *= 1e-6
    found, scaled = group_lasso(X, y, 0.05, labels), group_lasso(X / [1, 1, 1, 1, 1e-6], y, 0.05, labels)
    assert max(found.gap, scaled.gap) <= 1e-9
    assert found.objective == pytest.approx(scaled.objective, rel=1e-9)  # standardised: scales do not matter


def test_a_small_penalty_with_more_columns_than_rows():
    X, y, labels = _table(10, (5,) * 12, seed=9)
    found = group_lasso(X, y, 1e-4 * _largest(X, y, labels), labels)
    assert found.gap <= 1e-6
    assert 0 < found.active.sum() < 12


def test_a_warm_start_ends_at_the_same():
    X, y, labels = _table(20, SIZES["unequal"], seed=10)
    cold = group_lasso(X, y, 0.1, labels)
    warm = group_lasso(X, y, 0.1, labels, start=cold.coef + 0.1)
    torch.testing.assert_close(warm.coef, cold.coef, rtol=1e-6, atol=1e-8)


def test_the_gap_is_above_zero_away_from_the_solution():
    X, y, labels = _table(20, SIZES["unequal"], seed=11)
    found = group_lasso(X, y, 0.2, labels)
    moved = found.coef + 0.01
    gap = group_duality_gap(X, y, 0.2, labels, moved)
    residual = y - X @ moved.numpy()
    sizes = [np.linalg.norm(X[:, b] @ moved[b].numpy()) / np.sqrt(20) for b in _blocks(X, labels)]
    objective = residual @ residual / 40 + 0.2 * sum(sizes)
    assert gap * objective >= objective - found.objective > 1e-5
    share = 0.2 / _largest(X, y, labels)  # at zero the residual is y, and the dual point y scaled by this
    assert group_duality_gap(X, y, 0.2, labels, np.zeros(10)) == pytest.approx((1 - share) ** 2, rel=1e-10)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda X, y: group_lasso(X, y, 0.1, [[0, 1], [1, 2]]), "column 1 is in groups 0 and 1"),
        (lambda X, y: group_lasso(X, y, 0.1, [[0], [2]]), "groups lack column 1"),
        (lambda X, y: group_lasso(X, y, 0.1, [[0, 1], [2, 3]]), r"groups\[1\]=3"),
        (lambda X, y: group_lasso(X, y, 0.1, [[0, 1], [], [2]]), r"groups\[1\] is empty"),
        (lambda X, y: group_lasso(X, y, 0.1, [0, 1]), "2 labels for 3 columns"),
        (lambda X, y: group_lasso(X, y, [0.1, 0.2], [0, 0, 0]), r"penalty has shape \(2,\)"),
        (lambda X, y: group_lasso(X, y, 0.0, [0, 0, 0]), "must be positive"),
        (lambda X, y: group_lasso(X * np.nan, y, 0.1, [0, 0, 0]), "X.0, 0. is nan"),
        (lambda X, y: group_lasso(X, y, 0.1, [0, 0, 0], metric=[]), "metric holds 0 matrices"),
        (lambda X, y: group_lasso(X, y, 0.1, [0, 0, 0], metric=3), "metric holds 0 matrices"),
        (lambda X, y: group_lasso(X, y, 0.1, [0, 0, 0], start=np.full(3, np.nan)), r"start\[0\] is nan"),
        (lambda X, y: group_lasso(X, y, 0.1, [0, 0, 0], metric=[np.zeros((3, 3))]), "zero in a direction that X has"),
        (lambda X, y: group_lasso(X, y, 0.1, [0, 0, 0], metric=[-np.eye(3)]), "not symmetric and positive"),
        (lambda X, y: group_lasso(X, y, 0.1, [0, 0, 0], metric=[np.eye(2)]), r"metric\[0\] has shape"),
    ],
)
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call(np.arange(12.0).reshape(4, 3) ** 0.5, np.ones(4))
    assert "\n" not in str(error.value)
