"""Adapter (arXiv 1902.00751), placed in the block as the Mona paper's baseline places it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import GELU_INSIDE, BlockAdapters, Tuner
from .options import need_rate, need_whole


class Bottleneck(nn.Module):
    """``up(dropout(gelu(down(x))))``, without a skip. (..., C) -> the same.

    129 C + 64 parameters at hidden_dim=64. Weights start truncated normal (std 0.02), biases zero.
    """

    def __init__(self, channels: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.down = linear(channels, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.up = linear(hidden_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.dropout(F.gelu(self.down(x))))

    def reset_to_identity(self) -> None:
        """Make the output zero, whatever the input."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer started as in the Mona paper's code: truncated normal of std 0.02, zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


class BottleneckAdapters(BlockAdapters):
    """One bottleneck on the residual stream after the attention, one on the MLP's output before drop-path."""

    def __init__(self, adapter1: Bottleneck, adapter2: Bottleneck):
        super().__init__()
        self.adapter1, self.adapter2 = adapter1, adapter2

    def after_attention(self, x: Tensor, prompt: Tensor) -> Tensor:
        return x + self.adapter1(x)

    def on_mlp(self, y: Tensor, x: Tensor) -> Tensor:
        return y + self.adapter2(y)

    @torch.no_grad()
    def reset_to_identity(self) -> None:
        self.adapter1.reset_to_identity()
        self.adapter2.reset_to_identity()


class Adapter(Tuner):
    """Adapter: two bottlenecks in every block; the trunk is frozen. 2 (129 C + 64) parameters a block.

    Args:
        hidden_dim: width of the bottlenecks.
        dropout: rate inside, before the up-projection.
        zero_init: start as the identity; the Mona paper's code does not.

    Raises:
        UserError: an option of another kind or range.
    """

    unmergeable = GELU_INSIDE

    def __init__(self, hidden_dim: int = 64, dropout: float = 0.1, zero_init: bool = False):
        super().__init__()
        need_whole("tuner.hidden_dim", hidden_dim)
        need_rate("tuner.dropout", dropout)
        self.options = dict(hidden_dim=hidden_dim, dropout=dropout)
        self.zero_init = zero_init

    def build_adapters(self, width: int) -> BottleneckAdapters:
        adapters = BottleneckAdapters(Bottleneck(width, **self.options), Bottleneck(width, **self.options))
        if self.zero_init:
            adapters.reset_to_identity()
        return adapters
