"""The progress bar for everything that takes more than a moment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from tqdm import tqdm


def track(items: Iterable, label: str, total: int | None = None) -> tqdm:
    """Iterate over `items` with a bar on stderr that shows count, rate and the remaining time.

    A terminal shows it move; a log file gets a line every 15 seconds at most. Under torchrun only the first
    process shows it.
    """
    interval = 0.1 if sys.stderr.isatty() else 15.0
    hidden = os.environ.get("RANK", "0") != "0"
    return tqdm(items, label, total, mininterval=interval, dynamic_ncols=True, disable=hidden)


def byte_bar(label: str, total: int | None, done: int = 0) -> tqdm:
    """A bar for bytes, of which `done` are there already; the caller updates it by what comes."""
    interval = 0.1 if sys.stderr.isatty() else 15.0
    return tqdm(
        desc=label,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        mininterval=interval,
        dynamic_ncols=True,
    )
