"""How a segmentor covers an image: whole, by overlapping windows, at several scales and mirrored.

Each is called with `network`, `images` and `sizes`, and returns a map (K, H, W) in float32 for each image:

- network: list of images (C, h, w), of any sizes -> list of logits (K, h, w);
- images: list of (C, h, w), normalized;
- sizes: list of (H, W), what the maps are resized to (bilinear, corners not aligned).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from .blocks import resize

Network = Callable[[list[Tensor]], list[Tensor]]
Size = tuple[int, int]
Inference = Callable[[Network, list[Tensor], list[Size]], list[Tensor]]


class WholeImage:
    """Logits of the whole images, in one batch."""

    def __call__(self, network: Network, images: list[Tensor], sizes: list[Size]) -> list[Tensor]:
        return _fit(network(images), sizes)


class SlidingWindow:
    """Logits of overlapping windows, averaged; all windows of an image are one batch.

    The last window of a row or a column is shifted back to the border, so none leaves the image. Where the
    image is smaller, the window is as high or as wide as the image.

    Args:
        window: (height, width) in pixels, or one number for both.
        stride: from each window to the next, likewise; at most the window.

    Raises:
        UserError: numbers below 1, or a stride that would leave gaps.
    """

    def __init__(self, window: int | Sequence[int] = 512, stride: int | Sequence[int] = 341):
        self.window, self.stride = _pair(window, "window"), _pair(stride, "stride")
        if any(s > w for s, w in zip(self.stride, self.window, strict=True)):
            raise UserError(
                f"SlidingWindow: stride {self.stride} leaves gaps between windows of {self.window}: "
                "give at most the window"
            )

    def __call__(self, network: Network, images: list[Tensor], sizes: list[Size]) -> list[Tensor]:
        return _fit([self._cover(network, image) for image in images], sizes)

    def _cover(self, network: Network, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        h, w = min(self.window[0], height), min(self.window[1], width)
        tops, lefts = _starts(height, h, self.stride[0]), _starts(width, w, self.stride[1])
        places = [(..., slice(top, top + h), slice(left, left + w)) for top in tops for left in lefts]
        windows = network([image[place] for place in places])
        total = windows[0].new_zeros(len(windows[0]), height, width)
        count = total.new_zeros(height, width)
        for place, logits in zip(places, windows, strict=True):
            total[place] += logits
            count[place] += 1
        return total / count


class MultiScaleFlip:
    """Softmax probabilities at the final size, averaged over scales and mirror images.

    Args:
        scales: of the images as the mapper gives them, above 0; their sizes are rounded to whole pixels.
        flip: see every scale mirrored (left to right) as well.
        base: what gives the logits at each scale, WholeImage() or a SlidingWindow.

    Raises:
        UserError: no scale, or one that is not above 0.
    """

    def __init__(
        self,
        scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
        flip: bool = True,
        base: Inference | None = None,
    ):
        self.scales, self.flip = tuple(scales), flip
        self.base = WholeImage() if base is None else base
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"MultiScaleFlip: scales={list(self.scales)}: give at least one, all above 0")

    def __call__(self, network: Network, images: list[Tensor], sizes: list[Size]) -> list[Tensor]:
        totals = None
        for scale in self.scales:
            scaled = [_scale(image, scale) for image in images]
            for mirrored in (False, True) if self.flip else (False,):
                seen = [image.flip(-1) for image in scaled] if mirrored else scaled
                found = [logits.softmax(0) for logits in self.base(network, seen, sizes)]
                found = [p.flip(-1) for p in found] if mirrored else found
                totals = found if totals is None else [a + b for a, b in zip(totals, found, strict=True)]
        return [total / (len(self.scales) * (1 + self.flip)) for total in totals]


def _fit(maps: list[Tensor], sizes: list[Size]) -> list[Tensor]:
    return [resize(x[None], size)[0] for x, size in zip(maps, sizes, strict=True)]


def _pair(value: int | Sequence[int], name: str) -> Size:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise UserError(f"SlidingWindow: {name}={value}: give one or two (height, width) numbers of pixels")
    return pair


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows that cover `length` pixels; the last one ends with it."""
    return [*range(0, length - window, stride), length - window]


def _scale(image: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image
    # Antialiased, as Pillow's resizing in the mapper is.
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


INFERENCE = {mode.__name__: mode for mode in (WholeImage, SlidingWindow, MultiScaleFlip)}
