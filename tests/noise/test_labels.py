"""noise: the law of what is added, exact cancellation of pairs, replicas, flips, bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import one_hot

from lntrain import Antithetic, GaussianNoise, LabelFlips, NoNoise, RademacherNoise
from lntrain.noise.labels import Draw, as_noise, check_std
from lntrain.noise.philox import normals, words
from lntrain.noise.schedules import OffAt, PowerDecay, StepDecay

FALSE_ALARM = 1e-6
ADDITIVE = [
    GaussianNoise(2.0),
    RademacherNoise(2.0),
    Antithetic(GaussianNoise(2.0)),
    Antithetic(RademacherNoise(2.0)),
]
IDS = ["gaussian", "rademacher", "antithetic gaussian", "antithetic rademacher"]


def _noise_of(noise, steps, width=4, key=(0, 0), dtype=torch.float64):
    """(steps, width) of what `perturb` adds."""
    zero = torch.zeros(width, dtype=dtype)
    return torch.stack([noise.perturb(zero, Draw((key,), step)) for step in steps]).numpy()


def test_gaussian_noise_is_std_times_the_stream():
    added = _noise_of(GaussianNoise(2.0), range(3, 40), 5, (7, 1))
    np.testing.assert_array_equal(added, 2.0 * normals(7, 1, 3, 40, 5).astype(np.float64))


def test_rademacher_noise_is_the_sign_bit_of_the_stream():
    added = _noise_of(RademacherNoise(0.5), range(3, 40), 5, (7, 1))
    np.testing.assert_array_equal(added, np.where(words(7, 1, 3, 40, 5) < 2**31, 0.5, -0.5))


def test_the_laws():
    z = GaussianNoise(1.0).unit(2, 0, 0, 20_000, 5).ravel().astype(np.float64)
    assert stats.kstest(z, "norm").pvalue > FALSE_ALARM
    sign = RademacherNoise(1.0).unit(2, 0, 0, 20_000, 5)
    heads = int((sign == 1).sum())
    assert heads + int((sign == -1).sum()) == sign.size
    assert stats.binomtest(heads, sign.size).pvalue > FALSE_ALARM
    pairs = Antithetic(GaussianNoise(1.0)).unit(2, 0, 0, 20_000, 5)[::2].ravel().astype(np.float64)
    assert stats.kstest(pairs, "norm").pvalue > FALSE_ALARM


@pytest.mark.parametrize("noise", ADDITIVE, ids=IDS)
def test_perturb_and_unit_are_one_stream_in_any_slice(noise):
    whole = noise.unit(3, 1, 0, 41, 6)
    for start, stop in [(0, 1), (1, 2), (3, 8), (4, 9), (17, 41)]:
        np.testing.assert_array_equal(noise.unit(3, 1, start, stop, 6), whole[start:stop])
    np.testing.assert_array_equal(_noise_of(noise, range(41), 6, (3, 1)), 2.0 * whole.astype(np.float64))


@pytest.mark.parametrize("schedule", [None, PowerDecay(1.0, 3.0), StepDecay((5, 9), 0.1), OffAt(7)])
@pytest.mark.parametrize("inner", [GaussianNoise, RademacherNoise])
def test_antithetic_pairs_cancel_exactly_also_when_the_scale_changes_within_one(inner, schedule):
    added = _noise_of(Antithetic(inner(1.7, schedule)), range(20), 8)
    np.testing.assert_array_equal(added[0::2], -added[1::2])
    assert np.abs(added[0]).min() > 0


@pytest.mark.parametrize("schedule", [PowerDecay(1.0, 3.0), StepDecay((5, 9), 0.1), OffAt(7)], ids=repr)
def test_a_schedule_scales_the_constant_noise(schedule):
    steps = np.arange(20)
    constant, scaled = _noise_of(GaussianNoise(2.0), steps), _noise_of(GaussianNoise(2.0, schedule), steps)
    np.testing.assert_allclose(scaled, constant * schedule(steps)[:, None], rtol=1e-14)


def test_draws_within_a_step_differ_and_are_reproducible():
    zero = torch.zeros(5)
    draws = [GaussianNoise(1.0).perturb(zero, Draw(step=4, draw=k)) for k in (0, 1, 0)]
    assert torch.equal(draws[0], draws[2])
    assert not bool((draws[0] == draws[1]).any())


@pytest.mark.parametrize("noise", [*ADDITIVE, LabelFlips(0.5, 7)], ids=[*IDS, "flips"])
def test_replicas_equal_the_same_draws_alone(noise):
    keys = ((5, 0), (5, 1), (9, 0))
    targets = torch.arange(12).reshape(3, 4)
    targets = targets % 7 if isinstance(noise, LabelFlips) else targets.double()
    together = noise.perturb(targets, Draw(keys, 3))
    for key, row, got in zip(keys, targets, together, strict=True):
        assert torch.equal(noise.perturb(row, Draw((key,), 3)), got)
    assert len({tuple(row.tolist()) for row in (together - targets)}) == 3


def test_one_std_a_replica():
    keys, zero = ((5, 0), (5, 1)), torch.zeros(2, 3, dtype=torch.float64)
    many = GaussianNoise((1.0, 3.0)).perturb(zero, Draw(keys))
    one = GaussianNoise(1.0).perturb(zero, Draw(keys))
    assert torch.equal(many, one * torch.tensor([[1.0], [3.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
def test_shape_and_dtype_are_kept_and_the_targets_untouched(shape, dtype):
    targets = torch.ones(shape, dtype=dtype)
    noisy = GaussianNoise(1.0).perturb(targets, Draw())
    assert (noisy.shape, noisy.dtype) == (targets.shape, dtype)
    assert bool((targets == 1).all())
    assert not bool((noisy == 1).any())


@pytest.mark.parametrize("noise", [NoNoise(), GaussianNoise(0.0), Antithetic(GaussianNoise(0.0))], ids=repr)
def test_no_noise_leaves_the_labels_as_they_are(noise):
    targets = torch.randn(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise.perturb(targets, Draw()), targets)


FLIPS = list(itertools.product([0.0, 0.2, 1.0], [2, 5], [False, True]))


@pytest.mark.parametrize(("p", "classes", "include_true"), FLIPS)
def test_flips_have_the_stated_rate_and_land_uniformly(p, classes, include_true):
    targets = torch.full((60_000,), 1)
    new = LabelFlips(p, classes, include_true).perturb(targets, Draw(step=2)).numpy()
    others = classes if include_true else classes - 1
    expected = np.full(classes, p / others)
    expected[1] = 1 - p + (p / classes if include_true else 0)
    counts = np.bincount(new, minlength=classes)
    possible = expected > 0
    assert counts[~possible].sum() == 0  # at p = 1 the true label never, unless it is asked for
    if possible.sum() > 1:
        assert stats.chisquare(counts[possible], 60_000 * expected[possible]).pvalue > FALSE_ALARM


def test_a_flip_is_never_the_true_label_of_any_class():
    targets = torch.arange(6).repeat(2000)
    new = LabelFlips(1.0, 6).perturb(targets, Draw())
    assert not bool((new == targets).any())
    shift = ((new - targets) % 6).numpy()
    assert stats.chisquare(np.bincount(shift, minlength=6)[1:]).pvalue > FALSE_ALARM
    assert new.dtype == targets.dtype


@pytest.mark.parametrize("include_true", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_flips_keep_the_dtype_and_do_not_overflow_it(dtype, include_true):
    """120 classes: label + shift passes 127 and, for bytes, 256 is not far."""
    labels, flips = torch.arange(120).repeat(20), LabelFlips(0.9, 120, include_true)
    flipped = flips.perturb(labels.to(dtype), Draw())
    assert flipped.dtype == dtype
    assert torch.equal(flipped.long(), flips.perturb(labels, Draw()))
    bytes_ = LabelFlips(0.9, 250, include_true)
    labels = torch.arange(250).repeat(20)
    assert torch.equal(bytes_.perturb(labels.byte(), Draw()).long(), bytes_.perturb(labels, Draw()))


@pytest.mark.parametrize("ignored", [-100, 255])
def test_ignored_labels_are_left_alone(ignored):
    labels = torch.tensor([0, ignored, 2] * 100)
    flipped = LabelFlips(1.0, 3, ignore_index=ignored).perturb(labels, Draw())
    assert torch.equal(flipped == ignored, labels == ignored)
    assert bool((flipped != labels)[labels != ignored].all())


@pytest.mark.parametrize("include_true", [False, True])
@pytest.mark.parametrize("shape", [(), (40,), (5, 8), (300,)], ids=str)
def test_one_hot_rows_flip_as_their_labels_do(shape, include_true):
    flips, labels = LabelFlips(0.5, 4, include_true), torch.arange(math.prod(shape)).reshape(shape) % 4
    for step in range(3):
        rows = flips.perturb(one_hot(labels, 4).double(), Draw(step=step))
        assert torch.equal(rows, one_hot(flips.perturb(labels, Draw(step=step)), 4).double())


def test_one_hot_rows_of_replicas_flip_as_their_labels_do():
    keys, labels, flips = ((5, 0), (5, 1)), torch.arange(12).reshape(2, 6) % 3, LabelFlips(0.5, 3)
    rows = flips.perturb(one_hot(labels, 3).float(), Draw(keys, 4))
    assert torch.equal(rows.argmax(-1), flips.perturb(labels, Draw(keys, 4)))


@pytest.mark.parametrize("include_true", [False, True])
def test_rows_of_probabilities_turn_whole_and_have_the_mean_of_flips(include_true):
    """E row = (1 - p) row + p (1 - row)/(K - 1), or p / K in the place of the latter; float16 too."""
    p, row = 0.6, torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    rows = row.expand(40_000, 4)
    new = LabelFlips(p, 4, include_true).perturb(rows, Draw())
    assert torch.equal(new.sort(-1).values, rows.sort(-1).values)
    others = torch.full((4,), 0.25, dtype=torch.float64) if include_true else (1 - row) / 3
    torch.testing.assert_close(new.mean(0), (1 - p) * row + p * others, rtol=0, atol=5 * 0.2 / 200)
    assert LabelFlips(p, 4).perturb(rows[:9].half(), Draw()).dtype == torch.float16


@pytest.mark.parametrize("width", [1, 7, 256, 257], ids=str)
@pytest.mark.parametrize("noise", [*ADDITIVE, GaussianNoise(2.0, PowerDecay())], ids=[*IDS, "annealed"])
def test_what_is_drawn_ahead_is_the_stream_whatever_the_order_of_steps(noise, width):
    zero = torch.zeros(width, dtype=torch.float64)
    for step in (130, 3, 64, 63, 3, 0):
        for draw in (1, 0):
            unit = noise.unit(9, 2, step, step + 1, width, draw)[0].astype(np.float64)
            added = noise.perturb(zero, Draw(((9, 2),), step, draw)).numpy()
            np.testing.assert_array_equal(added, unit * (2.0 * float(noise.factor(step))))


def test_a_changed_std_scales_the_same_draws_and_nobody_writes_to_them():
    zero, at, noise = torch.zeros(5, dtype=torch.float64), Draw(step=7), GaussianNoise(2.0)
    first = noise.perturb(zero, at)
    assert torch.equal(noise.perturb(zero, at, std=4.0), 2 * first)
    first.zero_()
    assert bool((noise.perturb(zero, at) != 0).all())
    with torch.inference_mode():
        GaussianNoise(3.0).perturb(zero, at)
    weight = torch.ones(5, dtype=torch.float64, requires_grad=True)
    (GaussianNoise(3.0).perturb(zero, at) * weight).sum().backward()


def test_no_noise_takes_labels_of_any_kind():
    assert torch.equal(NoNoise().perturb(ints, Draw()), ints)


def test_numbers_become_noise():
    assert as_noise(0.5) == GaussianNoise(0.5)
    assert as_noise(2) == GaussianNoise(2.0)
    assert as_noise(0) == as_noise(0.0) == NoNoise()
    noise = Antithetic(GaussianNoise(1.0))
    assert as_noise(noise) is noise
    assert check_std([1, 2.0]) == (1.0, 2.0)


ints, floats = torch.zeros(3, dtype=torch.int64), torch.zeros(3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: GaussianNoise(-1.0), "std=-1.0 must be finite and not negative"),
        (lambda: GaussianNoise(float("nan")), "std=nan"),
        (lambda: RademacherNoise(float("inf")), "std=inf"),
        (lambda: GaussianNoise((1.0, -2.0)), "std="),
        (lambda: GaussianNoise(()), "std="),
        (lambda: GaussianNoise(1.0).perturb(ints, Draw()), "GaussianNoise needs float targets, not torch.int64"),
        (lambda: Antithetic(GaussianNoise(1.0)).perturb(ints, Draw()), "Antithetic needs float targets"),
        (lambda: GaussianNoise((1.0, 2.0)).perturb(floats, Draw()), "std holds 2 values"),
        (lambda: LabelFlips(1.5, 3), "p=1.5"),
        (lambda: LabelFlips(-0.1, 3), "p=-0.1"),
        (lambda: LabelFlips(0.5, 1), "num_classes=1"),
        (lambda: LabelFlips(0.5, 3, ignore_index=2), "ignore_index=2 is a class"),
        (lambda: LabelFlips(0.5, 3).perturb(floats, Draw()), "or rows of 3 probabilities, not torch.float32"),
        (lambda: LabelFlips(0.5, 3).perturb(torch.eye(4), Draw()), r"rows of 3 probabilities, .* shape \(4, 4\)"),
        (lambda: LabelFlips(0.5, 3).perturb(torch.tensor([[1.0, 1.0, 0.0]]), Draw()), "rows of 3 probabilities"),
        (lambda: LabelFlips(0.5, 3).perturb(torch.tensor(0.5), Draw()), "rows of 3 probabilities"),
        (lambda: LabelFlips(0.5, 3).perturb(ints.bool(), Draw()), "not torch.bool"),
        (lambda: LabelFlips(0.5, 3).perturb(ints + 3, Draw()), r"label 3 is outside 0\.\.2"),
        (lambda: LabelFlips(0.5, 3).perturb(ints - 1, Draw()), r"label -1 is outside 0\.\.2"),
        (lambda: GaussianNoise(1.0).perturb(floats + 0j, Draw()), "not torch.complex64: perturb torch.view_as_real"),
        (lambda: as_noise("loud"), "noise='loud'"),
        (lambda: as_noise(True), "noise=True"),
        (lambda: as_noise(-1.0), "std=-1.0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_it(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "noise", [GaussianNoise(1.0), RademacherNoise(1.0), Antithetic(RademacherNoise(1.0))], ids=repr
)
def test_the_kurtosis_is_that_of_the_draws(noise):
    eps = noise.unit(3, 0, 0, 1000, 1000).astype(np.float64)
    seen = (eps**4).mean() / (eps**2).mean() ** 2
    assert seen == pytest.approx(
        noise.kurtosis, abs=5 * math.sqrt(96 / eps.size)
    )  # var of a Gaussian's: 24 / n, of fourths 96
