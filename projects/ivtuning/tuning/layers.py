"""Layers that several methods build their modules from."""

from __future__ import annotations

from torch import nn


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer initialized as in the Mona paper's code: truncated normal of std 0.02, zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def set_zero(layer: nn.Linear | nn.Conv2d) -> None:
    """Set weight and bias of `layer` to zero, so that its output is zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
