"""Mona (CVPR 2025, arXiv 2408.08345): multi-cognitive visual adapters. Equations: docs/method.md 2.

Modules take and return maps (B, H, W, C); only convolutions work on (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .base import CONVOLUTION_INSIDE, Tuner, TwoAdapters
from .layers import linear, set_zero
from .options import need_rate, need_whole


class MonaConv(nn.Module):
    """``z + mean of depthwise convolutions``, then ``+ 1x1 convolution``. (B, h, H, W) -> the same.

    h^2 + 88 h parameters with kernels of 3, 5 and 7. The mean of the convolutions is one convolution with the
    mean of their kernels, padded to the widest: the same result, and one map is kept instead of three.
    """

    def __init__(self, channels: int, kernels: Sequence[int] = (3, 5, 7)):
        super().__init__()
        several = isinstance(kernels, Sequence) and len(kernels) > 0
        if not several or not all(isinstance(k, int) and k > 0 and k % 2 for k in kernels):
            raise UserError(f"tuner.kernels={kernels}: give odd sizes of depthwise kernels, as [3,5,7]")
        self.depthwise = nn.ModuleList(
            nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels) for k in kernels
        )
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.reach = max(kernels) // 2

    def forward(self, z: Tensor) -> Tensor:
        kernels = [F.pad(c.weight, [self.reach - c.padding[0]] * 4) for c in self.depthwise]
        weight = torch.stack(kernels).mean(0)
        bias = torch.stack([c.bias for c in self.depthwise]).mean(0)
        z = z + F.conv2d(z, weight, bias, padding=self.reach, groups=len(weight))
        return z + self.pointwise(z)


class MonaAdapter(nn.Module):
    """Mona's adapter with its skip (docs/method.md 2). (B, H, W, C) -> the same.

    133 C + 9728 parameters at hidden_dim=64 and kernels of 3, 5 and 7: the released code's count, in which
    both scales are vectors. The skip carries the input itself, not the scaled one.
    """

    def __init__(self, channels: int, hidden_dim: int, kernels: Sequence[int], dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.gammax = nn.Parameter(torch.ones(channels))
        self.down = linear(channels, hidden_dim)
        self.mix = MonaConv(hidden_dim, kernels)
        self.dropout = nn.Dropout(dropout)
        self.up = linear(hidden_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        u = self.gamma * self.norm(x) + self.gammax * x
        z = self.mix(self.down(u).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.up(self.dropout(F.gelu(z)))

    def reset_to_identity(self) -> None:
        """Make the adapter the identity."""
        set_zero(self.up)


class MonaBlockAdapters(TwoAdapters):
    """Two adapters on the residual stream: one after the attention, one after the MLP."""

    def after_attention(self, x: Tensor, prompt: Tensor) -> Tensor:
        return self.adapter1(x)

    def after_mlp(self, y: Tensor, x: Tensor, prompt: Tensor) -> Tensor:
        return self.adapter2(y)


class Mona(Tuner):
    """Mona: two convolutional adapters in every block; the trunk is frozen. 2 (133 C + 9728) a block.

    Args:
        hidden_dim: width of the bottleneck, the same in every stage.
        kernels: sizes of the depthwise kernels, odd.
        dropout: rate inside, before the up-projection.
        zero_init: start as the identity, which the paper's code does not.

    Raises:
        UserError: an option of another kind or range.
    """

    unmergeable = CONVOLUTION_INSIDE

    def __init__(
        self,
        hidden_dim: int = 64,
        kernels: Sequence[int] = (3, 5, 7),
        dropout: float = 0.1,
        zero_init: bool = False,
    ):
        super().__init__()
        need_whole("tuner.hidden_dim", hidden_dim)
        need_rate("tuner.dropout", dropout)
        self.options: dict = dict(hidden_dim=hidden_dim, kernels=kernels, dropout=dropout)
        self.zero_init = zero_init

    def build_adapters(self, width: int) -> MonaBlockAdapters:
        return MonaBlockAdapters(*(MonaAdapter(width, **self.options) for _ in range(2)))
