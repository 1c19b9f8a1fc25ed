"""Colors of classes that can be told apart, where those of a release cannot."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np

from .panels import RGB, color

# Distance below which two colors are hard to tell apart in a picture, in units of CIELAB.
NEAR = 28.0
# A color lies over bright and dark parts of an image, so that its lightness says less than its hue.
LIGHTNESS = 0.5
CANDIDATES = 64  # colors to choose from
MOST = 40  # no palette tells more classes than these apart


def distinct(colors: Sequence[RGB], count: int) -> list[RGB]:
    """Colors of `count` classes: `colors`, but for those that are near an earlier one, and more.

    A near color is replaced by the candidate that is farthest from all others, if that is farther away.
    Black, which stands for the background, stays, and so do all if there are more than MOST. Classes beyond
    `colors` get those of boxes.

    Args:
        colors: RGB by class id.
        count: how many colors are returned.
    """
    chosen = _replaced(tuple(map(tuple, colors[:count])))
    return [*chosen, *(color(k) for k in range(len(chosen), count))]


@functools.lru_cache(maxsize=8)
def _replaced(colors: tuple[RGB, ...]) -> list[RGB]:
    chosen = list(colors)
    candidates = [color(k) for k in range(CANDIDATES)]
    for k in range(1, len(chosen) if len(chosen) <= MOST else 0):
        apart = distances(chosen)[k]
        if any(chosen[k]) and apart[:k].min() < NEAR:
            room = distances(candidates, chosen[:k] + chosen[k + 1 :]).min(1)
            if room.max() > np.delete(apart, k).min():
                chosen[k] = candidates[int(room.argmax())]
    return chosen


def distances(colors: Sequence[RGB], others: Sequence[RGB] | None = None) -> np.ndarray:
    """How far apart colors look, (N, M) float32 from `colors` to `others` (default: `colors`)."""
    first = _lab(colors)
    second = first if others is None else _lab(others)
    return np.linalg.norm(first[:, None] - second[None], axis=-1)


def _lab(colors: Sequence[RGB]) -> np.ndarray:
    lab = cv2.cvtColor(np.float32(colors)[None] / 255, cv2.COLOR_RGB2LAB)[0]
    return lab * np.float32([LIGHTNESS, 1, 1])
