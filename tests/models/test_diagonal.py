"""model: beta and its gradient in each parametrisation, exact relations between them, replicas, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lntrain import DiagonalLinear, DivergenceError, LabelNoiseSGD, Problem, train
from lntrain.models.diagonal import WEIGHTS, LogNormalInit
from lntrain.penalty.formula import step_factor

PARAMETRISATIONS = list(WEIGHTS)
F64 = torch.float64


def _random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _w_pm(model):
    """The multiplicative weights of theory.md section 2, (m, d)."""
    weights = [w.detach() for w in model.weights]
    if model.parametrisation == "hadamard":
        u, v = weights
        return torch.stack(((u + v) / 2, (u - v) / 2))
    return torch.stack(weights)


BETA = {
    "square": lambda w: w[0] ** 2,
    "difference": lambda w: w[0] ** 2 - w[1] ** 2,
    "hadamard": lambda w: w[0] ** 2 - w[1] ** 2,
}


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_coef_and_forward(parametrisation):
    model = DiagonalLinear(5, parametrisation=parametrisation, init=_random(5, 0).abs() + 0.1)
    with torch.no_grad():
        for k, w in enumerate(model.weights):
            w += _random(5, k + 1) / 10
    expected = BETA[parametrisation](_w_pm(model))
    torch.testing.assert_close(model.coef, expected, rtol=1e-14, atol=1e-15)
    x = _random((7, 5), 9)
    torch.testing.assert_close(model(x), x @ expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(model.log_weights, 2 * _w_pm(model).abs().log(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("loss_constant", [0.25, 0.5, 1.0])
def test_one_step_multiplies_the_weights_by_one_minus_a_lr_g(parametrisation, loss_constant):
    """theory.md section 2: w_pm <- w_pm (1 -/+ a lr g), exactly, with noise in the labels."""
    X, y, lr = _random((6, 4), 0), _random(6, 1), 0.01
    model = DiagonalLinear(4, parametrisation=parametrisation, init=_random(4, 2).abs() + 0.5)
    optimizer = LabelNoiseSGD(model.parameters(), lr=lr, noise=3.0, seed=4)
    before, noisy = _w_pm(model), LabelNoiseSGD(model.parameters(), lr=lr, noise=3.0, seed=4).perturb(y)
    g = X.T @ (X @ model.coef.detach() - noisy) / 6
    list(train(model, optimizer, Problem(X, y), 1, loss_constant=loss_constant, engine="torch"))
    signs = torch.tensor([[1.0], [-1.0]], dtype=F64)[: len(before)]
    a = (1 - _w_pm(model) / before) / (signs * lr * g)
    torch.testing.assert_close(a, torch.full_like(a, step_factor(parametrisation, loss_constant)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_depth_l_is_a_difference_of_powers(depth):
    model = DiagonalLinear(3, depth=depth, init=torch.tensor([0.5, 1.0, 2.0], dtype=F64))
    assert bool((model.coef == 0).all())
    with torch.no_grad():
        model.plus += 0.1
    expected = torch.tensor([0.6, 1.1, 2.1], dtype=F64) ** depth - torch.tensor([0.5, 1.0, 2.0], dtype=F64) ** depth
    torch.testing.assert_close(model.coef.detach(), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    "options",
    [{"sampling": "full"}, {"batch_size": 3}, {"batch_size": 3, "sampling": "noisy_rows"}],
    ids=["full", "replacement", "noisy_rows"],
)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_hadamard_is_the_difference_model_at_half_the_step(options, momentum, problem):
    def coefs(parametrisation, lr):
        model = DiagonalLinear(8, parametrisation=parametrisation, init=0.3)
        optimizer = LabelNoiseSGD(model.parameters(), lr=lr, noise=1.0, momentum=momentum, seed=2)
        run = train(model, optimizer, problem, 100, snapshots=[10, 50], engine="torch", **options)
        return torch.stack([s.coef for s in run if s.scheduled])

    torch.testing.assert_close(coefs("hadamard", 0.004), coefs("difference", 0.002), rtol=1e-12, atol=1e-12)
    assert coefs("hadamard", 0.004).abs().max() > 0.1


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_replicas_equal_the_models_alone(parametrisation):
    init, x = _random((3, 5), 0).abs() + 0.1, _random((3, 7, 5), 1)
    many = DiagonalLinear(5, parametrisation=parametrisation, init=init, replicas=3)
    shared, own = many(x[0]), many(x)
    assert shared.shape == own.shape == (3, 7)
    assert many.log_weights.shape == (3, *DiagonalLinear(5, parametrisation=parametrisation).log_weights.shape)
    for r in range(3):
        alone = DiagonalLinear(5, parametrisation=parametrisation, init=init[r])
        assert torch.equal(many.coef[r], alone.coef)
        # a logarithm may round by its place in a vector
        torch.testing.assert_close(many.log_weights[r], alone.log_weights, rtol=1e-15, atol=1e-15)
        torch.testing.assert_close(shared[r], alone(x[0]), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(own[r], alone(x[r]), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_init_is_the_scale_of_w_pm(parametrisation):
    model = DiagonalLinear(4, parametrisation=parametrisation, init=0.3)
    torch.testing.assert_close(_w_pm(model), torch.full_like(_w_pm(model), 0.3), rtol=1e-15, atol=0)
    assert model.coef.tolist() == pytest.approx([0.3**2 if parametrisation == "square" else 0.0] * 4, abs=1e-17)
    torch.testing.assert_close(model.log_weights, 2 * _w_pm(model).log(), rtol=1e-14, atol=0)


def test_init_may_be_a_scale_a_replica_a_matrix_or_a_distribution():
    per_replica = DiagonalLinear(4, parametrisation="square", init=torch.tensor([1.0, 2.0]), replicas=2)
    assert per_replica.coef.detach()[:, 0].tolist() == [1.0, 4.0]
    draw = LogNormalInit(scale=0.1, spread=0.5, seed=3)
    model = DiagonalLinear(4000, parametrisation="square", init=draw)
    torch.testing.assert_close(model.weights[0].detach(), draw((4000,)))
    logs = (model.weights[0].detach() / 0.1).log()
    assert abs(float(logs.mean())) < 0.5 * 5 / 4000**0.5  # five standard errors
    assert float(logs.std()) == pytest.approx(0.5, rel=5 / 8000**0.5)
    assert not torch.equal(draw((4,)), LogNormalInit(seed=4)((4,)))


@pytest.mark.parametrize(("dtype", "replicas"), list(itertools.product([torch.float32, F64], [None, 2])))
def test_dtype_and_state_dict(dtype, replicas):
    model = DiagonalLinear(3, replicas=replicas, dtype=dtype)
    assert model.coef.dtype == model(torch.ones(2, 3, dtype=dtype)).dtype == dtype
    other = DiagonalLinear(3, init=0.7, replicas=replicas, dtype=dtype)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.log_weights, model.log_weights)
    assert model.log_weights.dtype == F64


def test_a_weight_of_zero_has_a_finite_logarithm():
    model = DiagonalLinear(2)
    with torch.no_grad():
        model.plus.zero_()
    assert bool(torch.isfinite(model.log_weights).all())
    assert model.log_weights[0].max() < -1400


GROUPS = [[0, 3], [4], [2, 1]]


def test_a_group_is_a_number_times_a_vector():
    model = DiagonalLinear(5, groups=GROUPS, init=0.3)
    assert model.parametrisation == "hadamard"
    assert bool((model.coef == 0).all())  # every direction is open from here
    with torch.no_grad():
        model.u.copy_(_random(3, 0))
        model.v.copy_(_random(5, 1))
    u, v = model.weights
    expected = torch.stack([u[0] * v[0], u[2] * v[1], u[2] * v[2], u[0] * v[3], u[1] * v[4]])
    torch.testing.assert_close(model.coef, expected, rtol=1e-15, atol=0)
    sizes = torch.stack([u[[0, 2, 2, 0, 1]].abs(), torch.stack([v[[0, 3]].norm()] * 5)])
    sizes[1, [1, 2, 4]] = torch.stack([v[[1, 2]].norm(), v[[1, 2]].norm(), v[4].abs()])
    torch.testing.assert_close(model.log_weights, 2 * sizes.detach().log(), rtol=1e-13, atol=1e-13)
    by_label = DiagonalLinear(5, groups=torch.tensor([7, 9, 9, 7, 8]), init=0.3)
    assert torch.equal(by_label.groups, model.groups)


def test_a_step_of_a_group_is_u_minus_lr_v_g_and_v_minus_lr_u_g():
    """Ten steps by hand with the optimiser's own noise, two replicas: u' = u - a lr v.g_g, v' = v - a lr u g_g."""
    X, y, lr, labels = _random((6, 5), 0), _random(6, 1), 0.02, [0, 2, 2, 0, 1]
    model = DiagonalLinear(5, groups=GROUPS, init=torch.tensor([[0.3, 0.4, 0.5], [0.6, 0.2, 0.1]]), replicas=2)
    optimizer = LabelNoiseSGD(model.parameters(), lr=lr, noise=3.0, seed=[4, 9])
    twin = LabelNoiseSGD(DiagonalLinear(5, groups=GROUPS, replicas=2).parameters(), lr=lr, noise=3.0, seed=[4, 9])
    u, v = (w.detach().clone() for w in model.weights)
    for _ in range(10):
        noisy = twin.perturb(y.expand(2, -1), replicas=True)
        g = ((u[:, labels] * v) @ X.T - noisy) @ X / 6
        pulls = torch.zeros_like(u).index_add(1, torch.tensor(labels), v * g)
        u, v = u - lr * pulls, v - lr * u[:, labels] * g
        twin.step()
    *_, last = train(model, optimizer, Problem(X, y), 10)
    assert last.engine == "torch"
    torch.testing.assert_close(last.coef, u[:, labels] * v, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "groups",
    [
        [{0, 3}, {1, 2}, {4}],
        [range(0, 4, 3), torch.tensor([1, 2]), np.array([4])],
        ["a", "b", "b", "a", "c"],
        np.array([-2, -1, -1, -2, 0]),
        (group for group in [[0, 3], [1, 2], [4]]),
    ],
    ids=["sets", "arrays", "names", "negative", "generator"],
)
def test_groups_in_any_form_are_the_same_groups(groups):
    assert DiagonalLinear(5, groups=groups).groups.tolist() == [0, 1, 1, 0, 2]


