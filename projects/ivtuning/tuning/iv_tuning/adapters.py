"""IV-tuning's adapters of a block, each site by itself; passes.py has those that share work."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import UserError
from ...utils.precision import product_dtype
from ..base import TwoAdapters
from . import folded, fused, triton_site
from .folded import FoldedSites, Pairs
from .modules import HybridAdapter, PromptAdapter


class IVBlockAdapters(TwoAdapters):
    """``x = HA1(x) + IPA1(p)`` after the attention, ``x = HA2(x) + IPA2(p)`` after the MLP.

    docs/method.md 1.1 places them in the block.

    Attributes:
        backend: see :class:`.tuner.IVTuning`.
        folded: the constants that the backends "auto" and "fused" keep for evaluation.
    """

    def __init__(
        self,
        adapters: tuple[HybridAdapter, HybridAdapter],
        prompts: tuple[PromptAdapter, PromptAdapter],
        backend: str = "auto",
    ):
        super().__init__(*adapters)
        self.prompt1, self.prompt2 = prompts
        self.backend = backend
        self.folded = FoldedSites()

    @property
    def pairs(self) -> Pairs:
        """Hybrid adapter and prompt adapter of both sites."""
        return (self.adapter1, self.prompt1), (self.adapter2, self.prompt2)

    def after_attention(self, x: Tensor, prompt: Tensor) -> Tensor:
        return self._site(0, x, prompt)

    def after_mlp(self, y: Tensor, x: Tensor, prompt: Tensor) -> Tensor:
        return self._site(1, y, prompt)

    def _site(self, index: int, x: Tensor, prompt: Tensor) -> Tensor:
        adapter, prompter = self.pairs[index]
        # A compiler decides by itself what to keep and to join.
        if self.backend == "plain" or torch.compiler.is_compiling():
            return adapter(x) + prompter(prompt)
        if self.backend == "triton" and (reason := triton_site.unsupported(adapter, prompter, x, prompt)):
            raise UserError(f"tuner.backend=triton does not work here: {reason}; give tuner.backend=auto")
        if self.backend == "triton" or (
            self.backend == "auto" and triton_site.serves(adapter, prompter, x, prompt)
        ):
            return triton_site.site(adapter, prompter, x, prompt)
        if constants := self.folded.current(self.pairs, product_dtype(x)):
            attended = folded.attended_prompts(prompt, [constants])
            return folded.site(constants.sites[index], attended[index], x)
        (weights,) = fused.fold_blocks([[(adapter, prompter)]], product_dtype(x))
        (attended,) = fused.attended_prompts(prompt, [weights], prompter)
        return fused.site(adapter, weights.sites[0], attended, x)

    def train(self, mode: bool = True) -> IVBlockAdapters:
        self.folded.forget()
        return super().train(mode)
