"""schedule: known values, one function for a step and for an array of steps, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from lntrain import Antithetic, DiagonalLinear, GaussianNoise, LabelNoiseSGD, sparse_regression, train
from lntrain.noise.schedules import Cosine, OffAt, PowerDecay, StepDecay

KNOWN = [
    (PowerDecay(power=1.0, start=100), {0: 1.0, 100: 0.5, 900: 0.1}),
    (PowerDecay(power=0.5, start=1), {0: 1.0, 3: 0.5, 99: 0.1}),
    (StepDecay(milestones=(10, 20), gamma=0.1), {0: 1.0, 9: 1.0, 10: 0.1, 19: 0.1, 20: 0.01, 10**9: 0.01}),
    (StepDecay(milestones=(), gamma=0.1), {0: 1.0, 10**9: 1.0}),
    (Cosine(steps=100), {0: 1.0, 25: (1 + 0.5**0.5) / 2, 50: 0.5, 100: 0.0, 500: 0.0}),
    (Cosine(steps=10, final=0.2), {0: 1.0, 5: 0.6, 10: 0.2, 11: 0.2}),
    (OffAt(10), {0: 1.0, 9: 1.0, 10: 0.0, 11: 0.0}),
]


@pytest.mark.parametrize(("schedule", "known"), KNOWN, ids=[repr(s) for s, _ in KNOWN])
def test_known_factors_at_a_step_and_at_an_array_of_steps(schedule, known):
    for step, factor in known.items():
        assert float(schedule(step)) == pytest.approx(factor, abs=2e-15)
    steps = np.array(list(known))
    one_by_one = [float(schedule(int(s))) for s in steps]
    np.testing.assert_allclose(schedule(steps), one_by_one, rtol=2e-15, atol=1e-15)  # NumPy's powers are good to 4 ulp


@pytest.mark.parametrize("schedule", [s for s, _ in KNOWN], ids=[repr(s) for s, _ in KNOWN])
def test_a_schedule_never_rises(schedule):
    assert (np.diff(schedule(np.arange(200))) <= 1e-15).all()  # equal powers may round by their place in a vector


def test_milestones_may_be_a_list_and_the_schedule_stays_hashable():
    assert StepDecay(milestones=[3, 5]) == StepDecay(milestones=(3, 5))
    assert len({StepDecay(milestones=[3, 5]), StepDecay(milestones=(3, 5))}) == 1


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: PowerDecay(power=0.0), "power=0.0"),
        (lambda: PowerDecay(start=-1.0), "start=-1.0"),
        (lambda: PowerDecay(power=float("nan")), "power=nan"),
        (lambda: StepDecay(milestones=(20, 10)), "must rise"),
        (lambda: StepDecay(gamma=0.0), "gamma=0.0"),
        (lambda: Cosine(steps=0), "steps=0"),
        (lambda: Cosine(steps=10, final=1.5), "final=1.5"),
    ],
    ids=["power 0", "start -1", "power nan", "milestones fall", "gamma 0", "steps 0", "final 1.5"],
)
def test_bad_arguments_are_named(build, says):
    with pytest.raises(ValueError, match=says):
        build()


TABLE = [1.0] * 30 + [0.25] * 71  # the last for the last snapshot
OF_NUMBERS = [
    lambda k: 0.5 if k > 10 else 1.0,
    lambda k: float(1.0 / (1 + k)),
    lambda k: max(0.1, 1 - k / 50),
    lambda k: TABLE[k],  # which knows no step beyond the run
    lambda k: 0.5,
    lambda k: 1.0 - k / 100,  # negative beyond the run
]


def _run(engine, lr_schedule=None, noise_schedule=None, pairs=False):
    problem = sparse_regression(10, 12, 2, seed=0)
    model, noise = DiagonalLinear(12, init=0.3), GaussianNoise(1.0, noise_schedule)
    optimizer = LabelNoiseSGD(model.parameters(), lr=0.01, noise=Antithetic(noise) if pairs else noise, seed=1)
    *_, last = train(model, optimizer, problem, 100, engine=engine, lr_schedule=lr_schedule)
    return last


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("schedule", OF_NUMBERS)
def test_a_schedule_of_numbers_is_the_same_on_both_engines(schedule, pairs):
    for schedules in ((schedule, None), (None, schedule)):
        slow, fast = (_run(engine, *schedules, pairs) for engine in ("torch", "fused"))
        np.testing.assert_allclose(fast.coef, slow.coef, rtol=1e-9, atol=1e-12)
        assert fast.lr == slow.lr


@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_a_factor_that_is_none_is_refused_by_name(engine, value):
    for one_by_one in (lambda k: value if k == 40 else 1.0, lambda k: np.where(np.asarray(k) == 40, value, 1.0)):
        with pytest.raises(ValueError, match=f"lr_schedule gives {value} at step 40"):
            _run(engine, one_by_one)
        with pytest.raises(ValueError, match=rf"noise.schedule gives {value} at step 40"):
            _run(engine, None, one_by_one)
