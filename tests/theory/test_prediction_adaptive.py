"""predict and evaluate for Adam, AdamW and RMSprop: what is read from them, what is refused, what is said of a run."""

from __future__ import annotations

import math

import pytest
import torch

from lntrain import Antithetic, DiagonalLinear, GaussianNoise, Problem, evaluate, predict, sparse_regression, train
from lntrain.lasso import stationary_point
from lntrain.noise import PowerDecay
from lntrain.training import stationary

PROBLEM = sparse_regression(20, 12, 3, signs="random", column_scales=(0.5, 2.0), seed=4)
LR, STD = 0.01, 2.0


def _pair(kind="Adam", *, parametrisation="difference", depth=2, init=0.5, replicas=None, lr=LR, **options):
    model = DiagonalLinear(PROBLEM.d, parametrisation=parametrisation, depth=depth, init=init, replicas=replicas)
    return model, getattr(torch.optim, kind)(model.parameters(), lr=lr, **options)


def _predict(*args, noise=STD, problem=PROBLEM, batch_size=None, sampling=None, loss_constant=0.5, **options):
    told = {"noise": noise, "batch_size": batch_size, "sampling": sampling, "loss_constant": loss_constant}
    return predict(*_pair(*args, **options), problem, **told)


def _sd(rows=PROBLEM.n):
    return STD * (PROBLEM.X.square().mean(0) / rows).sqrt()


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "RMSprop"])
@pytest.mark.parametrize("parametrisation", ["difference", "square", "hadamard"])
@pytest.mark.parametrize(("depth", "factor"), [(2, 1.0), (3, 1.5)])
def test_the_penalty_is_the_formula(kind, parametrisation, depth, factor):
    if depth > 2 and parametrisation != "difference":
        return
    found = _predict(kind, parametrisation=parametrisation, depth=depth, batch_size=8)
    torch.testing.assert_close(found.weights, factor * LR * _sd(8), rtol=1e-12, atol=0)
    assert found.exponent == 1 - 1 / depth
    own = stationary_point(
        PROBLEM.X, PROBLEM.y, found.weights, found.exponent, terms=found.terms, positive=parametrisation == "square"
    )
    torch.testing.assert_close(found.reference.coef, own.coef, rtol=1e-9, atol=0)
    assert found.reference.minimum
    assert found.memory.shape == found.bias.shape == (PROBLEM.d,)
    assert math.isnan(found.stable_lr)
    assert any("rows drawn in batches" in note for note in found.notes)
    with pytest.raises(ValueError, match="no Lasso's"):
        _ = found.penalty
    with pytest.raises(ValueError, match="no distance is predicted"):
        found.expected_distance(1000)


@pytest.mark.parametrize(
    ("kind", "options", "told", "weight", "exponent"),
    [
        ("AdamW", {"weight_decay": 0.1}, {}, 0.1 * _sd() / 1.5, 1.5),
        ("AdamW", {"weight_decay": 0.1, "depth": 3}, {}, 0.1 * _sd() * 3 / 4, 4 / 3),
        ("AdamW", {"weight_decay": 0.1, "parametrisation": "hadamard"}, {"loss_constant": 1.0}, 0.1 * _sd() / 1.5, 1.5),
        ("Adam", {"weight_decay": 0.1}, {}, 0.05, 1.0),
        ("Adam", {"weight_decay": 0.1, "parametrisation": "hadamard"}, {"loss_constant": 1.0}, 0.05, 1.0),
        ("RMSprop", {"weight_decay": 0.1, "parametrisation": "square"}, {"loss_constant": 0.25}, 0.1, 1.0),
    ],
)
def test_decay_is_a_term(kind, options, told, weight, exponent):
    """Decoupled s_j wd |beta|^(1+1/L) / (1+1/L), whatever the loss constant; in the gradient wd / a, as for SGD."""
    found = _predict(kind, **options, **told)
    (term,) = found.terms
    torch.testing.assert_close(
        term.weights, torch.as_tensor(weight, dtype=torch.float64).expand(PROBLEM.d), rtol=1e-12, atol=0
    )
    assert term.exponent == exponent
    balance = PROBLEM.X.T @ (PROBLEM.X @ found.reference.coef - PROBLEM.y) / PROBLEM.n
    slope = found.weights * found.exponent * found.reference.coef.abs() ** (found.exponent - 1)
    on = found.reference.support
    expected = -torch.sign(found.reference.coef) * (slope + term.slope(found.reference.coef))
    torch.testing.assert_close(balance[on], expected[on], rtol=1e-6, atol=0)
    assert not _predict(kind, **{**options, "weight_decay": 0.0}).terms


