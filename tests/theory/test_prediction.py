"""predict: the problem that is solved, read from the objects themselves, so that nothing can be told otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lntrain import (
    Antithetic,
    DiagonalLinear,
    GaussianNoise,
    LabelFlips,
    LabelNoiseSGD,
    MinibatchNoise,
    ParameterNoise,
    RademacherNoise,
    effective_penalty,
    evaluate,
    predict,
    sparse_regression,
    train,
    weighted_lasso,
)
from lntrain.lasso.references import bridge
from lntrain.noise import Additive
from lntrain.noise.philox import words
from lntrain.penalty.corrections import depth_penalty

PROBLEM = sparse_regression(20, 12, 3, signs="random", column_scales=(0.5, 2.0), seed=4)


def _pair(noise=8.0, lr=0.01, *, model=None, **options):
    model = model or DiagonalLinear(PROBLEM.d)
    return model, LabelNoiseSGD(model.parameters(), lr=lr, noise=noise, **options)


def _adagrad(model):
    return predict(model, torch.optim.Adagrad(model.parameters()), PROBLEM, noise=1.0)


@pytest.mark.parametrize("parametrisation", ["difference", "square", "hadamard"])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}, {"weight_decay": 0.1}], ids=str
)
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("batch", [{}, {"batch_size": 4}, {"batch_size": 4, "sampling": "noisy_rows"}], ids=str)
def test_the_penalty_is_what_effective_penalty_says_when_it_is_told_the_truth(parametrisation, options, paired, batch):
    noise = Antithetic(GaussianNoise(8.0)) if paired else RademacherNoise(8.0)
    model, optimizer = _pair(noise, model=DiagonalLinear(PROBLEM.d, parametrisation=parametrisation), **options)
    found = predict(model, optimizer, PROBLEM, loss_constant=0.25, **batch)
    told = {"parametrisation": parametrisation, "antithetic": paired, "loss_constant": 0.25, **options, **batch}
    torch.testing.assert_close(found.penalty, effective_penalty(PROBLEM.X, lr=0.01, std=8.0, **told), rtol=0, atol=0)
    assert (found.exponent, found.terms) == (1, ())
    reference = weighted_lasso(PROBLEM.X, PROBLEM.y, found.penalty, positive=parametrisation == "square")
    torch.testing.assert_close(found.reference.coef, reference.coef, rtol=1e-9, atol=1e-12)
    assert found.reference.positive == (parametrisation == "square")
    assert found.bias.shape == (PROBLEM.d,)


def test_a_plain_optimiser_takes_its_noise_from_the_call():
    model = DiagonalLinear(PROBLEM.d)
    plain = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    own = LabelNoiseSGD(model.parameters(), lr=0.01, momentum=0.9, noise=8.0)
    torch.testing.assert_close(predict(model, plain, PROBLEM, noise=8.0).weights, predict(model, own, PROBLEM).weights)


def test_a_schedulers_lr_and_a_loaded_std_count():
    model, optimizer = _pair()
    optimizer.param_groups[0]["lr"] = 0.005
    optimizer.param_groups[0]["noise_std"] = 4.0
    expected = effective_penalty(PROBLEM.X, lr=0.005, std=4.0)
    torch.testing.assert_close(predict(model, optimizer, PROBLEM).penalty, expected, rtol=0, atol=0)


def test_depth_three_is_a_bridge_and_no_lasso():
    model, optimizer = _pair(model=DiagonalLinear(PROBLEM.d, depth=3, init=0.5))
    found = predict(model, optimizer, PROBLEM)
    weights = depth_penalty(PROBLEM.X, lr=0.01, std=8.0, depth=3)
    assert found.exponent == pytest.approx(4 / 3)
    torch.testing.assert_close(found.weights, weights, rtol=0, atol=0)
    torch.testing.assert_close(found.reference.coef, bridge(PROBLEM.X, PROBLEM.y, weights, 3).coef)
    with pytest.raises(ValueError, match="no Lasso's"):
        _ = found.penalty
    with pytest.raises(ValueError, match="no distance is predicted"):
        found.expected_distance(1000)
    *_, last = train(model, optimizer, PROBLEM, 200)
    row = evaluate(PROBLEM, last, found)
    assert {"distance_mean", "distance_tail", "fit_mean"} <= set(row)
    assert "kkt_residual" not in row


def test_evaluate_takes_a_prediction_as_it_takes_its_parts():
    model, optimizer = _pair()
    found = predict(model, optimizer, PROBLEM)
    *_, last = train(model, optimizer, PROBLEM, 500)
    assert evaluate(PROBLEM, last, found) == evaluate(PROBLEM, last, found.reference, found.penalty)


def test_the_expected_distance_is_what_training_shows():
    """Within 30 %, mean over 16 replicas; the tail too, which forgets the start sooner."""
    model = DiagonalLinear(PROBLEM.d, init=0.3, replicas=16)
    optimizer = LabelNoiseSGD(model.parameters(), lr=0.005, noise=Antithetic(GaussianNoise(12.0)), seed=5)
    found = predict(model, optimizer, PROBLEM)
    for snapshot in train(model, optimizer, PROBLEM, 20_000, snapshots=[2000, 20_000]):
        if snapshot.scheduled:
            row = evaluate(PROBLEM, snapshot, found)
            for name, average in (("mean", "all"), ("tail", "tail")):
                expected = found.expected_distance(snapshot.step, average=average)
                assert 1 / 1.3 < row[f"distance_{name}"] / expected < 1.3


def test_too_large_a_step_is_a_note():
    model, optimizer = _pair(lr=1.0)
    found = predict(model, optimizer, PROBLEM)
    assert found.stable_lr < 1.0
    assert any("expect divergence" in note for note in found.notes)
    assert not predict(*_pair(lr=1e-3), PROBLEM).notes


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: predict(torch.nn.Linear(12, 1), _pair()[1], PROBLEM), "for a Linear"),
        (lambda: _adagrad(DiagonalLinear(PROBLEM.d)), "for Adagrad"),
        (lambda: predict(*_pair(LabelFlips(0.1, 2)), PROBLEM), "Gaussian or Rademacher"),
        (lambda: predict(*_pair(0.0), PROBLEM), "Gaussian or Rademacher"),
        (lambda: predict(*_pair(ParameterNoise(1.0)), PROBLEM), "Gaussian or Rademacher"),
        (lambda: predict(*_pair(MinibatchNoise(1.0)), PROBLEM), "Gaussian or Rademacher"),
        (lambda: predict(*_pair(), PROBLEM, noise=3.0), "the optimizer carries"),
        (lambda: predict(*_pair(lr=[0.1, 0.2], model=DiagonalLinear(12, replicas=2)), PROBLEM), "lr is one a replica"),
        (
            lambda: predict(*_pair(GaussianNoise((1.0, 2.0)), model=DiagonalLinear(12, replicas=2)), PROBLEM),
            "std is one",
        ),
        (lambda: predict(*_pair(maximize=True), PROBLEM), "maximize"),
        (lambda: predict(*_pair(), PROBLEM, loss_constant=0.0), "loss_constant=0.0"),
        (lambda: predict(*_pair(), PROBLEM, batch_size=0), "batch_size=0"),
        (lambda: predict(_pair()[0], _pair()[1], PROBLEM), "does not hold all of the model's weights"),
        (lambda: predict(*_pair(model=DiagonalLinear(11)), PROBLEM), "in_features=11, the problem d=12"),
        (lambda: predict(*_pair(), PROBLEM.X), "problem is a Tensor"),
    ],
)
def test_what_cannot_be_predicted_is_refused_by_name(build, says):
    with pytest.raises(ValueError, match=says) as error:
        build()
    assert "\n" not in str(error.value)


def test_the_former_name_of_the_loss_constant_still_works():
    new = effective_penalty(PROBLEM.X, lr=0.1, std=1.0, loss_constant=0.25)
    with pytest.warns(FutureWarning, match="loss_scale=...\\) is loss_constant now"):
        assert torch.equal(new, effective_penalty(PROBLEM.X, lr=0.1, std=1.0, loss_scale=0.25))
    model, optimizer = _pair()
    *_, first = train(model, optimizer, PROBLEM, 50, loss_constant=0.25)
    model, optimizer = _pair()
    with pytest.warns(FutureWarning, match="loss_scale"):
        snapshots = train(model, optimizer, PROBLEM, 50, loss_scale=0.25)
    *_, second = snapshots
    assert torch.equal(first.coef, second.coef)
    with pytest.raises(TypeError, match="give that one alone"):
        effective_penalty(PROBLEM.X, lr=0.1, std=1.0, loss_scale=0.25, loss_constant=0.25)
    options = {"lr": 0.1, "std": 1.0, "batch_size": 2}
    with pytest.warns(FutureWarning, match="'noisy_rows' now"):
        former = effective_penalty(PROBLEM.X, sampling="haochen", **options)
    assert torch.equal(former, effective_penalty(PROBLEM.X, sampling="noisy_rows", **options))
    assert math.isfinite(float(first.loss))


class Uniform(Additive):
    """Somebody's own noise: uniform, of variance 1."""

    kurtosis = 1.8

    def unit(self, seed, stream, start, stop, width, draw=0):
        bits = words(seed, stream, start, stop, width, draw)
        return np.float32(math.sqrt(12)) * (bits.astype(np.float32) / np.float32(2**32) - np.float32(0.5))


def test_a_noise_of_ones_own_is_trained_and_predicted():
    model, optimizer = _pair(Uniform(1.0))
    prediction = predict(model, optimizer, PROBLEM)
    assert torch.equal(prediction.penalty, predict(*_pair(GaussianNoise(1.0)), PROBLEM).penalty)
    assert bool((prediction.bias < predict(*_pair(GaussianNoise(1.0)), PROBLEM).bias).all())  # lighter tails
    *_, last = train(model, optimizer, PROBLEM, 100)
    assert bool(torch.isfinite(last.mean_coef).all())