def test_a_grouped_model_is_made_without_memory_first():
    model = DiagonalLinear(5, groups=GROUPS, device="meta")
    assert "groups=3" in repr(model)
    model.to_empty(device="cpu").load_state_dict(DiagonalLinear(5, groups=GROUPS, init=0.3).state_dict())
    assert torch.equal(model.groups, DiagonalLinear(5, groups=GROUPS).groups)


def test_groups_of_one_are_hadamard(problem):
    def coefs(**options):
        model = DiagonalLinear(8, init=0.3, **options)
        optimizer = LabelNoiseSGD(model.parameters(), lr=0.01, noise=1.0, seed=2)
        return torch.stack([s.coef for s in train(model, optimizer, problem, 50, engine="torch")])

    torch.testing.assert_close(coefs(groups=range(8)), coefs(parametrisation="hadamard"), rtol=1e-12, atol=1e-13)


def test_groups_are_kept_in_the_state_and_go_through_resume(problem):
    model = DiagonalLinear(8, groups=[[0, 1, 2], [3, 4, 5, 6, 7]], init=0.3)
    other = DiagonalLinear(8, groups=[[7, 6, 5], [3, 4, 0, 1, 2]], init=0.3)
    optimizer = LabelNoiseSGD(model.parameters(), lr=0.01, noise=1.0)
    first, last = (s for s in train(model, optimizer, problem, 40, snapshots=[20]) if s.scheduled)
    other.load_state_dict(first.state_dict()["model"])
    assert torch.equal(other.coef, first.coef)
    again = LabelNoiseSGD(other.parameters(), lr=0.01, noise=1.0)
    *_, resumed = train(other, again, problem, 40, state=first.state_dict())
    assert torch.equal(resumed.coef, last.coef)
    assert "groups=2" in repr(model)


