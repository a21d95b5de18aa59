"""stream: Philox's published answers, one stream whatever the slicing, and the law of each draw."""

from __future__ import annotations

import numba as nb
import numpy as np
import pytest
from scipy import stats

from lntrain.noise import philox as stream
from lntrain.noise.philox import check_sampling, normals, sampled_rows, stream_key, words

FALSE_ALARM = 1e-6  # a seed fixes each verdict; this is how often another seed would have failed


@nb.njit
def _philox(c0, c1, c2, c3, k0, k1):
    return stream._philox(c0, c1, c2, c3, k0, k1)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    got = _philox(*(np.uint64(c) for c in counter), *(np.uint64(k) for k in key))
    assert " ".join(f"{int(word):08x}" for word in got) == expected


def test_the_layout_of_a_block_is_position_block_kind_draw():
    """Word `lane` of the block (i, step // 4, kind, draw) is what step 4 * block + lane reads at position i."""
    key, draw, position, block = stream_key(5, 2), 3, 7, 11
    counter = (position, block, stream._NOISE << 24, draw)
    expected = _philox(*(np.uint64(c) for c in counter), np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32))
    assert [int(w) for w in words(5, 2, 44, 48, 8, draw)[:, position]] == [int(w) for w in expected]


@pytest.mark.parametrize("draw", [normals, words], ids=["normals", "words"])
@pytest.mark.parametrize("width", [1, 5, 15, 16, 40])
def test_a_step_is_the_same_in_any_slice(draw, width):
    whole = draw(3, 1, 0, 50, width)
    for start, stop in [(0, 1), (3, 9), (4, 8), (7, 8), (13, 50), (49, 50)]:
        np.testing.assert_array_equal(draw(3, 1, start, stop, width), whole[start:stop])


@pytest.mark.parametrize("start", [0, 3, 4096, 2**34 + 1])
def test_a_column_is_the_same_at_any_width(start):
    """Below 16 columns another loop fills them; 1100 steps cross its chunks of 256 blocks."""
    wide = normals(1, 0, start, start + 1100, 40)
    for width in (1, 4, 15, 16, 17):
        np.testing.assert_array_equal(normals(1, 0, start, start + 1100, width), wide[:, :width])


def _uniform(word):
    """(word + 1/2) / 2^32 as float32 rounds it, (0, 1]: the grid near 1 is 2^-24."""
    return (np.float32(word) + np.float32(0.5)).astype(np.float64) / 2**32


def test_normals_are_the_box_muller_transform_of_the_words():
    """Against float64 NumPy: radius from one word, angle from the next of the same block, pairs of steps."""
    w = words(9, 0, 0, 40_000, 20).reshape(-1, 2, 2, 20)
    radius = np.sqrt(-2 * np.log(_uniform(w[:, :, 0])))
    angle = 2 * np.pi * w[:, :, 1].astype(np.float64) / 2**32
    twin = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=2).reshape(-1, 20)
    np.testing.assert_allclose(normals(9, 0, 0, 40_000, 20), twin, atol=2e-6, rtol=0)


@nb.njit
def _box_muller(a, b):
    return stream._box_muller(a, b)


@pytest.mark.parametrize("a", [0, 1, 2**31, 2**32 - 1])
def test_the_rarest_words_give_finite_normals(a):
    for b in (0, 2**30, 2**31 - 1, 2**31, 2**32 - 1):
        radius = np.sqrt(-2 * np.log(_uniform(np.uint32(a))))
        assert np.hypot(*_box_muller(np.uint32(a), np.uint32(b))) == pytest.approx(radius, rel=2e-6, abs=1e-12)


@pytest.mark.parametrize("axis", ["all", "one column", "one step"])
def test_normals_are_standard_normal(axis):
    z = {"all": normals(0, 0, 0, 4000, 50), "one column": normals(0, 0, 0, 100_000, 1)}.get(axis)
    z = normals(0, 0, 5, 6, 100_000) if z is None else z
    assert stats.kstest(z.ravel().astype(np.float64), "norm").pvalue > FALSE_ALARM
    assert abs((z**2).mean() - 1) < stats.norm.isf(FALSE_ALARM / 2) * np.sqrt(2 / z.size)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"stream": 1},
        {"start": 1, "stop": 20_001},
        {"draw": 1},
        {"seed": 2**32},
        {"seed": -1},
    ],
    ids=["seed", "stream", "step", "draw", "the seed's high bits", "a negative seed"],
)
def test_draws_apart_are_uncorrelated(other):
    base = {"seed": 0, "stream": 0, "start": 0, "stop": 20_000, "width": 5, "draw": 0}
    a, b = normals(**base).ravel(), normals(**{**base, **other}).ravel()
    bound = stats.norm.isf(FALSE_ALARM / 2) / np.sqrt(a.size)
    assert abs(np.corrcoef(a, b)[0, 1]) < bound
    assert abs(np.corrcoef(a**2, b**2)[0, 1]) < bound