def test_the_factors_act_where_the_run_is():
    found = _predict("Adam", betas=(0.5, 0.99), weight_decay=0.1)
    coef = found.reference.coef
    acting, decay = found.powers_at(coef)
    torch.testing.assert_close(acting.weights, found.weights * found.memory * (1 + found.bias), rtol=1e-12, atol=0)
    torch.testing.assert_close(decay.weights, found.terms[0].weights, rtol=0, atol=0)  # divided by sqrt v on both sides
    assert float(found.memory.min()) < 0.95
    decoupled = _predict("AdamW", betas=(0.0, 0.999), weight_decay=0.1)
    on = decoupled.reference.support
    grown = decoupled.powers_at(decoupled.reference.coef)[1].weights / decoupled.terms[0].weights
    torch.testing.assert_close(grown[on], 1 + decoupled.bias[on], rtol=1e-12, atol=0)  # q / 2, without beta1


def test_what_is_left_out_is_a_note():
    def notes(*args, **options):
        return "\n".join(_predict(*args, **options).notes)

    plain = notes(betas=(0.0, 0.99999), lr=1e-3)
    assert plain.count("\n") == 1  # every note of a quiet case
    assert "not convex" in plain
    assert plain.endswith("bursts of some lr, |beta| near 1e-06")
    assert "with beta1=0.5 these take" in notes(betas=(0.5, 0.999))
    assert "beta2=0.99, leaves 0." in notes(betas=(0.0, 0.99))
    assert "finite step and beta1=0.9 change the penalty by up to -" in notes(lr=0.02)
    assert "eps=0.01 is" in notes(eps=0.01)
    assert "|u| and |v| become equal" in notes(parametrisation="hadamard")
    assert "depth above 2" in notes(depth=3)
    assert "rows drawn in batches" in notes(batch_size=4)
    assert "rows drawn in batches" not in notes(batch_size=4, sampling="noisy_rows")
    assert "schedule" in notes(noise=GaussianNoise(STD, PowerDecay()))
    assert "the reference is 0" in notes(noise=1e4)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("Adam", {"amsgrad": True}, "for Adam with amsgrad=True"),
        ("AdamW", {"maximize": True}, "for AdamW with maximize=True"),
        ("RMSprop", {"centered": True}, "for RMSprop with centered=True"),
        ("RMSprop", {"momentum": 0.9}, "for RMSprop with momentum=0.9"),
        ("RMSprop", {"alpha": 0.5}, "beta2=0.5 is too small"),
        ("Adam", {"betas": (0.9, 0.9), "lr": 1e-3}, "beta2=0.9 is too small"),
        ("Adam", {"weight_decay": 0.1, "depth": 3}, "weight_decay=0.1 in the gradient at depth 3"),
        ("Adam", {"noise": None}, "noise is NoNoise"),
        ("Adam", {"noise": Antithetic(GaussianNoise(1.0))}, "antithetic pairs"),
        ("Adam", {"noise": GaussianNoise((1.0, 2.0))}, "std is one a replica"),
        ("Adam", {"loss_constant": 0.0}, "loss_constant=0.0"),
        ("Adam", {"lr": 0.0}, "lr=0 must be positive"),
        ("RMSprop", {"alpha": 1.0}, "alpha=1: v is never renewed"),
        ("Adagrad", {}, "for Adagrad"),
        ("NAdam", {}, "for NAdam"),
    ],
)
def test_what_cannot_be_predicted_is_refused_by_name(kind, options, says):
    with pytest.raises(ValueError, match=says) as error:
        _predict(kind, **options)
    assert "\n" not in str(error.value)


def test_groups_of_different_options_are_refused():
    model = DiagonalLinear(PROBLEM.d)
    groups = [{"params": [model.plus], "betas": (0.5, 0.999)}, {"params": [model.minus]}]
    with pytest.raises(ValueError, match="groups of different options"):
        predict(model, torch.optim.Adam(groups), PROBLEM, noise=1.0)


def test_the_beta2_that_a_refusal_names_is_enough():
    with pytest.raises(ValueError, match="too small") as error:
        _predict("RMSprop", alpha=0.5)
    named = float(str(error.value).split("; take ")[1].split(",")[0])
    assert float(_predict("RMSprop", alpha=named).memory.min()) > 0.9


@pytest.mark.parametrize("lr", [1e-3, 1e-6])
def test_a_small_lr_asks_for_a_beta2_that_is_no_one(lr):
    with pytest.raises(ValueError, match="too small") as error:
        _predict("RMSprop", lr=lr, noise=2.0 * 1e-2 / lr, alpha=0.5)
    assert 0.99 < float(str(error.value).split("; take ")[1].split(",")[0]) < 1


def test_where_no_point_is_certified_figures_are_nan_and_no_error(monkeypatch):
    def uncertified(*args, **options):
        raise RuntimeError("a stationary point was found to a KKT residual of 1.9e-05")

    model, optimizer = _pair()
    found = predict(model, optimizer, PROBLEM, noise=STD)
    *_, last = train(model, optimizer, PROBLEM, 40, noise=STD, snapshots=[40])
    assert math.isfinite(evaluate(PROBLEM, last, found)["kkt_residual"])
    monkeypatch.setattr(stationary, "stationary_point", uncertified)
    row = evaluate(PROBLEM, last, found)
    lost = ("kkt_residual", "penalty_ratio", "support_size", "at_minimum", "distance_compensated", "distance_mean")
    assert all(math.isnan(row[name]) for name in lost)
    assert row["train_loss"] > 0


