"""SegFormer's all-MLP decoder (arXiv 2105.15203, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .blocks import Decoder, classifier, conv_block, resize


class SegFormer(Decoder):
    """A linear layer for each map; all are resized to the largest, fused by a 1x1 convolution and classified.

    As in the paper and the authors' code, the layers of the maps are linear, with bias but without norm and
    ReLU, and have torch's initialization (mmsegmentation has norm and ReLU there, and always 256 channels).
    The logits have the largest map's size: stride 4 on Swin, the patch size on a plain ViT.

    Args:
        in_features, in_channels: the maps.
        num_classes: K.
        channels: the paper's C, 256 for B0 and B1, 768 for B2 to B5.
        norm: "BN", "SyncBN" or "GN", of the fusion.
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
        maps = self.select(features)
        size = max((x.shape[-2:] for x in maps), key=lambda s: s[0] * s[1])
        maps = [resize(linear(x), size) for linear, x in zip(self.linears, maps, strict=True)]
        return self.classifier(self.fuse(torch.cat(maps, 1)))
