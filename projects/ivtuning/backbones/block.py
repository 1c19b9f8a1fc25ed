"""What the trunks' blocks share: sites for adapters, activation checkpointing, ways to attend."""

from __future__ import annotations

import contextlib

import torch
from timm.layers import use_fused_attn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..tuning.base import BlockAdapters
from ..tuning.frozen_statistics import frozen_statistics

# Which activations are recomputed in the backward pass: none, those inside the MLP, or all of the block.
ACTIVATION_CHECKPOINTING = (None, "mlp", "block")


class OpenBlock:
    """Mixin that opens timm's pre-norm block at the four sites of :mod:`ivtuning.tuning.base`.

    Attributes:
        activation_checkpointing: one of ACTIVATION_CHECKPOINTING; the trunk sets it.
        attn_backends: the ways in which the block can compute its attention, see :meth:`set_attn_backend`.
    """

    activation_checkpointing: str | None = None
    attn_backends: tuple[str, ...] = ("auto", "plain", "fused")

    def attend(self, x: Tensor, **options: Tensor) -> Tensor:
        """The attention branch without its norm; `options` are what :meth:`forward` was given for it."""
        return self.attn(x, **options)

    def set_attn_backend(self, backend: str) -> None:
        """Choose how the attention is computed; `backend` is one of :attr:`attn_backends`.

        "plain" is the explicit softmax(q k^T + bias) v with all scores in memory, "fused" a faster form for
        any device, "triton" CUDA kernels, "auto" the best of them for the input.
        """
        # timm's attention modules have the first two of them.
        self.attn.fused_attn = use_fused_attn() if backend == "auto" else backend == "fused"

    def feed_forward(self, x: Tensor) -> Tensor:
        """The MLP branch with its norm, before drop-path."""
        return self.ls2(self.mlp(self.norm2(x)))

    def run(
        self, x: Tensor, adapters: BlockAdapters | None, prompt: Tensor | None, **attention: Tensor
    ) -> Tensor:
        """The block without checkpointing of the whole; see :meth:`forward`."""
        y = self.ls1(self.attend(self.norm1(x), **attention))
        if adapters is None:
            x = x + self.drop_path1(y)
        else:
            y = adapters.on_attention(y, x)
            x = adapters.after_attention(x + self.drop_path1(y), prompt)
        if self.activation_checkpointing == "mlp" and torch.is_grad_enabled():
            # It stops once all kept activations are there again, so a frozen last layer, which keeps none, is
            # not computed twice.
            y = checkpoint(self.feed_forward, x, use_reentrant=False)
        else:
            y = self.feed_forward(x)
        if adapters is None:
            return x + self.drop_path2(y)
        y = adapters.on_mlp(y, x)
        return adapters.after_mlp(x + self.drop_path2(y), x, prompt)

    def forward(
        self,
        x: Tensor,
        adapters: BlockAdapters | None = None,
        prompt: Tensor | None = None,
        **attention: Tensor,
    ) -> Tensor:
        """Run the block on `x`, whose shape is returned.

        Args:
            adapters, prompt: see :class:`ivtuning.tuning.base.BlockAdapters`.
            attention: what :meth:`attend` needs besides its input.
        """
        if self.activation_checkpointing != "block" or not torch.is_grad_enabled():
            return self.run(x, adapters, prompt, **attention)
        recomputing = contextlib.nullcontext() if adapters is None else frozen_statistics(adapters)
        contexts = contextlib.nullcontext(), recomputing  # of the first pass, and of the second
        return checkpoint(
            self.run, x, adapters, prompt, use_reentrant=False, context_fn=lambda: contexts, **attention
        )
