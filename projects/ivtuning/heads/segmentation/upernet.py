"""UPerNet (arXiv 1807.10221, section 3.1): a feature pyramid on top of pyramid pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Decoder, classifier, conv_block, resize


class PyramidPooling(nn.Module):
    """The map and its averages over coarse grids, fused by a 3x3 convolution (PSPNet, arXiv 1612.01105).

    Args:
        in_channels, channels: of the input and the output.
        pools: number of cells along each side of every grid.
        norm: "BN", "SyncBN" or "GN". A batch of one image, pooled to one cell, is
            a special case of the norms in blocks.py.

    Forward: (B, `in_channels`, h, w) -> (B, `channels`, h, w).
    """

    def __init__(self, in_channels: int, channels: int, pools: Sequence[int], norm: str):
        super().__init__()
        self.pools = tuple(pools)
        self.branches = nn.ModuleList(conv_block(in_channels, channels, 1, norm) for _ in pools)
        self.bottleneck = conv_block(in_channels + len(self.pools) * channels, channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        branches = zip(self.pools, self.branches, strict=True)
        grids = [resize(conv(F.adaptive_avg_pool2d(x, pool)), x.shape[-2:]) for pool, conv in branches]
        return self.bottleneck(torch.cat([x, *grids], 1))


class UPerNet(Decoder):
    """The scene parsing part of UPerNet; the logits have the finest map's size.

    Args:
        in_features, in_channels: the maps, finest first.
        num_classes: K.
        channels: of all inner maps.
        pools: grids of the pyramid pooling.
        norm: "BN", "SyncBN" or "GN".
        dropout: of whole channels, before the classifier.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 512,
        pools: Sequence[int] = (1, 2, 3, 6),
        norm: str = "SyncBN",
        dropout: float = 0.1,
    ):
        super().__init__(in_features, in_channels, num_classes)
        *finer, last = self.in_channels
        self.pooling = PyramidPooling(last, channels, pools, norm)
        self.laterals = nn.ModuleList(conv_block(c, channels, 1, norm) for c in finer)
        self.outputs = nn.ModuleList(conv_block(channels, channels, 3, norm) for _ in finer)
        self.fuse = conv_block(len(self.in_channels) * channels, channels, 3, norm)
        self.classifier = classifier(channels, num_classes, dropout)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        *finer, last = self.select(features)
        x = self.pooling(last)
        maps = [x]  # the pyramid, finest first
        for i in reversed(range(len(finer))):
            lateral = self.laterals[i](finer[i])
            x = lateral + resize(x, lateral.shape[-2:])
            maps.insert(0, self.outputs[i](x))
        size = maps[0].shape[-2:]
        return self.classifier(self.fuse(torch.cat([resize(m, size) for m in maps], 1)))
