"""The patch embedding of all trunks, timm's in a faster form, and the resizing of position embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm import layers
from torch import Tensor, nn

from ..utils.precision import at_least_float32, without_autocast


class PatchEmbed(layers.PatchEmbed):
    """timm's patch embedding for images of any size, padded with zeros at the right and the bottom.

    Parameter names are timm's. The map's channels lie side by side in memory, as all blocks want them. timm's
    map is a view of (B, C, h, w), a layout that sums keep and that every norm and linear layer would copy.
    """

    def __init__(self, patch_size: int, embed_dim: int, norm_layer: type[nn.Module] | None = None):
        super().__init__(
            None,
            patch_size,
            3,
            embed_dim,
            norm_layer,
            output_fmt="NHWC",
            strict_img_size=False,
            dynamic_img_pad=True,
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, h, w, C), contiguous."""
        height, width = self.patch_size
        down, right = missing_to(height, image.shape[2]), missing_to(width, image.shape[3])
        if down or right:
            image = pad_end(image, down, right)
        # On a CPU oneDNN's convolution beats the product in full precision; cuDNN's is several times slower.
        embed = by_convolution if image.is_cpu else by_product
        return self.norm(embed(image, self.proj))


def missing_to(multiple: int, size: int) -> int:
    """What a side of `size` lacks to the next multiple.

    A symbolic size that is padded by it is a multiple by its form, so that what follows from it stays short.
    """
    return multiple * ((size + multiple - 1) // multiple) - size


def pad_end(x: Tensor, down: int, right: int, channels_last: bool = False) -> Tensor:
    """A map with rows of zeros at the bottom and columns at the right, (B, C, H, W) or (B, H, W, C)."""
    channels = (0, 0) if channels_last else ()
    if isinstance(down, int) and isinstance(right, int):
        return F.pad(x, (*channels, 0, right, 0, down))
    # F.pad asks whether there is anything to pad. For symbolic sizes the answer would become part of a graph.
    x = F.pad(x, (*channels, 0, right + 1, 0, down + 1))
    return x[:, :-1, :-1] if channels_last else x[..., :-1, :-1]


def by_convolution(image: Tensor, proj: nn.Conv2d) -> Tensor:
    """(B, 3, H, W) -> (B, h, w, C), contiguous."""
    # The output is laid out as the input is.
    x = proj(image.contiguous(memory_format=torch.channels_last))
    return x.permute(0, 2, 3, 1).contiguous()


def by_product(image: Tensor, proj: nn.Conv2d) -> Tensor:
    """The same as one matrix product, which works since the stride is the size of the kernel."""
    height, width = proj.kernel_size
    patches = image.unflatten(3, (-1, width)).unflatten(2, (-1, height)).permute(0, 2, 4, 1, 3, 5)
    return F.linear(patches.flatten(3), proj.weight.flatten(1), proj.bias)


def resize_positions(grid: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """A position embedding (1, H, W, C), resized bicubically to `size`, (1, h, w, C): F.interpolate's values.

    `antialias` is F.interpolate's as well. With it the values are timm's.

    Bicubic interpolation is linear, first along one side, then along the other: two matrix products. CUDA's
    kernel for it runs through all channels in each of h * w threads, many times slower.
    """
    # Symbolic sizes are not compared: their graph must serve all. For an equal one, weights are 0 and 1.
    if all(isinstance(side, int) for side in size) and size == tuple(grid.shape[1:3]):
        return grid
    with without_autocast(grid.device.type):  # which would round the positions
        x = at_least_float32(grid)
        rows, columns = (
            _weights(old, new, x, antialias) for old, new in zip(x.shape[1:3], size, strict=True)
        )
        x = (rows @ x.flatten(2)).unflatten(2, x.shape[2:])
        return (columns @ x).to(grid.dtype)


def _weights(old: int, new: int, like: Tensor, antialias: bool) -> Tensor:
    """(new, old): a side's new values as weighted sums of the old ones."""
    identity = torch.eye(old, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None, None], size=(new, old), mode="bicubic", antialias=antialias)[0, 0]
