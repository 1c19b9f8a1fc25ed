"""Settings of the C library's heap, which holds all of torch's CPU tensors, and of Python's collector."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import sys
from collections.abc import Iterator

# mallopt's numbers (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors until the process ends.

    By default it returns large blocks to the system at once, and every new block costs page faults: for maps
    of some megabytes these take longer than an addition. The process stays as large as it was at its peak.

    Returns:
        Whether it was set: another C library does not have the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # No block lies outside the heap, and the end of the heap is not returned to the system.
    return bool(mallopt is not None and mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's garbage collector, which takes half the time of building millions of small objects."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
