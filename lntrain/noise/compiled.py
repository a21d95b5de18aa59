"""Kernels whose compiled code is kept on disk, and is never older than any source it was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba as nb
from numba.core.caching import IndexDataCacheFile


@cache
def digest() -> str:
    """Of all sources that hold kernels, as this process met them first."""
    return _digest()


def _digest() -> str:
    """Of those sources now: numba looks at the file of one function, and kernels inline those of others."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for package in ("noise", "engine") for path in (root / package).glob("*.py")):
        found.update(f"{path.name}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit(cache=True), kept under the digest of all kernels; what older ones left is cleared.

    Sources that change while a process loads them are compiled for it alone: it may hold some old and some new.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        if _digest() != digest():
            return nb.njit(**options)(function)
        dispatcher = nb.njit(cache=True, **options)(function)
        kept = getattr(dispatcher, "_cache", None)  # none under NUMBA_DISABLE_JIT
        if kept is not None:
            name, _, rest = kept._impl.filename_base.rpartition("-")  # FILE.FUNCTION-LINE.PYTHON
            base = f"{name}-{digest()}.{rest.partition('.')[2]}"
            kept._cache_file = IndexDataCacheFile(kept.cache_path, base, digest())
            _clear(Path(kept.cache_path))
        return dispatcher

    return decorate


def _clear(folder: Path) -> None:
    """Names hold the digest, so that a process that still runs older code neither reads nor writes newer files."""
    for path in folder.glob("*.nb[ic]"):
        if digest() not in path.name:
            with suppress(OSError):  # another user's, or gone
                path.unlink()
