"""The modules of IV-tuning (arXiv 2412.16654): hybrid adapters, prompt adapters, the prompt generator.

docs/method.md 1 has their equations. These forward passes are the definition; fused.py, folded.py and
triton_site.py compute the same values faster. Modules take and return maps (B, H, W, C); only convolutions
and SimAM work on (B, C, H, W).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.norms import make_norm
from ..frozen_statistics import frozen_statistics
from ..layers import set_zero

SIMAM_PENALTY = 1e-4  # lambda of SimAM, which keeps flat maps from dividing by zero


def simam(x: Tensor) -> Tensor:
    """SimAM attention on `x` (B, c, H, W). It has no parameters; its statistics run over the whole map."""
    deviation = (x - x.mean((2, 3), keepdim=True)).square()
    # A 1x1 map has no degree of freedom: the paper's code divides by zero there.
    freedom = max(x.shape[2] * x.shape[3] - 1, 1)
    energy = deviation / (4 * (deviation.sum((2, 3), keepdim=True) / freedom + SIMAM_PENALTY)) + 0.5
    return x * energy.sigmoid()


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """`tensors` one after the other, without a copy where there is one alone."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


class HybridOperation(nn.Module):
    """HO(h): a partial depthwise 3x3 convolution, then a residual block of two 1x1 convolutions.

    (B, h, H, W) -> the same. The convolution's output, a quarter of the channels, is added to its input; the
    other channels are doubled, as in the paper's code (docs/method.md 1.2).
    """

    def __init__(self, channels: int, norm: str = "BN"):
        super().__init__()
        self.part = channels // 4
        self.depthwise = nn.Conv2d(self.part, self.part, 3, padding=1, groups=self.part)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.norm = make_norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, update_statistics: bool = True) -> Tensor:
        """`update_statistics` is False in the backward pass, where a batch is seen for the second time."""
        first, rest = x[:, : self.part], x[:, self.part :]
        y = torch.cat([self.depthwise(first), rest], 1) + x
        with contextlib.nullcontext() if update_statistics else frozen_statistics(self.norm):
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

    def fold_into(self, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """Weight (k, C) and bias (k,) that give ``layer(self(x))`` when applied to the standardized x."""
        weight = layer.weight * (self.norm.weight * self.gamma)
        shift = torch.addcmul(self.beta, self.norm.bias, self.gamma)
        return weight, F.linear(shift, layer.weight, layer.bias)


class HybridAdapter(nn.Module):
    """HA(C, h): the hybrid adapter, with its residual. (B, H, W, C) -> the same.

    133 C + 8672 parameters at h=64.

    `legacy_hw_swap` reads the token sequence as a (W, H) map, as the paper's detection code does. On maps
    that are not square the convolution then sees scrambled neighbors.
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

    def bottleneck(self, u: Tensor, update_statistics: bool = True) -> Tensor:
        """The part between the two projections: (B, H, W, h) -> the same."""
        batch, height, width, _ = u.shape
        if self.legacy_hw_swap:
            u = u.reshape(batch, width, height, -1)
        u = self.mix(u.permute(0, 3, 1, 2), update_statistics).permute(0, 2, 3, 1)
        return F.gelu(u.reshape(batch, height, width, -1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.dropout(self.bottleneck(self.down(self.transform(x)))))

    def reset_to_identity(self) -> None:
        """Make the adapter the identity."""
        set_zero(self.up)


class PromptAdapter(nn.Module):
    """IPA(C, r): the internal prompt adapter. Prompt (B, H, W, C) -> what is added to the stream.

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
        """The part between the two projections: (B, H, W, r) -> the same."""
        return F.gelu(simam(p.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    def forward(self, prompt: Tensor) -> Tensor:
        return F.gelu(self.scale(self.up(self.attention(self.down(self.transform(prompt))))))

    def scaled_up_parts(self) -> tuple[Tensor, ...]:
        """Weight (C, r) and bias (C,) of the up-projection, and the last scale and bias if it has them."""
        if isinstance(self.scale, nn.Identity):
            return self.up.weight, self.up.bias
        return self.up.weight, self.up.bias, self.scale.gamma, self.scale.beta

    def scaled_up(self) -> tuple[Tensor, Tensor]:
        """Weight (C, r) and bias (C,) of the up-projection with the last scale and bias multiplied in."""
        weight, bias, *affine = self.scaled_up_parts()
        if not affine:
            return weight, bias
        gamma, beta = affine
        return weight * gamma[:, None], torch.addcmul(beta, bias, gamma)

    def reset_to_identity(self) -> None:
        """Make the output zero, whatever the prompt."""
        set_zero(self.up)
        if not isinstance(self.scale, nn.Identity):
            nn.init.zeros_(self.scale.beta)


class PromptGenerator(nn.Module):
    """EMPG(C, e): the external modal prompt generator. Visible and infrared map (B, H, W, C) -> the prompt.

    25 C + 196 parameters at e=8. Every weight starts Xavier-uniform, as in the paper's code.
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
