"""Small decoders, and feature maps for them."""

from __future__ import annotations

import torch
from torch import nn

from helpers.golden import wave
from ivtuning.heads.segmentation.fcn import FCN
from ivtuning.heads.segmentation.segformer import SegFormer
from ivtuning.heads.segmentation.setr import SETRMLA, SETRPUP, MLANeck
from ivtuning.heads.segmentation.upernet import UPerNet

# Names of the maps of Swin's stages, with their channels, and of a plain ViT's blocks.
STAGES, WIDTHS = ["p0", "p1", "p2", "p3"], [8, 16, 32, 64]
BLOCKS = ["block0", "block1", "block2", "block3"]


def pyramid(images: int = 2, height: int = 37, width: int = 50) -> dict[str, torch.Tensor]:
    """A pyramid whose sides are halved and rounded up, as Swin's."""
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(4)]
    return {name: wave(images, c, *s) for name, c, s in zip(STAGES, WIDTHS, sizes, strict=True)}


def block_maps(images: int = 2, height: int = 5, width: int = 7) -> dict[str, torch.Tensor]:
    """Maps of four blocks, all of one size, as a plain ViT's."""
    return {name: wave(images, 24, height, width) * (i + 1) ** 0.5 for i, name in enumerate(BLOCKS)}


def decoder(name: str, classes: int = 7, norm: str = "BN", channels: int = 32, **kwargs) -> nn.Module:
    """The decoder `name` of DECODERS, seeded."""
    torch.manual_seed(0)
    kwargs = dict(num_classes=classes, norm=norm, channels=channels, **kwargs)
    return {
        "UPerNet": lambda: UPerNet(STAGES, WIDTHS, **kwargs),
        "SegFormer": lambda: SegFormer(STAGES, WIDTHS, **kwargs),
        "FCN": lambda: FCN("p2", 32, **kwargs),
        "SETRPUP": lambda: SETRPUP("block3", 24, **kwargs),
        "auxiliary": lambda: SETRPUP("block1", 24, convs=1, scale=4, **kwargs),
        "SETRMLA": lambda: nn.Sequential(
            MLANeck(BLOCKS, [24] * 4, channels, norm), SETRMLA(BLOCKS, in_channels=channels, **kwargs)
        ),
    }[name]()


DECODERS = ("UPerNet", "SegFormer", "FCN", "SETRPUP", "auxiliary", "SETRMLA")


def features(name: str, images: int = 2, **kwargs) -> dict[str, torch.Tensor]:
    """Maps for the decoder `name`."""
    return (pyramid if name in ("UPerNet", "SegFormer", "FCN") else block_maps)(images, **kwargs)
