"""What the trunks' blocks share."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..tuning.base import BlockAdapters
from ..tuning.frozen_statistics import statistics_kept

# What of a block's activations the backward pass computes again: nothing, the MLP's, or all.
ACTIVATION_CHECKPOINTING = (None, "mlp", "block")


class OpenBlock:
    """Mixin that opens timm's pre-norm block at the three sites of :mod:`ivtuning.tuning.base`.

    `activation_checkpointing` is one of ACTIVATION_CHECKPOINTING; the trunk sets it.
    """

    activation_checkpointing: str | None = None

    def attend(self, x: Tensor) -> Tensor:
        return self.attn(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.ls2(self.mlp(self.norm2(x)))

    def run(self, x: Tensor, adapters: BlockAdapters | None, prompt: Tensor | None) -> Tensor:
        """The block itself."""
        x = x + self.drop_path1(self.ls1(self.attend(self.norm1(x))))
        if adapters is not None:
            x = adapters.after_attention(x, prompt)
        if self.activation_checkpointing == "mlp" and torch.is_grad_enabled():
            # Ends once all that is kept is there again: a frozen last layer, which keeps nothing, is spared.
            y = checkpoint(self.feed_forward, x, use_reentrant=False)
        else:
            y = self.feed_forward(x)
        if adapters is None:
            return x + self.drop_path2(y)
        y = adapters.on_mlp(y, x)
        return adapters.after_mlp(x + self.drop_path2(y), x, prompt)

    def forward(
        self, x: Tensor, adapters: BlockAdapters | None = None, prompt: Tensor | None = None
    ) -> Tensor:
        if self.activation_checkpointing != "block" or not torch.is_grad_enabled():
            return self.run(x, adapters, prompt)
        kept = (
            contextlib.nullcontext()
            if adapters is None
            else statistics_kept(getattr(adapters, "inner", adapters))
        )
        contexts = contextlib.nullcontext(), kept  # of the first pass, and of the second
        return checkpoint(self.run, x, adapters, prompt, use_reentrant=False, context_fn=lambda: contexts)
