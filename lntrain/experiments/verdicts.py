"""The stated rule: what a check measured, its interval over seeds, and whether the claim holds."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

FAMILY_LEVEL = 0.01  # chance that any check of the whole table fails though every claim is true (Bonferroni)
RULE = (
    "The interval is the mean over seeds +/- t * sd / sqrt(seeds), "
    "t at the level {level:g} / (rows x checks of the row), "
    "two-sided: Bonferroni, so that all intervals of the table hold together with probability {sure:g}. "
    "'=': the interval, widened by the allowance (a bias that a formula of theory.md gives), holds the prediction "
    "and its half-width with the allowance is at most the stated precision; a wider one is undecided, which fails. "
    "'<=', '>=': the whole interval lies on that side of the bound; it is one-sided, and of the geometric mean, "
    "since distances and ratios vary by factors. A row holds if all its checks do."
)


@dataclass(frozen=True)
class At:
    """How a row is run: the user's seed, the row's name, and whether it runs in full mode."""

    row: str
    seed: int = 0
    full: bool = False

    def seeds(self, count: int, what: str = "noise") -> list[int]:
        """`count` independent seeds, a function of the user's seed, the row and what they are for."""
        entropy = [self.seed, zlib.crc32(self.row.encode()), zlib.crc32(what.encode())]
        return [int(s) for s in np.random.SeedSequence(entropy).generate_state(count, np.uint32)]

    @property
    def data(self) -> int:
        """The seed of the row's data."""
        return self.seeds(1, "data")[0]

    def pick(self, quick: Any, full: Any) -> Any:
        """The quick mode's value or the full one's."""
        return full if self.full else quick


@dataclass(frozen=True)
class Check:
    """One number of a claim: what theory predicts, and what each independent seed measured.

    Args:
        name: what is measured. predicted: the value ("="), or the bound ("<=", ">=").
        samples: one value per seed; a single one has no interval (an exact identity, a p-value).
        relation: "=", "<=" or ">=".
        allowance: a bias that theory derives, never fitted.
        precision: largest half-width, allowance included, at which "=" decides; None is a tenth of the prediction.
    """

    name: str
    predicted: float
    samples: Any
    relation: str = "="
    allowance: float = 0.0
    precision: float | None = None

    def judge(self, level: float) -> Judged:
        """The interval at `level` and the verdict: "holds", "fails" or "undecided".

        >>> Check("x", 1.0, [0.99, 1.0, 1.01, 1.0]).judge(0.05).verdict
        'holds'
        >>> Check("x", 1.2, [0.99, 1.0, 1.01, 1.0]).judge(0.05).verdict
        'fails'
        """
        values = np.atleast_1d(np.asarray(self.samples, dtype=float))
        if self.relation == "=":
            mean, half = _interval(values, level / 2)
        elif len(values) > 1 and values.min() > 0:
            middle, width = _interval(np.log(values), level)
            mean, side = math.exp(middle), width if self.relation == "<=" else -width
            half = abs(mean * math.expm1(min(side, 700.0)))  # towards the bound; the exponential must not overflow
        else:
            mean, half = _interval(values, level)
        return Judged(self, mean, half, len(values), self._verdict(mean, half))

    def _verdict(self, mean: float, half: float) -> str:
        if not (math.isfinite(mean) and math.isfinite(half) and math.isfinite(self.predicted)):
            return "fails"
        if self.relation == "<=":
            return "holds" if mean + half <= self.predicted else "fails" if mean > self.predicted else "undecided"
        if self.relation == ">=":
            return "holds" if mean - half >= self.predicted else "fails" if mean < self.predicted else "undecided"
        if abs(mean - self.predicted) > half + self.allowance:
            return "fails"
        precision = abs(self.predicted) / 10 if self.precision is None else self.precision
        return "holds" if half + self.allowance <= precision else "undecided"


def _interval(values: Any, tail: float) -> tuple[float, float]:
    """The mean, and the half-width of its interval with probability `tail` in each tail; 0 for a single value."""
    count = len(values)
    wide = stats.t.isf(tail, count - 1) * values.std(ddof=1) / math.sqrt(count) if count > 1 else 0.0
    return float(values.mean()), float(wide)


@dataclass(frozen=True)
class Judged:
    """A check with its mean, the half-width of its interval, its seeds and its verdict."""

    check: Check
    mean: float
    half: float
    seeds: int
    verdict: str


@dataclass(frozen=True)
class Panel:
    """One panel of `arms`: name of the arm -> (x (S,), values (S, R)), the mean over R seeds and one sd about it.

    `log` is for the y axis; `geometric`: there the mean and the sd are those of logarithms. A dashed line stands at
    `mark`, `mark_label` its meaning. theory: name -> (x (S,), y (S,)).
    """

    title: str
    curves: Mapping[str, tuple[Any, Any]]
    log: bool = False
    xlabel: str = "step"
    logx: bool = True
    mark: float | None = None
    mark_label: str = "annealing begins"
    theory: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    geometric: bool = False


@dataclass(frozen=True)
class Curve:
    """A line or dots of a claim's figure, drawn with its spread where values are (S, R)."""

    name: str
    x: Any
    y: Any
    style: str = "o-"


@dataclass(frozen=True)
class Picture:
    """What a claim's figure shows beside its checks."""

    curves: Sequence[Curve]
    xlabel: str
    ylabel: str
    logx: bool = False
    logy: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a row measured; `note` is told beside the verdict."""

    checks: Sequence[Check]
    picture: Picture | None = None
    note: str = ""


@dataclass(frozen=True)
class Result:
    """A row of the table, judged; `error`: why it could not be measured, which counts as failing."""

    name: str
    source: str
    setting: str
    checks: Sequence[Judged] = field(default=())
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    error: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """ "holds" if every check does, else the worst: "error", "fails", "undecided"."""
        found = {judged.verdict for judged in self.checks}
        if self.error or not found:
            return "error"
        return next(verdict for verdict in ("fails", "undecided", "holds") if verdict in found)


def judge_all(checks: Sequence[Check], rows: int) -> list[Judged]:
    """Judge each check of a row, in a table of `rows` rows, at level FAMILY_LEVEL / (rows * checks)."""
    return [check.judge(FAMILY_LEVEL / (rows * len(checks))) for check in checks]
