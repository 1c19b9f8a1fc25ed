"""Estimates the one warp from infrared to visible pixels that a set of pairs agrees on.

Scores of all pairs are summed before their peak is looked for. So pairs that say little add up, and pairs
that show two scenes, or nothing, add noise alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter
from scipy.optimize import minimize

from .edges import correlate, edge_field

MODELS = ("homography", "affine", "shift")
# Sizes of the infrared view in the visible one (of their diagonals) and rotations in degrees that are tried.
_SCALES = np.geomspace(0.35, 1.6, 32)
_ANGLES = (-6, -3, 0, 3, 6)
# The width in pixels to which visible images are reduced for that, and the number of pairs.
_SEARCH_WIDTH, _SEARCH_PAIRS = 112, 20
# Rounds of refinement: the width of the visible images and the largest displacement looked for, in pixels.
COARSE = ((256, 14), (256, 8))
FINE = ((512, 10), (512, 6), (1024, 8), (1024, 5))
# Infrared is enlarged up to this factor for them: edges are found between its pixels.
_ENLARGED = 1.4
# Cells in the width of an image, in which displacements are measured; they overlap by half.
_CELLS = 8

Pair = tuple[np.ndarray, np.ndarray]
Report = Callable[[], object]


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2) points after a 3x3 matrix."""
    return cv2.perspectiveTransform(np.asarray(points, float).reshape(-1, 1, 2), matrix).reshape(-1, 2)


def corners(size: tuple[int, int]) -> np.ndarray:
    """(4, 2) centers of the corner pixels of an image of size (width, height)."""
    right, bottom = size[0] - 1.0, size[1] - 1.0
    return np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]])


def scaling(across: float, down: float | None = None) -> np.ndarray:
    """The matrix of resizing an image by two factors; centers of pixels have integer coordinates."""
    down = across if down is None else down
    return np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])


