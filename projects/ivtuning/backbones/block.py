"""What the trunks' blocks share: sites for adapters, activation checkpointing, ways to attend."""

from __future__ import annotations

import contextlib

import torch
from timm.layers import use_fused_attn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..tuning.base import BlockAdapters
from ..tuning.frozen_statistics import FrozenStatistics
from ..tuning.sites import SitedBlock
from .attention.choice import products_are_faster

# Which activations are recomputed in the backward pass: none, those inside the MLP, or all of the block.
ACTIVATION_CHECKPOINTING = (None, "mlp", "block")


class OpenBlock(SitedBlock):
    """Mixin that opens timm's pre-norm block, with activation checkpointing and ways to attend.

    Attributes:
        activation_checkpointing: one of ACTIVATION_CHECKPOINTING; the trunk sets it.
        chooses_attention: timm's attention module is told at each input how to compute it.
        attn_backends: the ways in which the block can compute its attention, see :meth:`set_attn_backend`.
    """

    activation_checkpointing: str | None = None
    chooses_attention = False
    attn_backends: tuple[str, ...] = ("auto", "plain", "fused")

    def set_attn_backend(self, backend: str) -> None:
        """Choose how the attention is computed; `backend` is one of :attr:`attn_backends`.

        "plain" is the explicit softmax(q k^T + bias) v with all scores in memory, "fused" a faster form for
        any device, "triton" CUDA kernels, "auto" the best of them for the input.
        """
        # timm's attention modules have the first two of them.
        self.chooses_attention = backend == "auto"
        self.attn.fused_attn = use_fused_attn() if backend == "auto" else backend == "fused"

    def attend(self, x: Tensor, **options: Tensor) -> Tensor:
        if self.chooses_attention:
            fused = use_fused_attn() and not products_are_faster(x, x.shape[1])
            if self.attn.fused_attn != fused:
                self.attn.fused_attn = fused
        return super().attend(x, **options)

    def run_mlp(self, x: Tensor) -> Tensor:
        if self.activation_checkpointing == "mlp" and torch.is_grad_enabled():
            # It stops once all kept activations are there again, so a frozen last layer, which keeps none, is
            # not computed twice.
            return checkpoint(self.feed_forward, x, use_reentrant=False)
        return self.feed_forward(x)

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
        recomputing = contextlib.nullcontext() if adapters is None else FrozenStatistics(adapters)
        contexts = contextlib.nullcontext(), recomputing  # of the first pass, and of the second
        return checkpoint(
            self.run, x, adapters, prompt, use_reentrant=False, context_fn=lambda: contexts, **attention
        )
