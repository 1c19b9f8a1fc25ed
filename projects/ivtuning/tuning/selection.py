"""Methods that add nothing and only choose which of the trunk's own parameters train."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .base import Tuner


class Frozen(Tuner):
    """Nothing of the trunk trains (the papers' "fixed" baseline)."""


class Full(Tuner):
    """Everything trains (full fine-tuning)."""

    def select(self, trunk: nn.Module) -> Iterable[nn.Parameter]:
        return trunk.base_parameters()
