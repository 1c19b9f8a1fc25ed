"""Adapter (arXiv 1902.00751) as a baseline of the Mona paper; see docs/method.md 3."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .base import GELU_INSIDE, Tuner, TwoAdapters
from .layers import linear, set_zero
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
        set_zero(self.up)


class BottleneckAdapters(TwoAdapters):
    """One bottleneck on the attention's output and one on the MLP's, both before drop-path and residual."""

    def on_attention(self, y: Tensor, x: Tensor) -> Tensor:
        return y + self.adapter1(y)

    def on_mlp(self, y: Tensor, x: Tensor) -> Tensor:
        return y + self.adapter2(y)


class Adapter(Tuner):
    """Adapter: two bottlenecks in every block; the trunk is frozen. 2 (129 C + 64) parameters a block.

    Args:
        hidden_dim: width of the bottlenecks.
        dropout: rate inside, before the up-projection.
        zero_init: start as the identity, which the Mona paper's code does not.

    Raises:
        UserError: an option of another kind or range.
    """

    unmergeable = GELU_INSIDE
    revision = 2  # the first one had the bottleneck behind the attention on the residual stream

    def __init__(self, hidden_dim: int = 64, dropout: float = 0.1, zero_init: bool = False):
        super().__init__()
        need_whole("tuner.hidden_dim", hidden_dim)
        need_rate("tuner.dropout", dropout)
        self.options: dict = dict(hidden_dim=hidden_dim, dropout=dropout)
        self.zero_init = zero_init

    def build_adapters(self, width: int) -> BottleneckAdapters:
        return BottleneckAdapters(*(Bottleneck(width, **self.options) for _ in range(2)))
