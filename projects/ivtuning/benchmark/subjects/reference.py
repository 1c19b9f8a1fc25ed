"""What IV-tuning is measured against: the spec's modules, composed as they stand, on explicit attention.

Explicit attention is timm's own without its fused kernel, which is detectron2's too: it stores the (N, N)
scores and, in ViTDet, adds an (N, N) bias of the decomposed relative positions. The modules compute their own
forward passes, where the trunk's sites compute both adapters as one operation.
"""

from __future__ import annotations

import copy

from timm.models import vision_transformer_sam
from torch import Tensor, nn

from ...backbones.attention.relpos import RelPosAttention
from ...backbones.block import OpenBlock
from ...backbones.trunk import Trunk
from ...tuning.iv_tuning.tuner import IVBlockAdapters


class PlainBlockAdapters(IVBlockAdapters):
    """``x = HA1(x) + IPA1(p)``, ``x = HA2(x) + IPA2(p)``, written as that (spec 1.4)."""

    def after_attention(self, x: Tensor, prompt: Tensor) -> Tensor:
        return self.adapter1(x) + self.prompt1(prompt)

    def after_mlp(self, y: Tensor, x: Tensor, prompt: Tensor) -> Tensor:
        return self.adapter2(y) + self.prompt2(prompt)


class PlainForward:
    """Mixin: a block with sites, as the spec has it."""

    def forward(
        self, x: Tensor, adapters: IVBlockAdapters | None = None, prompt: Tensor | None = None
    ) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attend(self.norm1(x))))
        if adapters is not None:
            x = adapters.after_attention(x, prompt)
        y = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return y if adapters is None else adapters.after_mlp(y, x, prompt)


def plain(trunk: Trunk) -> Trunk:
    """A copy of `trunk`, tuned by IV-tuning or by nothing, that computes the same the plain way."""
    trunk = explicit(copy.deepcopy(trunk))
    for block in trunk.blocks:
        _recast(block, type(f"Plain{type(block).__name__}", (PlainForward, type(block)), {}))
    for adapters in trunk.tuner.blocks or ():
        _recast(adapters, PlainBlockAdapters)
    return trunk


def explicit(module: nn.Module) -> nn.Module:
    """Make all attention in `module` explicit, in place."""
    for part in module.modules():
        if isinstance(part, RelPosAttention):
            _recast(part, vision_transformer_sam.Attention)
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    return module


def _recast(module: nn.Module, kind: type) -> None:
    """Another forward pass for the same parameters under the same names, as torch's parametrize does."""
    assert isinstance(module, (OpenBlock, IVBlockAdapters, RelPosAttention))
    module.__class__ = kind
