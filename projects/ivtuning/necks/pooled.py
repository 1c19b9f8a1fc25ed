"""A trunk whose last feature map is averaged to one vector per image."""

from __future__ import annotations

from torch import Tensor, nn

from ..backbones.trunk import Trunk


class PooledTrunk(nn.Module):
    """The mean over the trunk's last feature map, (B, 3, H, W) float -> (B, C). It adds no parameters.

    Args:
        net: the trunk. Its last output is pooled, after the output norm where there is one.
    """

    def __init__(self, net: Trunk):
        super().__init__()
        self.net = net
        self.feature, shape = list(net.output_shape().items())[-1]
        self.channels = shape.channels

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[self.feature].mean((2, 3))
