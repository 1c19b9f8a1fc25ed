"""Thread settings that leave the machine usable for other work.

A thread of OpenMP that waits for the others spins for a while before it sleeps: with GNU's library, which
torch brings on Linux, for some 15 milliseconds. While another process occupies the core that the last thread
needs, spinning only keeps that thread waiting longer, and small operations take a hundred times as long. A
shorter spin costs next to nothing on an idle machine: docs/speed.md has the figures.
"""

from __future__ import annotations

import os

SETTINGS = {
    "GOMP_SPINCOUNT": "4000",  # GNU's OpenMP: rounds, instead of 300,000
    "KMP_BLOCKTIME": "1",  # Intel's and LLVM's OpenMP: milliseconds, instead of 200
    "OPENCV_FOR_THREADS_NUM": "1",  # OpenCV's own pool spins as well, for images too small to need it
}
# Variables of the user's that decide the same; OMP_WAIT_POLICY stands for every OpenMP library.
_DECIDED_BY = {
    "GOMP_SPINCOUNT": ("OMP_WAIT_POLICY",),
    "KMP_BLOCKTIME": ("OMP_WAIT_POLICY", "KMP_LIBRARY"),
}


def set_thread_defaults() -> None:
    """Set :data:`SETTINGS` in the environment, except where the user's own variables say otherwise.

    The libraries read them when they are loaded, so call this before torch and OpenCV are imported. Child
    processes inherit them.
    """
    for name, value in SETTINGS.items():
        if not any(other in os.environ for other in _DECIDED_BY.get(name, ())):
            os.environ.setdefault(name, value)
