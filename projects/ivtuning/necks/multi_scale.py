"""A trunk's own feature maps, for heads that build their pyramid themselves."""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ..errors import UserError


class MultiScale(Backbone):
    """The trunk at `backbone.net` and nothing else. It adds no parameters.

    Args:
        net: the trunk.
        size_divisibility: height and width are padded to multiples of this, and of the trunk's patch at
            least, in pixels. With the largest stride of the maps, or a multiple of it, their sizes match.

    Raises:
        UserError: a `size_divisibility` above 1 that is no multiple of the trunk's patches.

    Forward: image (B, 3 or 6, H, W) -> the trunk's maps {name: (B, C, h, w)}.
    """

    def __init__(self, net: nn.Module, size_divisibility: int = 32):
        super().__init__()
        patch = getattr(net, "size_divisibility", 0)
        if patch and size_divisibility > 1 and size_divisibility % patch:
            raise UserError(
                f"model.backbone.size_divisibility={size_divisibility}: the trunk's patches have {patch} px, "
                f"give a multiple of {patch}"
            )
        self.net = net
        self._size_divisibility = max(size_divisibility, patch)

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of the trunk's maps."""
        return self.net.output_shape()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.net(x)