def test_a_penalty_beside_a_prediction_of_another_kind_is_refused():
    model, optimizer = _pair()
    found = predict(model, optimizer, PROBLEM, noise=STD)
    *_, last = train(model, optimizer, PROBLEM, 4, noise=STD)
    with pytest.raises(ValueError, match="a StationaryPoint carries its own"):
        evaluate(PROBLEM, last, found, penalty=0.1)


def test_a_shared_coefficient_may_be_a_minimum_under_decay():
    """AdamW's |beta|^(3/2) is convex: two equal columns that share a coefficient may be at a minimum."""
    twins = Problem(PROBLEM.X[:, [0, 0, 1]], PROBLEM.X[:, 0] * 3)
    for kind, decay, minimum in (("Adam", 0.0, False), ("Adam", 0.01, False), ("AdamW", 0.01, True)):
        model = DiagonalLinear(3)
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=LR, weight_decay=decay)
        found = predict(model, optimizer, twins, noise=STD)
        first, *terms = found.powers_at(torch.tensor([1.5, 1.5, 0.0], dtype=torch.float64))
        shared = stationary_point(
            twins.X, twins.y, first.weights, 0.5, terms=terms, start=[1.5, 1.5, 0.0], nearest=True
        )
        assert shared.coef[0] == pytest.approx(float(shared.coef[1]), rel=1e-6)
        assert shared.minimum == minimum
        assert any(("a minimum" in note) == minimum for note in found.notes if "proportional" in note)


def test_evaluate_speaks_of_the_stationary_point_below_the_runs_mean():
    model, optimizer = _pair("RMSprop", lr=0.02, alpha=0.999, replicas=2)
    found = predict(model, optimizer, PROBLEM, noise=STD)
    *_, last = train(model, optimizer, PROBLEM, 1500, noise=STD, snapshots=[1500])
    row = evaluate(PROBLEM, last, found)
    assert not [key for key in row if "l1" in key or "lambda" in key or "suboptimality" in key]
    mean, kkt, distances = last.mean_coef, [], []
    for r in range(2):
        first, *terms = found.powers_at(mean[r])
        own = stationary_point(
            PROBLEM.X,
            PROBLEM.y + last.mean_noise[r],
            first.weights,
            0.5,
            terms=terms,
            start=mean[r] * (mean[r].abs() > (10 * 0.02) ** 2),
        )
        g = PROBLEM.X.T @ (PROBLEM.X @ mean[r] - PROBLEM.y - last.mean_noise[r]) / PROBLEM.n
        on = own.support
        kkt.append(((g + first.slope(mean[r]) * mean[r].sign()) / first.slope(mean[r]))[on].abs().max())
        distances.append((mean[r] - own.coef).norm() / own.coef.norm())
        assert int(on.sum()) >= 3
    assert row["kkt_residual"] == pytest.approx(float(torch.stack(kkt).mean()), rel=1e-9)
    assert row["distance_compensated"] == pytest.approx(float(torch.stack(distances).mean()), rel=1e-6)
    assert row["distance_compensated"] < 0.05
    assert row["at_minimum"] == 1
    away = distance_to(mean, found.reference.coef)
    assert row["distance_predicted"] == pytest.approx(away, rel=1e-9)


def distance_to(mean, coef):
    return float(((mean - coef).norm(dim=-1) / coef.norm()).mean())


def test_evaluate_at_a_start_of_zero_and_with_tails():
    model, optimizer = _pair()
    found = predict(model, optimizer, PROBLEM, noise=STD)
    first, last = (s for s in train(model, optimizer, PROBLEM, 40, noise=STD, snapshots=[1, 40]) if s.scheduled)
    row = evaluate(PROBLEM, first, found)
    assert (row["support_size"], row["kkt_residual"]) == (0, 0)
    assert evaluate(PROBLEM, last, found, average="tail")["distance_mean"] > 0


def test_training_goes_where_it_was_predicted():
    """Equal columns from equal weights stay at their saddle, told by a note and by `at_minimum`; the rest as ever."""
    X = PROBLEM.X[:, [0, 0, *range(1, 6)]]
    problem = Problem(X, X @ torch.tensor([1.0, 0, 0.8, 0, 0, 0, 0], dtype=torch.float64))
    model = DiagonalLinear(7, parametrisation="square", init=0.6, replicas=4)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.03, alpha=0.999)
    found = predict(model, optimizer, problem, noise=4.0)
    assert any(note.startswith("columns 0 and 1") or note.startswith("columns 1 and 0") for note in found.notes)
    *_, last = train(model, optimizer, problem, 2500, noise=4.0, snapshots=[2500])
    row = evaluate(problem, last, found, average="tail")
    assert row["at_minimum"] == 0
    assert row["distance_compensated"] < 0.02
    assert abs(row["penalty_ratio"] - 1) < 0.1 + 3 * row["penalty_ratio_sd"] / 2
