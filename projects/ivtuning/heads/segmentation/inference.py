"""Ways to run a segmentor on an image: whole, by sliding windows, at several scales and mirrored.

Each is called with `network`, `images` and `sizes`, and returns a float32 map (K, H, W) for each image:

- network: turns a list of images (C, h, w), of any sizes, into a list of logits (K, h, w);
- images: list of normalized images (C, h, w);
- sizes: list of (H, W) that the maps are resized to (bilinear, corners not aligned).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ...utils.precision import at_least_float32
from .blocks import resize

Network = Callable[[list[Tensor]], list[Tensor]]
Size = tuple[int, int]
Inference = Callable[[Network, list[Tensor], list[Size]], list[Tensor]]


class WholeImage:
    """Logits of the whole images, which run as one batch."""

    def __call__(self, network: Network, images: list[Tensor], sizes: list[Size]) -> list[Tensor]:
        return _resize_each(network(images), sizes)


class SlidingWindow:
    """Averaged logits of overlapping windows; all windows of an image run as one batch.

    The last window of a row or a column is shifted back so that it ends at the border. Where the image is
    smaller than the window, the window shrinks to the image.

    Args:
        window: (height, width) in pixels, or one number for both.
        stride: from each window to the next, in the same form; at most the window.

    Raises:
        UserError: a number below 1, or a stride that would leave gaps.
    """

    def __init__(self, window: int | Sequence[int] = 512, stride: int | Sequence[int] = 341):
        self.window, self.stride = _pair(window, "window"), _pair(stride, "stride")
        if any(s > w for s, w in zip(self.stride, self.window, strict=True)):
            raise UserError(
                f"SlidingWindow: stride {self.stride} leaves gaps between windows of {self.window}: "
                "give at most the window"
            )

    def __call__(self, network: Network, images: list[Tensor], sizes: list[Size]) -> list[Tensor]:
        return _resize_each([self.average_windows(network, image) for image in images], sizes)

    def average_windows(self, network: Network, image: Tensor) -> Tensor:
        """Averaged logits (..., K, H, W) of `image` (..., C, H, W)."""
        height, width = image.shape[-2:]
        h, w = min(self.window[0], height), min(self.window[1], width)
        tops, lefts = _starts(height, h, self.stride[0]), _starts(width, w, self.stride[1])
        windows = [(..., slice(top, top + h), slice(left, left + w)) for top in tops for left in lefts]
        logits = network([image[window] for window in windows])
        total = logits[0].new_zeros(*logits[0].shape[:-2], height, width)
        count = total.new_zeros(height, width)
        for window, window_logits in zip(windows, logits, strict=True):
            total[window] += window_logits
            count[window] += 1
        return total / count


class MultiScaleFlip:
    """Softmax probabilities at the output size, averaged over scales and mirror images.

    Args:
        scales: factors of the mapper's image size, above 0; sizes are rounded to whole pixels.
        flip: also run every scale on the image flipped left to right.
        base: gives the logits at each scale, WholeImage() (None) or a SlidingWindow.

    Raises:
        UserError: no scales, or one that is not above 0.
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
            for flipped in (False, True) if self.flip else (False,):
                inputs = [image.flip(-1) for image in scaled] if flipped else scaled
                scores = [at_least_float32(x).softmax(0) for x in self.base(network, inputs, sizes)]
                scores = [p.flip(-1) for p in scores] if flipped else scores
                totals = scores if totals is None else [a + b for a, b in zip(totals, scores, strict=True)]
        return [total / (len(self.scales) * (1 + self.flip)) for total in totals]


def _resize_each(maps: list[Tensor], sizes: list[Size]) -> list[Tensor]:
    return [resize(x[None], size)[0] for x, size in zip(maps, sizes, strict=True)]


def _pair(value: int | Sequence[int], name: str) -> Size:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise UserError(f"SlidingWindow: {name}={value}: give one or two (height, width) numbers of pixels")
    return pair


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows that cover `length` pixels; the last window ends at the border."""
    return [*range(0, length - window, stride), length - window]


def _scale(image: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image
    # Antialiased, as Pillow's resizing in the mapper is.
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


INFERENCE = {mode.__name__: mode for mode in (WholeImage, SlidingWindow, MultiScaleFlip)}
