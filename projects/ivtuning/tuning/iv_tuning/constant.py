"""IV-tuning's sites as functions of constants, without caches and without writing into their inputs.

These are the equations of :mod:`.folded` in a form that torch.export can trace.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import BlockAdapters
from .folded import ONES, Pairs, Site, fold_sites
from .modules import SIMAM_PENALTY


class ConstantSite(nn.Module):
    """One site: ``HA(x) + IPA(p)``, (B, H, W, C) each -> the same shape.

    Args:
        site: the constants.
        prompt_down, prompt_bias: the prompt adapter's down-projection, (r, C) and (r,).
        prompt_eps: of its norm.
    """

    def __init__(self, site: Site, prompt_down: Tensor, prompt_bias: Tensor, prompt_eps: float):
        super().__init__()
        self.eps, self.swap, self.prompt_eps = site.eps, site.swap, prompt_eps
        up, prompt_up = site.up, site.prompt_up
        width, prompt_width = len(up) - ONES, len(prompt_up) - ONES
        for name, tensor in (
            ("down", site.down),
            ("down_bias", site.down_bias),
            ("depthwise", site.depthwise),
            ("depthwise_bias", site.depthwise_bias),
            ("conv1", site.conv1),
            ("conv1_bias", site.conv1_bias),
            ("conv2", site.conv2.T),
            ("up", up[:width].T),
            ("up_bias", up[width]),
            ("prompt_down", prompt_down),
            ("prompt_bias", prompt_bias),
            ("prompt_up", prompt_up[:prompt_width].T),
            ("prompt_up_bias", prompt_up[prompt_width]),
        ):
            self.register_buffer(name, tensor.detach().clone())

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        return x + self.hybrid(x) + self.prompted(prompt)

    def hybrid(self, x: Tensor) -> Tensor:
        """What the hybrid adapter adds to `x`."""
        batch, height, width, channels = x.shape
        part = self.depthwise.shape[0]
        u = F.linear(F.layer_norm(x, (channels,), eps=self.eps), self.down, self.down_bias)
        if self.swap:
            u = u.reshape(batch, width, height, -1)
        first = F.conv2d(
            u[..., :part].permute(0, 3, 1, 2), self.depthwise, self.depthwise_bias, padding=1, groups=part
        )
        u = torch.cat([first.permute(0, 2, 3, 1), u[..., part:]], -1)
        u = u + F.linear(F.linear(u, self.conv1, self.conv1_bias).relu(), self.conv2)
        if self.swap:
            u = u.reshape(batch, height, width, -1)
        return F.linear(F.gelu(u), self.up, self.up_bias)

    def prompted(self, prompt: Tensor) -> Tensor:
        """What the prompt adapter adds."""
        normed = F.layer_norm(prompt, prompt.shape[-1:], eps=self.prompt_eps)
        z = F.linear(normed, self.prompt_down, self.prompt_bias)
        # SimAM's sums run over the whole map, which half precision cannot hold.
        wide = z.float()
        deviation = (wide - wide.mean((1, 2), keepdim=True)).square()
        pixels = z.shape[1] * z.shape[2]
        # A map of one pixel has a sum of 0, whatever it is divided by.
        variance = deviation.sum((1, 2), keepdim=True) / torch.sym_max(pixels - 1, 1)
        a = wide * (deviation / (4 * (variance + SIMAM_PENALTY)) + 0.5).sigmoid()
        return F.gelu(F.linear(F.gelu(a).to(z.dtype), self.prompt_up, self.prompt_up_bias))


class ConstantAdapters(BlockAdapters):
    """The two sites of a block, :class:`ConstantSite` each. It does not train."""

    def __init__(self, pairs: Pairs):
        super().__init__()
        constants = fold_sites(pairs)
        down, bias = constants.prompt_down.chunk(2), constants.prompt_bias.chunk(2)
        self.site1, self.site2 = (
            ConstantSite(site, down[i], bias[i], constants.prompt_eps)
            for i, site in enumerate(constants.sites)
        )

    def after_attention(self, x: Tensor, prompt: Tensor) -> Tensor:
        return self.site1(x, prompt)

    def after_mlp(self, y: Tensor, x: Tensor, prompt: Tensor) -> Tensor:
        return self.site2(y, prompt)
