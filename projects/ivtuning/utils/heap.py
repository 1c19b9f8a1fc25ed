"""The C library's heap, on which torch puts all tensors of a CPU."""

from __future__ import annotations

import ctypes
import functools
import sys

# mallopt's numbers (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors until the process ends.

    By default it gives large blocks back to the system at once, and each new one costs page faults: on maps
    of some megabytes these take longer than an addition does. The process stays as large as it was at its
    peak. False, and nothing done, where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # No block outside the heap, and nothing handed back at the heap's end.
    return bool(mallopt is not None and mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
