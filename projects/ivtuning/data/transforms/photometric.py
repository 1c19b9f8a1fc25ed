"""Photometric jitter and noise, for the mapper's `photometric` and `photometric_ir`.

For visible images: Gain, Contrast, Saturation, GaussianNoise, or ColorDistortion. For infrared: Gain,
Contrast, Offset and GaussianNoise(gray=True), which keep a gray image (three equal channels) gray. Each
instance draws independently, from numpy's global generator unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms import v2

from ...errors import UserError


class _Jitter:
    """With probability `prob`, draw a value uniformly from `strength` (low, high) and change the image."""

    def __init__(self, prob: float = 0.5, strength: Sequence[float] = (0.8, 1.2)):
        """
        Raises:
            UserError: `prob` outside 0..1, or `strength` not two numbers in order.
        """
        name = type(self).__name__
        if not 0 <= prob <= 1:
            raise UserError(f"{name}(prob={prob}): give a probability in 0..1")
        if len(strength) != 2 or strength[0] > strength[1]:
            raise UserError(f"{name}(strength={list(strength)}): give (low, high) with low <= high")
        self.prob = prob
        self.strength = tuple(strength)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H,W,3) uint8 -> (H,W,3) uint8; a changed image is a new array."""
        if np.random.uniform() >= self.prob:
            return image
        changed = self.change(image.astype(np.float32), np.random.uniform(*self.strength))
        return np.rint(changed.clip(0, 255)).astype(np.uint8)

    def change(self, image: np.ndarray, value: float) -> np.ndarray:
        """(H,W,3) float32 in 0..255 -> the same, not yet clipped."""
        raise NotImplementedError


class Gain(_Jitter):
    """Multiplies the brightness by a factor."""

    def change(self, image: np.ndarray, value: float) -> np.ndarray:
        return image * value


class Contrast(_Jitter):
    """Multiplies the distance from the image's mean by a factor."""

    def change(self, image: np.ndarray, value: float) -> np.ndarray:
        mean = image.mean()
        return mean + (image - mean) * value


class Saturation(_Jitter):
    """Multiplies the distance from each pixel's luma (ITU-R BT.601) by a factor; for RGB."""

    def change(self, image: np.ndarray, value: float) -> np.ndarray:
        luma = image @ np.array([[0.299], [0.587], [0.114]], np.float32)
        return luma + (image - luma) * value


class Offset(_Jitter):
    """Adds a level on the 0..255 scale, like the drift of a thermal camera."""

    def __init__(self, prob: float = 0.5, strength: Sequence[float] = (-16, 16)):
        super().__init__(prob, strength)

    def change(self, image: np.ndarray, value: float) -> np.ndarray:
        return image + value


class GaussianNoise(_Jitter):
    """Adds normal noise whose standard deviation, on the 0..255 scale, is drawn from `strength`.

    With `gray` the three channels get the same noise, as from an infrared sensor.
    """

    def __init__(self, prob: float = 0.5, strength: Sequence[float] = (0, 8), gray: bool = False):
        super().__init__(prob, strength)
        if self.strength[0] < 0:
            raise UserError(f"GaussianNoise(strength={list(strength)}): give standard deviations >= 0")
        self.gray = gray

    def change(self, image: np.ndarray, value: float) -> np.ndarray:
        shape = (*image.shape[:2], 1 if self.gray else 3)
        # In float32 a new generator is several times faster than numpy's global one.
        fast = np.random.default_rng(np.random.randint(2**31))
        return image + value * fast.standard_normal(shape, dtype=np.float32)


class ColorDistortion:
    """Changes brightness, contrast, saturation and hue of an RGB image, each with probability 0.5.

    The strengths are those of mmsegmentation's PhotoMetricDistortion, which UPerNet's recipe uses; but that
    adds to the brightness, while torchvision multiplies it. Uses torch's global generator.
    """

    def __init__(self):
        strengths = dict(brightness=32 / 255, contrast=0.5, saturation=0.5, hue=0.1)
        self.changes = [v2.RandomApply([v2.ColorJitter(**{k: s})], p=0.5) for k, s in strengths.items()]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H,W,3) uint8 -> (H,W,3) uint8."""
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        for change in self.changes:
            pixels = change(pixels)
        return pixels.numpy().transpose(1, 2, 0)
