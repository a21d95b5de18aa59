"""Kernels whose compiled code is kept on disk, and is never older than any source it was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba as nb
from numba.core.caching import IndexDataCacheFile


@cache
def digest() -> str:
    """Of all sources that hold kernels: numba looks at the file of one function, and kernels inline those of others."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for package in ("noise", "engine") for path in (root / package).glob("*.py")):
        found.update(f"{path.name}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit(cache=True), kept under the digest of all kernels; what older ones left is cleared."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = nb.njit(cache=True, **options)(function)
        kept = getattr(dispatcher, "_cache", None)  # none under NUMBA_DISABLE_JIT
        if kept is not None:
            name, _, rest = kept._impl.filename_base.rpartition("-")  # FILE.FUNCTION-LINE.PYTHON
            base = f"{name}-{digest()}.{rest.partition('.')[2]}"
            kept._cache_file = IndexDataCacheFile(kept.cache_path, base, digest())
            _clear(Path(kept.cache_path), name)
        return dispatcher

    return decorate


def _clear(folder: Path, name: str) -> None:
    """Names hold the digest, so that a process that still runs older code neither reads nor writes newer files."""
    for path in folder.glob(f"{name}-*.nb[ic]"):
        if digest() not in path.name:
            path.unlink(missing_ok=True)