def test_columns_and_neighbouring_steps_are_uncorrelated():
    z = normals(4, 0, 0, 40_000, 6).astype(np.float64)
    lagged = np.hstack([z[:-4], z[1:-3], z[2:-2], z[3:-1], z[4:]])
    off = np.corrcoef(lagged.T)[np.triu_indices(30, 1)]
    assert np.abs(off).max() < stats.norm.isf(FALSE_ALARM / 2 / len(off)) / np.sqrt(len(lagged))


def _rows(start=0, stop=2000, *, seed=0, n=10, batch_size=4, sampling="replacement", every=1):
    return sampled_rows(seed, 0, start, stop, n=n, batch_size=batch_size, sampling=sampling, every=every)


SAMPLINGS = ["replacement", "noisy_rows", "without", "shuffle"]


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_rows_are_the_same_in_any_slice_and_shared_by_pairs(sampling, every):
    whole = _rows(0, 60, sampling=sampling, every=every)
    for start, stop in [(0, 7), (5, 6), (8, 33), (31, 60)]:
        np.testing.assert_array_equal(_rows(start, stop, sampling=sampling, every=every), whole[start:stop])
    alone = _rows(0, 60 // every, sampling=sampling)
    np.testing.assert_array_equal(whole, np.repeat(alone, every, axis=0))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_every_row_is_drawn_equally_often(sampling, batch_size):
    rows = _rows(0, 5000, batch_size=batch_size, sampling=sampling)
    counts = np.bincount(rows.ravel(), minlength=10)
    assert counts.sum() == rows.size
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
    position = np.bincount(rows[:, 0], minlength=10)  # also at one place of the batch
    assert stats.chisquare(position).pvalue > FALSE_ALARM


def test_replacement_draws_pairs_independently_and_without_draws_ordered_pairs():
    pairs = _rows(0, 40_000, n=4, batch_size=2)
    counts = np.bincount(pairs[:, 0] * 4 + pairs[:, 1], minlength=16)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
    pairs = _rows(0, 40_000, n=4, batch_size=2, sampling="without")
    counts = np.bincount(pairs[:, 0] * 4 + pairs[:, 1], minlength=16).reshape(4, 4)
    assert np.diagonal(counts).sum() == 0
    assert stats.chisquare(counts[~np.eye(4, dtype=bool)]).pvalue > FALSE_ALARM


@pytest.mark.parametrize("n", [1, 2, 7, 10])
def test_without_is_distinct_within_a_batch(n):
    rows = np.sort(_rows(0, 300, n=n, batch_size=n, sampling="without"), axis=1)
    assert (rows == np.arange(n)).all()


@pytest.mark.parametrize(("n", "b"), [(10, 5), (10, 4), (7, 3), (5, 1), (6, 6)])
def test_shuffle_reads_each_row_once_an_epoch(n, b):
    flat = _rows(0, 20 * n, n=n, batch_size=b, sampling="shuffle").ravel()
    epochs = flat[: len(flat) // n * n].reshape(-1, n)
    assert (np.sort(epochs, axis=1) == np.arange(n)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > len(epochs) / 2  # and shuffles anew


def test_shuffled_orders_are_uniform_over_permutations():
    epochs = _rows(0, 24_000, n=4, batch_size=4, sampling="shuffle")
    _, counts = np.unique(epochs @ np.array([64, 16, 4, 1]), return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_rows_do_not_reuse_the_noise():
    """The row drawn and the noise at the same step and position come from words of their own."""
    rows, noise = _rows(0, 50_000, batch_size=1)[:, 0], words(0, 0, 0, 50_000, 1)[:, 0]
    assert abs(np.corrcoef(rows, noise)[0, 1]) < stats.norm.isf(FALSE_ALARM / 2) / np.sqrt(50_000)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((9, None, None), (9, "full")),
        ((9, 9, "full"), (9, "full")),
        ((9, 3, None), (3, "replacement")),
        ((9, 20, "replacement"), (20, "replacement")),
        ((9, 3, "shuffle"), (3, "shuffle")),
    ],
)
def test_check_sampling_fills_in_the_defaults(arguments, expected):
    assert check_sampling(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((9, None, "bogus"), "sampling='bogus'"),
        ((9, None, "shuffle"), "needs a batch_size"),
        ((9, 0, None), "batch_size=0"),
        ((9, 2.5, None), "batch_size=2.5"),
        ((9, True, None), "batch_size=True"),
        ((9, 3, "full"), "drop batch_size=3"),
        ((9, 10, "without"), "exceeds the n=9"),
        ((9, 10, "shuffle"), "exceeds the n=9"),
    ],
    ids=lambda v: str(v),
)
def test_check_sampling_refuses_by_name(arguments, says):
    with pytest.raises(ValueError, match=says):
        check_sampling(*arguments)
