"""Scenes whose edges show a shift, and damage to sets of them."""

from __future__ import annotations

import cv2
import numpy as np

SIZE = (96, 80)


def scene(seed: int) -> np.ndarray:
    """(H+32, W+32) uint8: bright and dark rectangles, enough edges for a confident estimate."""
    rng = np.random.default_rng(seed)
    canvas = np.full((SIZE[1] + 32, SIZE[0] + 32), 100, np.uint8)
    for _ in range(60):
        x, y = rng.integers(0, SIZE[0] + 16), rng.integers(0, SIZE[1] + 16)
        w, h = rng.integers(5, 24, 2)
        cv2.rectangle(canvas, (int(x), int(y)), (int(x + w), int(y + h)), int(rng.integers(0, 255)), -1)
    return canvas


def crop(canvas: np.ndarray, dx: int = 0, dy: int = 0) -> np.ndarray:
    """The middle of the canvas, its content moved by (dx, dy) pixels."""
    return canvas[16 - dy : 16 - dy + SIZE[1], 16 - dx : 16 - dx + SIZE[0]]


def lost(file: str):
    """Damage to a set: the file is gone."""
    return lambda root, content: (root / file).unlink()


def add_box(content, **changes):
    """Add a second annotation, on the second image: a good one but for `changes`."""
    box = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0}
    content["annotations"].append(box | changes)