def test_a_grouped_run_that_diverges_says_so(problem):
    model = DiagonalLinear(8, groups=[0] * 8, init=1.0)
    optimizer = LabelNoiseSGD(model.parameters(), lr=5.0, noise=1.0)
    with pytest.raises(DivergenceError, match="take a smaller lr"):
        list(train(model, optimizer, problem, 500))


def test_the_fused_engine_refuses_groups_by_name(problem):
    model = DiagonalLinear(8, groups=[0] * 8)
    with pytest.raises(ValueError, match="the model has groups"):
        train(model, LabelNoiseSGD(model.parameters(), lr=0.01, noise=1.0), problem, 5, engine="fused")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: DiagonalLinear(3, parametrisation="cube"), "parametrisation='cube'"),
        (lambda: DiagonalLinear(3, depth=1), "depth=1"),
        (lambda: DiagonalLinear(3, depth=3, parametrisation="hadamard"), "depth=3"),
        (lambda: DiagonalLinear(0), "in_features=0"),
        (lambda: DiagonalLinear(3, replicas=0), "replicas=0"),
        (lambda: DiagonalLinear(3, init=0.0), "init must be finite and not zero"),
        (lambda: DiagonalLinear(3, init=float("nan")), "init must be finite"),
        (lambda: DiagonalLinear(3, init=torch.ones(4)), r"init has shape \(4,\)"),
        (lambda: DiagonalLinear(3, groups=[[0, 1], [1, 2]]), "column 1 is in groups 0 and 1"),
        (lambda: DiagonalLinear(3, groups=[[0, 1]]), "groups lack column 2"),
        (lambda: DiagonalLinear(3, groups=[[0, 1], [5]]), r"groups\[1\]=5"),
        (lambda: DiagonalLinear(3, groups=[0, 1]), "2 labels for 3 columns"),
        (lambda: DiagonalLinear(3, groups=[0, None, 1]), r"groups\[1\]=None is no label"),
        (lambda: DiagonalLinear(3, groups=[0.0, float("nan"), float("nan")]), r"groups\[1\]=nan is no label"),
        (lambda: DiagonalLinear(3, groups=3), "groups=3 is no list"),
        (lambda: DiagonalLinear(3, groups="abc"), "groups='abc' is no list"),
        (lambda: DiagonalLinear(2, groups={"a": [0], "b": [1]}), "is no list"),
        (lambda: DiagonalLinear(3, groups=[[[0, 1]], [2]]), r"groups\[0\]=\[0, 1\] must be a whole number"),
        (lambda: DiagonalLinear(3, groups=[slice(0, 3)] * 3), "is no label"),
        (lambda: DiagonalLinear(3, groups=[0, 0, 1], parametrisation="square"), "groups need parametrisation"),
        (lambda: DiagonalLinear(3, groups=[0, 0, 1], depth=3), "depth=3"),
        (lambda: DiagonalLinear(3, groups=[0, 0, 1], init=torch.ones(3)), r"it must broadcast to \(2,\)"),
        (lambda: DiagonalLinear(3)(torch.ones(2, 4, dtype=F64)), "x has 4 columns"),
        (lambda: DiagonalLinear(3)(torch.ones(2, 3)), "x is torch.float32 and the model torch.float64"),
    ],
)
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
