"""The images of a pair with one bright box, and files of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

H, W = 48, 64
BOX = (20, 12, 44, 30)  # XYXY


def pattern(height=H, width=W):
    """(H,W) uint8 texture in 0..39 with a block of 255 at BOX."""
    image = np.random.RandomState(1).randint(0, 40, (height, width), np.uint8)
    x0, y0, x1, y1 = BOX
    image[y0:y1, x0:x1] = 255
    return image


def save(array, path, **kwargs):
    Image.fromarray(array).save(path, **kwargs)
    return str(path)
