"""The modules of IV-tuning (arXiv 2412.16654): hybrid adapters, prompt adapters, the prompt generator."""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UserError
from ..frozen_statistics import statistics_kept


def make_norm(kind: str, channels: int) -> nn.Module:
    """`kind` of normalization for (B, `channels`, H, W): "BN" (the paper's), "SyncBN" (CUDA only) or "GN"."""
    if kind == "BN":
        return nn.BatchNorm2d(channels)
    if kind == "SyncBN":
        return nn.SyncBatchNorm(channels)
    if kind == "GN":
        return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)
    raise UserError(f"norm {kind!r} is not one of 'BN', 'SyncBN', 'GN': set tuner.norm to one of them")


def simam(x: Tensor, penalty: float = 1e-4) -> Tensor:
    """SimAM attention, parameter-free. `x` is (B, c, H, W); statistics run over the whole map."""
    deviation = (x - x.mean((2, 3), keepdim=True)).square()
    # A 1x1 map has no degree of freedom left: clamp, where the original divides by zero.
    freedom = max(x.shape[2] * x.shape[3] - 1, 1)
    energy = deviation / (4 * (deviation.sum((2, 3), keepdim=True) / freedom + penalty)) + 0.5
    return x * energy.sigmoid()


class HybridOperation(nn.Module):
    """HO(h): a partial depthwise 3x3 convolution, then a residual bottleneck of two 1x1 convolutions.

    (B, h, H, W) -> the same. The quarter of the channels that the depthwise convolution takes is added to the
    input; the others are doubled (the original's ``concat(x1', x2) + x``).
    """

    def __init__(self, channels: int, norm: str = "BN"):
        super().__init__()
        self.part = channels // 4
        self.depthwise = nn.Conv2d(self.part, self.part, 3, padding=1, groups=self.part)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.norm = make_norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, again: bool = False) -> Tensor:
        """`again`: a repetition in the backward pass, which must not count in the running statistics."""
        first, rest = x[:, : self.part], x[:, self.part :]
        y = torch.cat([self.depthwise(first), rest], 1) + x
        with statistics_kept(self.norm) if again else contextlib.nullcontext():
            z = self.norm(self.conv1(y))
        return self.conv2(z.relu()) + y


class FeatureTransform(nn.Module):
    """SFT(C): ``norm(x) * gamma + beta``, the norm being optional. (..., C) -> the same."""

    def __init__(self, channels: int, norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.norm(x), self.gamma)


class HybridAdapter(nn.Module):
    """HA(C, h), on the residual stream, residual inside. (B, H, W, C) -> the same.

    133 C + 8672 parameters at h=64.

    `legacy_hw_swap` reads the token sequence as a (W, H) map, as the original's detection code does: on maps
    that are not square its convolution then sees scrambled neighbors.
    """

    def __init__(
        self, channels: int, hidden_dim: int, dropout: float, norm: str, legacy_hw_swap: bool = False
    ):
        super().__init__()
        self.transform = FeatureTransform(channels, norm=True)
        self.down = nn.Linear(channels, hidden_dim)
        self.mix = HybridOperation(hidden_dim, norm)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(hidden_dim, channels)
        self.legacy_hw_swap = legacy_hw_swap

    def bottleneck(self, u: Tensor, again: bool = False) -> Tensor:
        """What happens between the two projections: (B, H, W, h) -> the same."""
        batch, height, width, _ = u.shape
        if self.legacy_hw_swap:
            u = u.reshape(batch, width, height, -1)
        u = self.mix(u.permute(0, 3, 1, 2), again).permute(0, 2, 3, 1)
        return F.gelu(u.reshape(batch, height, width, -1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.dropout(self.bottleneck(self.down(self.transform(x)))))

    @torch.no_grad()
    def reset_to_identity(self) -> None:
        """Make it the identity."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)


class PromptAdapter(nn.Module):
    """IPA(C, r), the internal prompt adapter: a delta made of the carried prompt. (B, H, W, C) -> the same.

    23 C + 8 parameters at r=8; `post_affine=False` drops the last scale and bias (2 C), which gives the
    published count of ViTDet-B.
    """

    def __init__(self, channels: int, prompt_dim: int, post_affine: bool = True):
        super().__init__()
        self.transform = FeatureTransform(channels, norm=True)
        self.down = nn.Linear(channels, prompt_dim)
        self.up = nn.Linear(prompt_dim, channels)
        self.scale = FeatureTransform(channels, norm=False) if post_affine else nn.Identity()

    def attention(self, p: Tensor) -> Tensor:
        """What happens between the two projections: (B, H, W, r) -> the same."""
        return F.gelu(simam(p.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    def forward(self, prompt: Tensor) -> Tensor:
        return F.gelu(self.scale(self.up(self.attention(self.down(self.transform(prompt))))))

    @torch.no_grad()
    def reset_to_identity(self) -> None:
        """Make the delta zero, whatever the prompt."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        if not isinstance(self.scale, nn.Identity):
            nn.init.zeros_(self.scale.beta)


class PromptGenerator(nn.Module):
    """EMPG(C, e): makes the external prompt of both modalities. Two (B, H, W, C) maps -> one.

    25 C + 196 parameters at e=8. Xavier-uniform on every weight, as the original.
    """

    def __init__(self, channels: int, hidden_dim: int = 8, norm: str = "BN"):
        super().__init__()
        self.visible = nn.Conv2d(channels, hidden_dim, 1)
        self.infrared = nn.Conv2d(channels, hidden_dim, 1)
        self.mix = HybridOperation(hidden_dim, norm)
        self.out = nn.Conv2d(hidden_dim, channels, 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        a = self.mix(self.visible(visible.permute(0, 3, 1, 2)))
        b = simam(self.infrared(infrared.permute(0, 3, 1, 2)))
        return self.out(a + b).permute(0, 2, 3, 1)
