"""Numba kernels whose compiled code is cached on disk and never used once any kernel source has changed."""

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
    """Digest of all kernel sources, as this process first read them."""
    return _digest()


def _digest() -> str:
    """Digest of the sources on disk now: numba's cache checks only a kernel's own file, not those it inlines."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for package in ("noise", "engine") for path in (root / package).glob("*.py")):
        found.update(f"{path.name}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit(cache=True), with the digest of all kernel sources in the cache's file names; older files are deleted.

    If the sources change while a process loads them, it compiles without the cache: it may mix old and new code.
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
    """Delete cache files of other digests; a process that still runs older code neither reads nor writes newer ones."""
    for path in folder.glob("*.nb[ic]"):
        if digest() not in path.name:
            with suppress(OSError):  # another user's, or gone
                path.unlink()
