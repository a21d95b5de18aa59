"""Break a formula by a factor 1.2 and see its row fail: for tests of the table itself."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from typing import Any

FACTOR = 1.2


def scaled(value: Any) -> Any:
    """1.2 times a number, an array, a law's scale or a solution's coefficients.

    >>> scaled(10), scaled(1.0)
    (12, 1.2)
    """
    if is_dataclass(value) and not isinstance(value, type):
        name = "scale" if hasattr(value, "scale") else "coef"
        return replace(value, **{name: FACTOR * getattr(value, name)})
    return round(FACTOR * value) if isinstance(value, int) else FACTOR * value


@contextlib.contextmanager
def broken(formula: str | None) -> Iterator[None]:
    """A context in which "module:name" gives 1.2 times its value; "module:name[key]" is a number in a dict."""
    if formula is None:
        yield
        return
    path, _, name = formula.partition(":")
    name, _, key = name.removesuffix("]").partition("[")
    module = importlib.import_module(path)
    original = getattr(module, name)
    if key:
        changed: Any = {**original, key: scaled(original[key])}
    else:

        def changed(*args: Any, **kwargs: Any) -> Any:
            return scaled(original(*args, **kwargs))

    setattr(module, name, changed)
    try:
        yield
    finally:
        setattr(module, name, original)
