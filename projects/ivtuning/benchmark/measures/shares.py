"""Shares of a training step's time: the backbone's forward pass, and the matching of queries."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from torch import nn

from ...heads.dino import HungarianMatcher
from .timing import wait


def shares(model: nn.Module, step: Callable[[], object]) -> dict[str, float]:
    """Run `step`, a training step of `model`, and return the shares of its time.

    They are "backbone" and, if the model matches queries, "matching"; fractions of 1. The device is
    synchronized around both, so this step is slower than others.
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
    """Add the seconds of every call of `owner`'s method `name` to `spent[key]`."""
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
