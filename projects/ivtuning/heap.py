"""The C library's heap, on which torch puts all tensors of a CPU."""

from __future__ import annotations

import ctypes
import functools
import sys

# mallopt's numbers (malloc.h), and the largest block that glibc keeps in the heap on 64 bits.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 32 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors, up to 32 MiB each, until the process ends.

    By default it gives large blocks back to the system at once, and each new one costs page faults: on maps
    of some megabytes these take longer than an addition does. The process stays as large as it was at its
    peak. False, and nothing done, where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    never = -1
    return bool(
        mallopt is not None and mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, never)
    )
