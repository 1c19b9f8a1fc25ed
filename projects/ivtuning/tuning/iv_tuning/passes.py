"""IV-tuning's adapters in one forward pass, where what many sites have in common is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..base import PassAdapters
from . import folded, fused
from .adapters import IVBlockAdapters


class PreparedAdapters:
    """The adapters of a block whose part of the prompt is computed: they ignore the prompt that they get.

    Args:
        adapters: the modules.
        sites: what they do after the attention and after the MLP, map to map.
    """

    def __init__(self, adapters: IVBlockAdapters, sites: Sequence[Callable[[Tensor], Tensor]]):
        self.adapters, self.sites = adapters, sites

    def modules(self) -> Iterator[nn.Module]:
        """The modules that are applied."""
        return self.adapters.modules()

    def on_attention(self, y: Tensor, x: Tensor) -> Tensor:
        return y

    def after_attention(self, x: Tensor, prompt: Tensor) -> Tensor:
        return self.sites[0](x)

    def on_mlp(self, y: Tensor, x: Tensor) -> Tensor:
        return y

    def after_mlp(self, y: Tensor, x: Tensor, prompt: Tensor) -> Tensor:
        return self.sites[1](y)


class FusedPass(PassAdapters):
    """By :mod:`.fused`: weights are folded once for all blocks, in the type `dtype` of the products."""

    def __init__(self, blocks: Sequence[IVBlockAdapters], dtype: torch.dtype):
        super().__init__(blocks)
        # Folded again in the backward pass, so that no copies of parameters are kept.
        sites = [adapters.pairs for adapters in blocks]
        self.weights = checkpoint(
            fused.fold_blocks, sites, dtype, use_reentrant=False, preserve_rng_state=False
        )

    def seeing(self, prompt: Tensor, indices: Sequence[int]) -> list[PreparedAdapters]:  # type: ignore[override]
        """See :meth:`PassAdapters.seeing`; all sites attend to the prompt in one operation."""
        blocks, weights = [self.blocks[i] for i in indices], [self.weights[i] for i in indices]
        attended = iter(fused.attended_prompts(prompt, weights, blocks[0].prompt1))
        return [
            PreparedAdapters(
                adapters,
                [
                    partial(fused.site, adapter, part, next(attended))
                    for (adapter, _), part in zip(adapters.pairs, block.sites, strict=True)
                ],
            )
            for adapters, block in zip(blocks, weights, strict=True)
        ]


class FoldedPass(PassAdapters):
    """By :mod:`.folded`, with the constants of every block."""

    def __init__(self, blocks: Sequence[IVBlockAdapters], constants: Sequence[folded.Constants]):
        super().__init__(blocks)
        self.constants = constants

    def seeing(self, prompt: Tensor, indices: Sequence[int]) -> list[PreparedAdapters]:  # type: ignore[override]
        """See :meth:`PassAdapters.seeing`; all sites attend to the prompt in one operation."""
        constants = [self.constants[i] for i in indices]
        attended = iter(folded.attended_prompts(prompt, constants))
        return [
            PreparedAdapters(
                self.blocks[i], [partial(folded.site, part, next(attended)) for part in block.sites]
            )
            for i, block in zip(indices, constants, strict=True)
        ]
