"""Words of former releases in a command or in a checkpoint, taken for one more."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from lntrain._moved import KEYS, MOVED, SAMPLINGS

_TARGET = re.compile(rf"\blntrain\.({'|'.join(MOVED)})\.")


def arguments(given: Sequence[str]) -> list[str]:
    """A command's arguments in today's words; a line to stderr for each that was not.

    >>> arguments(["sampling=full", "steps=10"])
    ['sampling=full', 'steps=10']
    """
    return [_argument(argument) for argument in given]


def _argument(given: str) -> str:
    key, equals, value = given.partition("=")
    plain = key.lstrip("+~")
    found = KEYS.get(plain, plain)
    value = SAMPLINGS.get(value, value) if found == "sampling" else paths(value)
    new = f"{key[: len(key) - len(plain)]}{found}{equals}{value}"
    if equals and new != given:
        print(f"lntrain: {given} is {new} now; the old word goes with the next release", file=sys.stderr)
        return new
    return given


def paths(text: str) -> str:
    """The paths of objects in a text, where they are now.

    >>> paths("{_target_: lntrain.model.LogNormalInit}")
    '{_target_: lntrain.models.diagonal.LogNormalInit}'
    """
    return _TARGET.sub(lambda match: f"lntrain.{MOVED[match[1]]}.", text)


def configuration(text: str) -> str:
    """The YAML of a checkpoint in today's words.

    >>> configuration("loss_scale: 0.25")
    'loss_constant: 0.25'
    """
    for old, new in KEYS.items():
        text = re.sub(rf"^{old}:", f"{new}:", text, flags=re.M)
    for old, new in SAMPLINGS.items():
        text = re.sub(rf"^sampling: {old}$", f"sampling: {new}", text, flags=re.M)
    return paths(text)
