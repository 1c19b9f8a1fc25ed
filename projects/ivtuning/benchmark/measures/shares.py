"""How a training step's time divides: the backbone's forward pass, and the matching of queries."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from torch import nn

from ...heads.dino import HungarianMatcher
from .timing import wait


def shares(model: nn.Module, step: Callable[[], object]) -> dict[str, float]:
    """Call `step`, a training step of `model`; parts of its seconds in "backbone" and, with one, "matching".

    The device is waited for around each of them, so this step is slower than others.
    """
    spent: dict[str, float] = {}
    with (
        _timed(model.backbone, "forward", "backbone", spent),
        _timed(HungarianMatcher, "__call__", "matching", spent),
    ):
        wait()
        start = time.perf_counter()
        step()
        wait()
        whole = time.perf_counter() - start
    return {name: seconds / whole for name, seconds in spent.items()}


@contextlib.contextmanager
def _timed(owner: object, name: str, key: str, spent: dict[str, float]) -> Iterator[None]:
    """Inside, the seconds of every call of `owner`'s `name` are added to `spent[key]`."""
    original = getattr(owner, name)

    def call(*args, **kwargs):
        wait()
        start = time.perf_counter()
        result = original(*args, **kwargs)
        wait()
        spent[key] = spent.get(key, 0.0) + time.perf_counter() - start
        return result

    own = name in vars(owner)
    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, original) if own else delattr(owner, name)
