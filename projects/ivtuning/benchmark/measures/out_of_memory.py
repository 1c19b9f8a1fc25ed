"""Runs that may not fit into the device's memory: what is too large is left out, the rest goes on."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

T = TypeVar("T")


def attempt(run: Callable[[], T]) -> T | None:
    """What `run` returns; None where CUDA's memory does not suffice for it, which is then free again."""
    with contextlib.suppress(torch.OutOfMemoryError):
        return run()
    # After the handler: the error's traceback held the tensors of all its frames.
    release()
    return None


def fitting(makers: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """What each of `makers` returns, one after another, without those that do not fit."""
    made = ((name, attempt(make)) for name, make in makers.items())
    return {name: found for name, found in made if found is not None}


def release() -> None:
    """Hand back what nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def lost(found: Mapping[str, object], *names: str) -> str:
    """The note of a figure that needs `names`, of which some did not fit and are not in `found`; else ""."""
    missing = [name for name in names if name not in found]
    return f"out of memory: {', '.join(missing)}" if missing else ""
