"""The neck of the DETR family: every map is brought to one width, and coarser maps are added."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import UserError


class ChannelMapper(nn.ModuleList):
    """A 1x1 convolution on every map, and 3x3 ones of stride 2 for coarser levels, each with GroupNorm(32).

    The first coarser level is made of the last map itself, each further one of the level before.

    Args:
        channels: channels of every map, finest first.
        dim: channels of every level, a multiple of 32.
        levels: number of levels, at least that of the maps.
        bias: whether the convolutions have one.

    Forward: list of (B, C, H, W) -> list of (B, dim, H, W), finest first.

    Raises:
        UserError: fewer levels than maps, or `dim` is not a multiple of 32.
    """

    def __init__(self, channels: Sequence[int], dim: int, levels: int, bias: bool = True):
        if levels < len(channels):
            raise UserError(
                f"model.transformer.num_levels={levels}, but the backbone gives {len(channels)} maps: "
                "give at least as many levels"
            )
        if dim % 32:
            raise UserError(
                f"model.transformer.embed_dim={dim}: the neck's GroupNorm(32) needs a multiple of 32"
            )
        super().__init__(_level(width, dim, 1, bias) for width in channels)
        self.maps = len(channels)
        for width in ([channels[-1]] + [dim] * levels)[: levels - self.maps]:
            self.append(_level(width, dim, 3, bias))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [layer(m) for layer, m in zip(list(self)[: self.maps], maps, strict=True)]
        for i in range(self.maps, len(self)):
            levels.append(self[i](maps[-1] if i == self.maps else levels[-1]))
        return levels


def _level(channels: int, dim: int, kernel: int, bias: bool) -> nn.Sequential:
    stride = 2 if kernel == 3 else 1
    convolution = nn.Conv2d(channels, dim, kernel, stride, padding=kernel // 2, bias=bias)
    nn.init.xavier_uniform_(convolution.weight)
    if bias:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(32, dim))
