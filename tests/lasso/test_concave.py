"""stationary_point: closed form in one dimension, brute force in two, a smooth twin, and the certificate itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_array

from lntrain.lasso import Power, stationary_point


def _table(n, d, *, seed=0, noise=0.1, on=4):
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((n, d)) + rng.standard_normal((n, 1))) * rng.uniform(0.3, 3, d)
    coef = np.zeros(d)
    coef[:on] = rng.choice([-1, 1], on) * rng.uniform(0.5, 2, on)
    return X, X @ coef + noise * rng.standard_normal(n)


def _objective(X, y, powers, coef):
    """Of coef (d,), or (m, d)."""
    fit = ((y - coef @ X.T) ** 2).sum(-1) / (2 * len(y))
    return fit + sum((w * np.abs(coef) ** p).sum(-1) for w, p in powers)


def _extra(d, weight, exponent):
    return Power(torch.full((d,), weight, dtype=torch.float64), exponent)


@pytest.mark.parametrize("z", [0.2, 0.9, 1.2, -3.0])
def test_one_column_is_half_thresholding(z):
    """Xu, Chang, Xu, Zhang 2012, in closed form; 0 where there is no other stationary point, |z| <= 3 (w/4)^(2/3)."""
    w = 0.5
    found = float(stationary_point([[1.0]], [z], w, 0.5).coef)
    if abs(z) <= 3 * (w / 4) ** (2 / 3):
        assert found == 0
        return
    angle = np.arccos(w / 4 * (abs(z) / 3) ** -1.5)
    assert found == pytest.approx(2 / 3 * z * (1 + np.cos(2 * np.pi / 3 - 2 * angle / 3)), rel=1e-12)


@pytest.mark.parametrize(("q", "terms"), [(0.5, ()), (2 / 3, ()), (0.5, (1.5,)), (0.5, (1.0,))])
def test_two_columns_against_brute_force(q, terms):
    """The best point over a few starts is the least of a fine grid; each is a minimum of its surroundings."""
    X, y = _table(30, 2, on=2, noise=0.3)
    powers = [(0.3, q), *((0.2, p) for p in terms)]
    extra = [_extra(2, 0.2, p) for p in terms]
    side = np.linspace(-3, 3, 301)  # holds 0
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    values = _objective(X, y, powers, grid)
    starts = grid[:: len(grid) // 40]
    found = [stationary_point(X, y, 0.3, q, terms=extra, start=start) for start in starts]
    best = min(found, key=lambda point: point.objective)
    assert best.objective <= values.min()
    assert np.abs(best.coef.numpy() - grid[values.argmin()]).max() <= 0.03
    turn = np.linspace(0, 2 * np.pi, 32)
    for point in found:
        coef = point.coef.numpy()
        assert point.objective == pytest.approx(_objective(X, y, powers, coef), rel=1e-12)
        around = coef + 1e-4 * np.stack([np.cos(turn), np.sin(turn)], -1)
        assert (_objective(X, y, powers, around) > point.objective).all()


@pytest.mark.parametrize("shape", [(60, 12), (20, 40)])
@pytest.mark.parametrize(("q", "terms"), [(0.5, ()), (2 / 3, (4 / 3,)), (0.5, (1.0,))])
def test_a_smooth_twin_finds_the_same_point(shape, q, terms):
    """beta = sign u^4 on the support makes |beta|^q smooth: BFGS from beside the point comes back to it."""
    X, y = _table(*shape)
    weights = 0.05 * np.sqrt((X**2).mean(0))
    found = stationary_point(X, y, weights, q, terms=[_extra(shape[1], 0.1, p) for p in terms])
    on = found.support.numpy()
    sign = np.sign(found.coef.numpy()[on])
    powers = [(weights[on], q), *((0.1, p) for p in terms)]

    def value(u):
        beta = sign * u**4
        slope = X[:, on].T @ (X[:, on] @ beta - y) / len(y)
        bend = sum(w * 4 * p * np.abs(u) ** (4 * p - 1) * np.sign(u) for w, p in powers)
        return _objective(X[:, on], y, powers, beta), slope * sign * 4 * u**3 + bend

    rng = np.random.default_rng(1)
    begin = np.abs(found.coef.numpy()[on]) ** 0.25 * (1 + 0.02 * rng.standard_normal(on.sum()))
    twin = minimize(value, begin, jac=True, method="BFGS", options={"gtol": 1e-10})
    np.testing.assert_allclose(sign * twin.x**4, found.coef.numpy()[on], rtol=1e-6, atol=1e-8)
    assert found.residual <= 1e-8
    assert found.minimum
    assert 2 <= on.sum() < min(shape)


def test_equal_columns_share_nothing():
    """A coefficient split over equal columns is a saddle: one of them takes it, from any start."""
    X, y = _table(30, 6)
    X[:, 1] = X[:, 0]
    apart = stationary_point(np.delete(X, 1, 1), y, 0.05, 0.5)
    for start in (None, np.full(6, 0.5), -np.ones(6)):
        found = stationary_point(X, y, 0.05, 0.5, start=start)
        assert int(found.support[:2].sum()) == 1
        assert found.objective == pytest.approx(apart.objective, rel=1e-9)


def test_a_saddle_is_left():
    """Equal halves of equal columns are stationary: from exactly there, one of them takes all."""
    half = float(stationary_point([[2.0]], [2.0], 2 * 0.1, 0.5).coef)
    found = stationary_point([[1.0, 1.0]], [2.0], 0.1, 0.5, start=[half, half])
    assert sorted(found.coef.tolist()) == pytest.approx([0, float(stationary_point([[1.0]], [2.0], 0.1, 0.5).coef)])
    assert found.minimum
    near = stationary_point([[1.0, 1.0]], [2.0], 0.1, 0.5, start=[1.1 * half, 0.9 * half], nearest=True)
    assert near.coef.tolist() == pytest.approx([half, half])
    assert not near.minimum
    assert near.residual <= 1e-8
    far = stationary_point([[1.0, 1.0]], [2.0], 0.1, 0.5, start=[100.0, 1e-9], nearest=True)
    assert far.minimum


def test_a_start_counts_and_its_zeros_stay():
    X, y = _table(30, 6)
    assert int(stationary_point(X, y, 0.01, 0.5, start=np.zeros(6)).support.sum()) == 0
    only = stationary_point(X, y, 0.01, 0.5, start=[1.0, 0, 0, 0, 0, 0])
    assert only.support.tolist() == [True] + 5 * [False]
    best = stationary_point(X, y, 0.01, 0.5)
    assert best.objective < only.objective
    again = stationary_point(X, y, 0.01, 0.5, start=best.coef)
    torch.testing.assert_close(again.coef, best.coef, rtol=1e-8, atol=0)


def test_units_of_the_columns_do_not_matter():
    X, y = _table(40, 8)
    scale = 10.0 ** np.arange(-4, 4)
    weights = 0.1 * np.sqrt((X**2).mean(0))
    plain, scaled = (
        stationary_point(X * s, y, weights * s**0.5, 0.5, terms=[Power(torch.from_numpy(weights * s**1.5), 1.5)])
        for s in (1.0, scale)
    )
    np.testing.assert_allclose(scaled.coef.numpy() * scale, plain.coef.numpy(), rtol=1e-6)
    assert scaled.curvature == pytest.approx(plain.curvature, rel=1e-6)


def test_a_sparse_table_and_a_sign():
    X, y = _table(30, 8)
    X[np.abs(X) < 0.5] = 0.0
    extra = [_extra(8, 0.02, 1.5)]
    dense, sparse = (stationary_point(A, y, 0.05, 0.5, terms=extra) for A in (X, csr_array(X)))
    torch.testing.assert_close(dense.coef, sparse.coef, rtol=1e-7, atol=0)
    found = stationary_point(X, y, 0.05, 0.5, positive=True)
    assert bool((found.coef >= 0).all())
    assert found.positive
    assert 0 < int(found.support.sum()) < int(dense.support.sum())
    assert not stationary_point(X, 0 * y, 0.05, 0.5).coef.any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exponent": 1.0}, "exponent=1.0 must lie between 0 and 1"),
        ({"weights": 0.0}, r"penalty\[0\]=0 must be positive"),
        ({"terms": [_extra(6, 1.0, 0.5)]}, "no penalty"),
        ({"terms": [_extra(5, 1.0, 1.5)]}, "no penalty"),
        ({"start": np.ones(5)}, r"start has shape \(5,\)"),
        ({"start": np.full(6, np.nan)}, r"start\[0\] is nan"),
        ({"exponent": "half"}, "exponent='half' must be a finite number"),
        ({"terms": Power(0.1, 1.5)}, "no penalty"),
        ({"terms": [(np.ones(6), 1.5)]}, "no penalty"),
        ({"terms": [_extra(6, np.inf, 1.5)]}, "no penalty"),
    ],
)
def test_what_is_no_such_problem_is_refused(options, says):
    X, y = _table(30, 6)
    with pytest.raises(ValueError, match=says) as error:
        stationary_point(X, y, **{"weights": 0.1, "exponent": 0.5, **options})
    assert "\n" not in str(error.value)


def test_a_column_of_zeros_has_no_coefficient():
    X, y = _table(30, 6)
    X[:, 2] = 0.0
    start = np.where(np.arange(6) == 2, 1.0, stationary_point(X, y, 0.05, 0.5).coef)
    for nearest in (False, True):
        found = stationary_point(X, y, 0.05, 0.5, start=start, nearest=nearest)
        assert found.coef[2] == 0
        assert found.support.any()


def test_terms_are_given_as_lists_too():
    X, y = _table(30, 6)
    first, second = (
        stationary_point(X, y, 0.05, 0.5, terms=[Power(w, 1.5)]) for w in ([0.1] * 6, torch.full((6,), 0.1))
    )
    torch.testing.assert_close(first.coef, second.coef, rtol=1e-6, atol=0)