def _resized(image: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """An image resized by about `factor`, and the matrix of that."""
    size = [max(16, round(n * factor)) for n in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    return small, scaling(size[0] / image.shape[1], size[1] / image.shape[0])


def _warped_field(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    seen = cv2.warpPerspective(np.full_like(image, 255), matrix, size, flags=cv2.INTER_NEAREST)
    warped = cv2.warpPerspective(image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return edge_field(warped, seen)


def edge_fields(pair: Pair, matrix: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edge fields of a pair in the visible frame reduced to `width` px, and the matrix of that reduction.

    Args:
        pair: visible and infrared, (H, W) uint8 each.
        matrix: from infrared to visible pixels.
    """
    visible, infrared = pair
    fixed, down = _resized(visible, width / visible.shape[1])
    density = np.sqrt(abs(np.linalg.det((down @ matrix)[:2, :2])))
    # Infrared is reduced before it is warped, so that no pixel is skipped.
    small, own = _resized(infrared, density) if density < 0.8 else (infrared, np.eye(3))
    moving = _warped_field(small, down @ matrix @ np.linalg.inv(own), fixed.shape[1::-1])
    return edge_field(fixed), moving, down


def search(pairs: Sequence[Pair], model: str, report: Report = lambda: None) -> np.ndarray:
    """A first warp: the scale, rotation (not for "shift") and translation with the best summed score."""
    pairs = pairs[:_SEARCH_PAIRS]
    visible, infrared = pairs[0]
    unit = np.hypot(*visible.shape) / np.hypot(*infrared.shape)
    factor = _SEARCH_WIDTH / visible.shape[1]
    fixed = [edge_field(_resized(image, factor)[0]) for image, _ in pairs]

    def score(scale: float, angle: float) -> tuple[float, np.ndarray]:
        total: np.ndarray = np.zeros(())
        start, turn, own = (0, 0), np.eye(3), np.eye(3)
        for still, (_, image) in zip(fixed, pairs, strict=True):
            small, own = _resized(image, scale * factor)
            size = small.shape[1::-1]
            turn[:2] = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), angle, 1.0)
            scores, start = correlate(still, _warped_field(small, turn, size) if angle else edge_field(small))
            total = total + scores
        report()
        row, column = np.unravel_index(np.argmax(total), total.shape)
        move = np.array([[1, 0, column - start[1]], [0, 1, row - start[0]], [0, 0, 1.0]])
        return float(total[row, column]), np.linalg.inv(scaling(factor)) @ move @ turn @ own

    found = [(*score(scale, 0), scale) for scale in _SCALES * unit]
    best = max(found, key=lambda result: result[0])
    angles = (0,) if model == "shift" else _ANGLES
    found = [score(best[2] * more, angle) for more in (0.97, 1.0, 1.03) for angle in angles]
    matrix = max([best[:2], *found], key=lambda result: result[0])[1]
    return _with_one_scale(matrix, infrared.shape[1::-1]) if model == "shift" else matrix


def _with_one_scale(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A matrix of two scales and a translation with their mean, which keeps the center of an image of `size`.

    The sides of small images are whole pixels, so that the two differ.
    """
    scale, center = (matrix[0, 0] + matrix[1, 1]) / 2, (np.array(size) - 1) / 2
    shift = np.diag(matrix)[:2] * center + matrix[:2, 2] - scale * center
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])


def search_steps(model: str) -> int:
    """How often :func:`search` calls `report`."""
    return len(_SCALES) + 3 * (1 if model == "shift" else len(_ANGLES))


def cells(size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """(N, 2) centers of the cells of an image of size (width, height), and half a cell's side, in pixels."""
    width, height = size
    down = max(2, round(height / width * _CELLS))
    x = np.round((np.arange(_CELLS) + 0.5) * width / _CELLS)
    y = np.round((np.arange(down) + 0.5) * height / down)
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), round(width / _CELLS)


def cell_scores(fixed: np.ndarray, moving: np.ndarray, reach: int) -> np.ndarray:
    """Scores of shifting each cell of an edge field, (cells, 2 reach + 1, 2 reach + 1) float32.

    Those of a cell are for shifts of -reach..reach pixels down and across, and 0 where infrared sees too
    little of it.
    """
    centers, half = cells(fixed.shape[1::-1])
    pad = half + reach
    fixed = cv2.copyMakeBorder(fixed, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    moving = cv2.copyMakeBorder(moving, half, half, half, half, cv2.BORDER_CONSTANT)
    scores = np.zeros((len(centers), 2 * reach + 1, 2 * reach + 1), np.float32)
    for i, (x, y) in enumerate(centers.astype(int)):
        template = moving[y : y + 2 * half, x : x + 2 * half]
        if np.count_nonzero(template) > template.size / 3:
            around = fixed[y : y + 2 * pad, x : x + 2 * pad]
            found = cv2.matchTemplate(around, template, cv2.TM_CCORR_NORMED)
            scores[i] = (found - found.mean()) * np.linalg.norm(template)
    return np.nan_to_num(scores, copy=False, posinf=0, neginf=0)


def _moved(model: str, p: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The matrix of a model that displaces the corners of an image by the parameters `p`, in pixels."""
    ends = corners(size)
    if model == "shift":
        scale = 1 + p[2] / (size[0] / 2)
        center = (np.array(size) - 1) / 2
        move = center + p[:2] - scale * center
        return np.array([[scale, 0, move[0]], [0, scale, move[1]], [0, 0, 1]])
    if model == "affine":
        there = ends[:3] + p.reshape(3, 2)
        return np.vstack([cv2.getAffineTransform(np.float32(ends[:3]), np.float32(there)), [0, 0, 1]])
    return cv2.getPerspectiveTransform(np.float32(ends), np.float32(ends + p.reshape(4, 2)))


_PARAMETERS = {"shift": 3, "affine": 6, "homography": 8}


def best_move(scores: np.ndarray, model: str, size: tuple[int, int]) -> np.ndarray:
    """The matrix of a model near the identity that shifts the cells of an image to the largest sum of scores.

    Args:
        scores: from :func:`cell_scores`, of one pair or summed over several.
        size: (width, height) of the image.
    """
    centers, _ = cells(size)
    reach = scores.shape[1] // 2
    number = np.arange(len(centers), dtype=float)

    def loss(p: np.ndarray, surface: np.ndarray) -> float:
        across, down = (transform(_moved(model, p, size), centers) - centers).T
        places = [number, down + reach, across + reach]
        return -float(map_coordinates(surface, places, order=3, mode="nearest", prefilter=False).sum())

    p = np.zeros(_PARAMETERS[model])
    for blur in (reach / 4, 0.7):  # the wide peak first, then the exact one
        surface = gaussian_filter(scores, (0, blur, blur), mode="nearest")
        surface /= np.abs(surface).max() + 1e-9
        surface = spline_filter(surface, 3, mode="nearest")
        p = minimize(loss, p, (surface,), method="BFGS", options={"gtol": 1e-4, "eps": 1e-3}).x
    return _moved(model, p, size)


def refine(
    pairs: Sequence[Pair],
    matrix: np.ndarray,
    model: str,
    rounds: Sequence[tuple[int, int]],
    report: Report = lambda: None,
) -> np.ndarray:
    """The warp of a model with the best summed scores of all cells, near `matrix`.

    Args:
        rounds: of each, the width in pixels of the reduced visible images and the largest displacement.
    """
    visible, _ = pairs[0]
    density = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    finest = int(visible.shape[1] * min(1.0, _ENLARGED / density))
    for width, reach in rounds:
        total, size, down = 0.0, (0, 0), np.eye(3)
        for pair in pairs:
            fixed, moving, down = edge_fields(pair, matrix, min(width, finest))
            size = fixed.shape[1::-1]
            total = total + cell_scores(fixed, moving, reach)
            report()
        # The first, wide one has few degrees of freedom, so that it cannot go astray.
        move = best_move(total, "shift" if (width, reach) == COARSE[0] else model, size)
        matrix = np.linalg.inv(down) @ move @ down @ matrix
    return matrix / matrix[2, 2]
