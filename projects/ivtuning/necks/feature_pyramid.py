"""Feature pyramids: FPN on maps of several strides (arXiv 1612.03144), and ViTDet's simple pyramid on one map
(arXiv 2203.16527, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling import FPN, Backbone
from timm.layers import LayerNorm2d
from torch import Tensor, nn


class FeaturePyramid(FPN):
    """detectron2's FPN on all outputs of the trunk, which is called `net` here and `bottom_up` there.

    Args:
        net: the trunk; the strides of its outputs double from one to the next.
        out_channels: channels of every level.
        top_block: adds coarser levels, such as detectron2's LastLevelMaxPool.

    Forward: image (B, 3 or 6, H, W) -> {"p2": (B, out_channels, H/4, W/4), ...}, named by log2 of the stride.
    H and W must be multiples of the largest stride; detectron2's models pad to it.
    """

    def __init__(self, net: Backbone, out_channels: int = 256, top_block: nn.Module | None = None):
        super().__init__(net, list(net.output_shape()), out_channels, top_block=top_block)
        self.net = self._modules.pop("bottom_up")

    @property
    def bottom_up(self) -> Backbone:
        """The trunk, under the name that detectron2's code asks for."""
        return self.net


class SimpleFeaturePyramid(Backbone):
    """Feature maps of several strides, made of the trunk's last one.

    detectron2's pooling of regions wants strides that are powers of two. Where the trunk's is none, its map
    is first resampled to the next one: a map of stride 14 becomes one of 16, bilinearly, place for place.

    Parameter names are those of detectron2's class of the same name, so its checkpoints load.

    Args:
        net: the trunk.
        in_feature: name of the trunk's output to use.
        out_channels: channels of every level.
        scale_factors: size of each level relative to the (resampled) map, 4.0 | 2.0 | 1.0 | 0.5.
        top_block: adds coarser levels, such as detectron2's LastLevelMaxPool.

    Forward: image (B, 3 or 6, H, W) -> {"p2": (B, out_channels, H/4, W/4), ...}, named by log2 of the stride.
    """

    def __init__(
        self,
        net: Backbone,
        in_feature: str = "last_feat",
        out_channels: int = 256,
        scale_factors: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
        top_block: nn.Module | None = None,
    ):
        super().__init__()
        self.net, self.in_feature, self.top_block = net, in_feature, top_block
        shape = net.output_shape()[in_feature]
        stride = 2 ** math.ceil(math.log2(shape.stride))
        self.resample = shape.stride / stride
        self.levels = []
        for factor in scale_factors:
            level = int(math.log2(stride / factor))
            # Submodules are named by level directly, as detectron2 names them.
            self.add_module(f"simfp_{level}", _level(factor, shape.channels, out_channels))
            self.levels.append(level)
        strides = [2**level for level in self.levels]
        if top_block is not None:
            strides += [strides[-1] * 2 ** (i + 1) for i in range(top_block.num_levels)]
        self._out_feature_strides = {f"p{int(math.log2(s))}": s for s in strides}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = 2 ** max(self.levels)

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.net(x)[self.in_feature]
        if self.resample != 1:
            # With the factor, and not with the size, the map's padding beyond the image does not shift it.
            features = F.interpolate(features, scale_factor=self.resample, mode="bilinear")
        maps = {f"p{level}": getattr(self, f"simfp_{level}")(features) for level in self.levels}
        if self.top_block is not None:
            extra = self.top_block(maps[self.top_block.in_feature])
            maps.update(zip(self._out_features[len(maps) :], extra, strict=True))
        return maps


def _level(factor: float, channels: int, out_channels: int) -> nn.Sequential:
    """Scale the map by `factor`, then 1x1 and 3x3 convolutions with channel LayerNorm."""
    if factor == 4.0:
        scale = [
            nn.ConvTranspose2d(channels, channels // 2, 2, 2),
            LayerNorm2d(channels // 2),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2),
        ]
        channels = channels // 4
    elif factor == 2.0:
        scale = [nn.ConvTranspose2d(channels, channels // 2, 2, 2)]
        channels = channels // 2
    elif factor == 1.0:
        scale = []
    elif factor == 0.5:
        scale = [nn.MaxPool2d(2, 2)]
    else:
        raise NotImplementedError(f"scale factor {factor}: the pyramid knows 4.0, 2.0, 1.0 and 0.5")
    return nn.Sequential(
        *scale,
        Conv2d(channels, out_channels, 1, bias=False, norm=LayerNorm2d(out_channels)),
        Conv2d(out_channels, out_channels, 3, padding=1, bias=False, norm=LayerNorm2d(out_channels)),
    )
