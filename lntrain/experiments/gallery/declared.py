"""What the `gallery` part of a configuration declares of an entry, and the verdict that follows from its checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lntrain.experiments.verdicts import Check, Judged, judge_all

ROWS = 33  # intervals of the whole gallery hold together: Bonferroni over its rows, however many are run
FOUND = ("code", "paper", "caption", "theorem", "ours")  # where the settings come from
SIZES = ("full", "quick")
VERDICTS = {
    "reproduced": "all checks hold, at the stated settings",
    "after": "all checks hold; settings, or some of them, are ours",
    "differs": "what is known to differ does, and nothing else",
    "unexpected": "a check fails that should hold, or holds that was known to differ",
}


@dataclass(frozen=True)
class Declared:
    """An entry as its YAML states it.

    Args:
        entry: name in ENTRIES. source: DOI or arXiv number, and figure. found: one of FOUND.
        used: settings of the run. stated: those of the source. quick: some of `used` for a test of the plumbing.
        known: names of checks that are known to fail, `differs` why. may: at which seeds the verdict may flip.
        size: "full" or "quick". seconds: what it takes, about; the longest are run first.
        apart: whether the gallery runs it only where it is named, for it takes long.
    """

    entry: str
    source: str
    found: str
    used: dict[str, Any]
    stated: dict[str, Any]
    quick: dict[str, Any]
    known: tuple[str, ...] = ()
    differs: str = ""
    may: str = ""
    size: str = "full"
    seconds: int = 30
    apart: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What the run uses."""
        return self.used | (self.quick if self.size == "quick" else {})

    def verdict(self, judged: Sequence[Judged]) -> str:
        """One of VERDICTS."""
        wrong = {check.check.name for check in judged if check.verdict != "holds"}
        if wrong != set(self.known):
            return "unexpected"
        if wrong:
            return "differs"
        as_stated = all(self.used.get(key) == value for key, value in self.stated.items())
        return "reproduced" if self.found != "ours" and as_stated else "after"

    def judge(self, checks: Sequence[Check]) -> tuple[str, list[Judged]]:
        """The row's verdict and its checks'."""
        judged = judge_all(checks, ROWS)
        return self.verdict(judged), judged


def declared(cfg: DictConfig) -> Declared:
    """The declaration in a configuration.

    Raises:
        ValueError: a size or an origin that is none, a quick setting that is not used.
    """
    if cfg.gallery.entry is None:
        raise ValueError("task=gallery has no entry: choose experiment=..., lntrain-gallery --list names them")
    given: dict[str, Any] = OmegaConf.to_container(cfg.gallery, resolve=True)  # type: ignore[assignment]
    one = Declared(**{**given, "known": tuple(given["known"])})
    if one.found not in FOUND:
        raise ValueError(f"gallery.found={one.found!r}: choose one of {', '.join(FOUND)}")
    if one.size not in SIZES:
        raise ValueError(f"gallery.size={one.size!r}: choose one of {', '.join(SIZES)}")
    if unused := sorted(set(one.quick) - set(one.used)):
        raise ValueError(f"gallery.quick.{unused[0]} is no setting of gallery.used")
    return one
