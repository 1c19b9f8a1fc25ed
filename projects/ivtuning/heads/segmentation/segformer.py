"""SegFormer's all-MLP decoder (arXiv 2105.15203, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .blocks import Decoder, classifier, conv_block, resize


class SegFormer(Decoder):
    """Each level through a linear layer, resized to the largest map, fused by another, then the classifier.

    As in the paper and the authors' code, the layers of the levels are linear, with bias and neither norm nor
    ReLU, and start as torch's do (mmsegmentation has norm and ReLU there, and 256 channels for every size).
    Logits have the largest map's size: stride 4 on Swin, the patch size on a plain ViT's out_indices.

    Args:
        in_features, in_channels: the levels.
        num_classes: K.
        channels: C of the paper: 256 for B0 and B1, 768 for B2 to B5.
        norm: "BN", "SyncBN" or "GN", after the fusion.
        dropout: of whole channels, before the classifier.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 768,
        norm: str = "SyncBN",
        dropout: float = 0.1,
    ):
        super().__init__(in_features, in_channels, num_classes)
        self.linears = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.fuse = conv_block(channels * len(self.linears), channels, 1, norm)
        self.classifier = classifier(channels, num_classes, dropout)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        levels = self.levels(features)
        size = max((x.shape[-2:] for x in levels), key=lambda s: s[0] * s[1])
        levels = [resize(linear(x), size) for linear, x in zip(self.linears, levels, strict=True)]
        return self.classifier(self.fuse(torch.cat(levels, 1)))
