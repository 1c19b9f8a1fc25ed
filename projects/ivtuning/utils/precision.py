"""Number types: what half precision cannot hold, and what autocast does."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or unchanged where it is float64.

    Half precision cannot hold pixel coordinates, matching costs or sums over many scores.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product_dtype(x: Tensor) -> torch.dtype:
    """The type in which matrix products of `x` are computed: autocast's where that is on, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if is_autocast_on(kind) else x.dtype


def is_autocast_on(kind: str) -> bool:
    """Whether autocast is on for devices of this kind, such as "cuda". The meta device has none."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def without_autocast(kind: str) -> contextlib.AbstractContextManager:
    """A context in which autocast is off for devices of this kind, such as "cuda"."""
    if not torch.amp.is_autocast_available(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)
