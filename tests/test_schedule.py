"""schedule: known values, one function for a step and for an array of steps, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from lntrain.schedule import Cosine, OffAt, PowerDecay, StepDecay

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
