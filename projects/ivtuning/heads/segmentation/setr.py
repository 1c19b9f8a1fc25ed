"""SETR's decoders (arXiv 2012.15840, section 3.3): progressive upsampling and multi-level aggregation.

Channels, norms and auxiliary heads are those of the authors' code, with two differences: convolutions have no
bias before a batch norm, which would subtract it again, and upsampling never aligns corners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ...utils.precision import at_least_float32
from .blocks import Decoder, FeatureReader, classifier, conv_block, conv_blocks, upsample
from .fcn import FCN


class SETRPUP(FCN):
    """Progressive upsampling: an FCN on one map, with a LayerNorm before and enlargements in between.

    Each of the `convs` convolutions is followed by an enlargement, so the logits have `scale`**`convs` times
    the map's size. The classifier comes before the last enlargement, which gives the same result (bilinear
    weights sum to 1) with less work. The paper's auxiliary decoders, on the maps of blocks 9, 14, 19 and 23,
    are this decoder with ``convs=1, scale=4``.

    Args:
        convs: number of convolutions.
        scale: factor of each enlargement.
        *args, **kwargs: as in :class:`.fcn.FCN`.
    """

    def __init__(self, *args, convs: int = 4, scale: int = 2, dropout: float = 0.0, **kwargs):
        super().__init__(*args, convs=convs, dropout=dropout, **kwargs)
        self.scale = scale
        self.norm = LayerNorm2d(self.in_channels[0], eps=1e-6)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        x = self.norm(*self.select(features))
        for i, conv in enumerate(self.convs):
            x = conv(upsample(x, self.scale) if i else x)
        return upsample(at_least_float32(self.classifier(x)), self.scale)


class MLANeck(FeatureReader):
    """First half of multi-level aggregation: sums the maps from the last one down.

    Each map passes a LayerNorm and a 1x1 convolution, is added to the sum of the maps after it, and ends with
    a 3x3 convolution. This is a separate neck because the auxiliary decoders read its maps, with one 1x1
    convolution each: ``FCN(convs=0, dropout=0.0)`` (with bias, as in mmsegmentation).

    Args:
        in_features, in_channels: the maps, in the order of the blocks; the paper's are evenly spaced.
        channels: of the neck's maps.
        norm: "BN", "SyncBN" or "GN".

    Forward: {name: (B, C, h, w)} -> {name: (B, `channels`, h, w)}; UserError as in :class:`FeatureReader`.
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
        maps = self.select(features)
        outputs, total = {}, 0
        for i in reversed(range(len(maps))):
            total = self.laterals[i](self.norms[i](maps[i])) + total
            outputs[self.in_features[i]] = self.outputs[i](total)
        return outputs


class SETRMLA(Decoder):
    """Second half of multi-level aggregation, on :class:`MLANeck`'s maps.

    Each map passes two 3x3 convolutions and a fourfold enlargement; then all are concatenated and classified.
    As in the authors' code, the classifier is a 3x3 convolution (1x1 in mmsegmentation 1.x). The logits have
    four times the maps' size.

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
        maps = zip(self.branches, self.select(features), strict=True)
        return self.classifier(torch.cat([upsample(branch(x), 4) for branch, x in maps], 1))
