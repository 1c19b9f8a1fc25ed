"""Building blocks of the decoders: convolutions with norm and ReLU, the classifier, resizing.

Initialization follows mmsegmentation, whose code the published numbers come from: Kaiming normal over the
fan-out for convolutions, normal with std 0.01 for classifiers, zero biases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch.nn.functional as F
from detectron2.layers import Conv2d
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from ...errors import UserError, nearest
from ...utils.norms import make_norm

GROUPS = 32  # of the decoders' GroupNorms


class FeatureReader(nn.Module):
    """Base of modules that take some of the backbone's maps.

    Args:
        in_features: names of these maps.
        in_channels: number of channels of each.

    Raises:
        UserError: the numbers of names and channels differ; in the forward pass, a map is missing or has
            another number of channels.
    """

    def __init__(self, in_features: Sequence[str], in_channels: Sequence[int]):
        super().__init__()
        self.in_features, self.in_channels = tuple(in_features), tuple(in_channels)
        if len(self.in_features) != len(self.in_channels):
            raise UserError(
                f"{type(self).__name__}: {len(in_features)} in_features and {len(in_channels)} in_channels: "
                "give one number for each name"
            )

    def select(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """The maps of `in_features`, in their order."""
        reader = type(self).__name__
        for name, channels in zip(self.in_features, self.in_channels, strict=True):
            if name not in features:
                raise UserError(
                    f"{reader} reads {name!r}, the backbone gives {', '.join(features)}: fix in_features"
                    f"{nearest(name, features)}"
                )
            if (actual := features[name].shape[1]) != channels:
                raise UserError(f"{reader}: {name!r} has {actual} channels, not {channels}: fix in_channels")
        return [features[name] for name in self.in_features]


class Decoder(FeatureReader):
    """Base of the decoders, which turn feature maps into logits (B, K, h, w) at a stride of their own.

    Args:
        in_features, in_channels: as in :class:`FeatureReader`.
        num_classes: K.

    Raises:
        UserError: K is below 1.
    """

    def __init__(self, in_features: Sequence[str], in_channels: Sequence[int], num_classes: int):
        super().__init__(in_features, in_channels)
        if num_classes < 1:
            raise UserError(f"num_classes={num_classes}: a decoder needs at least 1 class")
        self.num_classes = num_classes


def conv_block(in_channels: int, out_channels: int, kernel_size: int, norm: str) -> Conv2d:
    """A convolution without bias that keeps the map's size, a norm and ReLU."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=False,
        norm=make_norm(norm, out_channels, GROUPS),
        activation=F.relu,
    )
    c2_msra_fill(conv)
    return conv


def conv_blocks(in_channels: int, channels: int, count: int, norm: str) -> list[Conv2d]:
    """A stack of `count` 3x3 blocks, all with `channels`."""
    widths = [in_channels] + [channels] * count
    return [conv_block(a, b, 3, norm) for a, b in pairwise(widths)]


def classifier(channels: int, num_classes: int, dropout: float = 0.0, kernel_size: int = 1) -> nn.Sequential:
    """Dropout of whole channels and a convolution with bias that gives the logits."""
    conv = nn.Conv2d(channels, num_classes, kernel_size, padding=kernel_size // 2)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.Dropout2d(dropout), conv)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """`x` (B, C, h, w) resized bilinearly to `size` (height, width); corners are not aligned."""
    # Symbolic sizes are not compared: their graph must serve all sizes.
    if all(isinstance(side, int) for side in size) and tuple(size) == tuple(x.shape[-2:]):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def upsample(x: Tensor, scale: int) -> Tensor:
    """`x` (B, C, h, w) enlarged bilinearly to `scale` times its size."""
    return resize(x, (x.shape[-2] * scale, x.shape[-1] * scale))
