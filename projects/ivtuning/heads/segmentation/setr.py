"""SETR's decoders (arXiv 2012.15840, section 3.3): progressive upsampling and multi-level aggregation.

Channels, norms and auxiliary heads are those of the authors' code. Two things differ: no bias before a batch
norm, which would subtract it again, and corners are never aligned in upsampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ...utils.precision import at_least_float32
from .blocks import Decoder, Reader, classifier, conv_block, conv_blocks, upsample


class SETRPUP(Decoder):
    """Progressive upsampling: `convs` times a 3x3 convolution and an enlargement, then the classifier.

    One tap is read, through a LayerNorm. Logits have `scale`**`convs` times its size; they are classified
    before the last enlargement, which gives the same (bilinear weights sum to 1) with less work. The
    auxiliary decoders of the paper, for out_indices 9, 14, 19 and 23, are this with ``convs=1, scale=4``.

    Args:
        in_feature, in_channels: the tap.
        num_classes: K.
        channels: of the convolutions.
        convs: how many there are.
        scale: of each enlargement.
        norm: "BN", "SyncBN" or "GN".
    """

    def __init__(
        self,
        in_feature: str,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        convs: int = 4,
        scale: int = 2,
        norm: str = "SyncBN",
    ):
        super().__init__([in_feature], [in_channels], num_classes)
        self.scale = scale
        self.norm = LayerNorm2d(in_channels, eps=1e-6)
        self.convs = nn.ModuleList(conv_blocks(in_channels, channels, convs, norm))
        self.classifier = classifier(channels, num_classes)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        x = self.norm(*self.levels(features))
        for i, conv in enumerate(self.convs):
            x = conv(upsample(x, self.scale) if i else x)
        return upsample(at_least_float32(self.classifier(x)), self.scale)


class MLANeck(Reader):
    """First half of multi-level aggregation: maps of `channels` each, summed from the last one down.

    Each tap passes a LayerNorm and a 1x1 convolution, is added to the sum of those after it, and ends with
    a 3x3 convolution. A neck of its own, because the auxiliary decoders read its maps: one 1x1 convolution
    each, that is ``FCN(convs=0, dropout=0.0)`` (with bias, as in mmsegmentation).

    Args:
        in_features, in_channels: the out_indices, in the order of the blocks; the paper's are evenly spread.
        channels: of the maps.
        norm: "BN", "SyncBN" or "GN".

    Forward: {name: (B, C, h, w)} -> {name: (B, `channels`, h, w)}; UserError as in :class:`Reader`.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        channels: int = 256,
        norm: str = "SyncBN",
    ):
        super().__init__(in_features, in_channels)
        self.norms = nn.ModuleList(LayerNorm2d(c, eps=1e-6) for c in in_channels)
        self.laterals = nn.ModuleList(conv_block(c, channels, 1, norm) for c in in_channels)
        self.outputs = nn.ModuleList(conv_block(channels, channels, 3, norm) for _ in in_channels)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out_indices = self.levels(features)
        maps, total = {}, 0
        for i in reversed(range(len(out_indices))):
            total = self.laterals[i](self.norms[i](out_indices[i])) + total
            maps[self.in_features[i]] = self.outputs[i](total)
        return maps


class SETRMLA(Decoder):
    """Second half of multi-level aggregation, on :class:`MLANeck`'s maps.

    Two 3x3 convolutions and a fourfold enlargement of each, concatenation, classifier. As in the authors'
    code the classifier is a 3x3 convolution (mmsegmentation 1.x has 1x1). Logits have four times the maps'
    size.

    Args:
        in_features: the neck's maps, all of one size.
        num_classes: K.
        in_channels: of each map.
        channels: of each branch.
        norm: "BN", "SyncBN" or "GN".
    """

    def __init__(
        self,
        in_features: Sequence[str],
        num_classes: int,
        in_channels: int = 256,
        channels: int = 128,
        norm: str = "SyncBN",
    ):
        super().__init__(in_features, [in_channels] * len(in_features), num_classes)
        self.branches = nn.ModuleList(
            nn.Sequential(*conv_blocks(in_channels, channels, 2, norm)) for _ in in_features
        )
        self.classifier = classifier(channels * len(in_features), num_classes, kernel_size=3)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        maps = zip(self.branches, self.levels(features), strict=True)
        return self.classifier(torch.cat([upsample(branch(x), 4) for branch, x in maps], 1))
