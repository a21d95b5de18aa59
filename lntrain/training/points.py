"""Log-spaced steps, at which every loop reports."""

from __future__ import annotations

POINTS_PER_OCTAVE, MOST = 4, 1024  # the default, and the largest that is taken
LARGE, APART = 200_000, 1600  # numbers of X above which metrics cost about 80 steps, and then the steps between them


def log_spaced(steps: int, per_octave: int, *, octaves: int | None = None, period: int = 1) -> list[int]:
    """Steps from `steps` down to 1 (or by `octaves`), `per_octave` per octave, at whole periods; falling, with repeats.

    >>> log_spaced(16, 1), log_spaced(9, 1, period=2), log_spaced(1000, 2, octaves=1)
    ([16, 8, 4, 2, 1], [8, 4, 2, 0], [1000, 707, 500])
    """
    back = steps.bit_length() - 1 if octaves is None else min(octaves, steps.bit_length())
    return [int(steps * 2 ** (-k / per_octave)) // period * period for k in range(per_octave * back + 1)]


def points(steps: int, per_octave: int | None, *, size: int = 0, period: int = 1) -> str | list[int]:
    """The steps to report, log-spaced, `per_octave` per octave; "log" leaves the choice to `train`.

    If X holds more than LARGE numbers (`size`), they are at least APART steps apart, so that metrics cost at most a
    twentieth of the steps; with antithetic noise (`period` 2) they are at whole pairs.

    >>> points(100, 1), points(4000, 1, size=10**6, period=2)
    ([100, 50, 25, 12, 6, 3, 1], [4000, 2000])
    """
    check(per_octave)
    if per_octave is None and size <= LARGE:
        return "log"
    apart, kept = APART if size > LARGE else 1, [steps]
    for step in log_spaced(steps, per_octave or POINTS_PER_OCTAVE, period=period)[1:]:
        if step >= apart and kept[-1] - step >= apart:
            kept.append(step)
    return kept


def check(per_octave: int | None) -> None:
    """Refuse fewer than one point an octave, and so many that they take longer than the steps."""
    if per_octave is not None and not 1 <= per_octave <= MOST:
        raise ValueError(f"points_per_octave={per_octave} must lie in 1..{MOST}")
