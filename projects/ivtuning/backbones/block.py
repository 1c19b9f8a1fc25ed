"""What the trunks' blocks share."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..tuning.base import Sites
from ..tuning.statistics import statistics_kept

# What of a block's activations the backward pass computes again: nothing, the MLP's, or all.
RECOMPUTE = (None, "mlp", "block")


class OpenBlock:
    """Mixin that opens timm's pre-norm block at the three sites of :mod:`ivtuning.tuning.base`.

    `recompute` is one of RECOMPUTE; the trunk sets it.
    """

    recompute: str | None = None

    def attend(self, x: Tensor) -> Tensor:
        return self.attn(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.ls2(self.mlp(self.norm2(x)))

    def run(self, x: Tensor, sites: Sites | None, prompt: Tensor | None) -> Tensor:
        """The block itself."""
        x = x + self.drop_path1(self.ls1(self.attend(self.norm1(x))))
        if sites is not None:
            x = sites.after_attention(x, prompt)
        if self.recompute == "mlp" and torch.is_grad_enabled():
            # Ends once all that is kept is there again: a frozen last layer, which keeps nothing, is spared.
            y = checkpoint(self.feed_forward, x, use_reentrant=False)
        else:
            y = self.feed_forward(x)
        if sites is None:
            return x + self.drop_path2(y)
        y = sites.on_mlp(y, x)
        return sites.after_mlp(x + self.drop_path2(y), x, prompt)

    def forward(self, x: Tensor, sites: Sites | None = None, prompt: Tensor | None = None) -> Tensor:
        if self.recompute != "block" or not torch.is_grad_enabled():
            return self.run(x, sites, prompt)
        kept = contextlib.nullcontext() if sites is None else statistics_kept(getattr(sites, "inner", sites))
        contexts = contextlib.nullcontext(), kept  # of the first pass, and of the second
        return checkpoint(self.run, x, sites, prompt, use_reentrant=False, context_fn=lambda: contexts)
