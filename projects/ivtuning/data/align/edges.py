"""What an infrared and a visible image of one scene share, edges, and how far two such images are apart.

An edge has a direction and, in infrared, any sign: what is brighter in one image may be darker in the other.
So every pixel holds the direction of its gradient with the angle doubled, which makes opposite ones equal.
"""

from __future__ import annotations

import cv2
import numpy as np

# The least share of the smaller image that must overlap the other one.
MIN_OVERLAP = 0.4
# Pixels along a border whose edges are not those of the scene.
_BORDER = 5


def edge_field(gray: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 2) float32 of edges: a vector of the doubled direction, whose length 0..1 is the local contrast.

    Args:
        gray: (H, W) uint8 or float32.
        seen: (H, W) uint8, 0 where `gray` has no value; None: everywhere it has. The vectors there are 0.
    """
    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 1.2)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    length = cv2.magnitude(across, down)
    # Relative to the surroundings, so that weak edges count in dark parts; the mean keeps noise small.
    around = cv2.GaussianBlur(length, (0, 0), max(gray.shape) / 16)
    weight = 1 / (np.maximum(length, 1e-6) * (length + around + 0.5 * float(length.mean()) + 1e-3))
    field = np.dstack([(across * across - down * down) * weight, 2 * across * down * weight])
    if seen is None:
        seen = np.ones(gray.shape, np.uint8)
    kernel = np.ones((2 * _BORDER + 1,) * 2, np.uint8)
    inside = cv2.erode(seen, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    if inside.any():
        field -= field[inside].mean(0)
    field[~inside] = 0
    return field


def correlate(fixed: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """How well two edge fields agree for every shift of `moving`, as the significance of their correlation.

    Args:
        fixed: (H, W, 2), from :func:`edge_field`.
        moving: (h, w, 2).

    Returns:
        Float32 scores, and the index (row, column) in them of no shift. A score is the correlation -1..1
        times the square root of the overlap in pixels, and 0 where too little overlaps.
    """
    height, width = moving.shape[:2]
    top, left = round(height * (1 - MIN_OVERLAP)), round(width * (1 - MIN_OVERLAP))
    padded = cv2.copyMakeBorder(fixed, top, top, left, left, cv2.BORDER_CONSTANT)

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.maximum(cv2.matchTemplate(a, b, cv2.TM_CCORR), 0)

    energies = [np.square(field).sum(2) for field in (padded, moving)]
    masks = [(energy > 0).astype(np.float32) for energy in energies]
    overlap = product(*masks)
    energy = product(energies[0], masks[1]) * product(masks[0], energies[1])
    enough = (overlap > MIN_OVERLAP * min(mask.sum() for mask in masks)) & (energy > 1)
    scores = cv2.matchTemplate(padded, moving, cv2.TM_CCORR) * np.sqrt(overlap / np.maximum(energy, 1))
    return np.where(enough, scores, 0), (top, left)
