"""A warp from infrared to visible pixels: its file, the images that it makes, and the view both share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import UserError
from ...utils.text import read_json, read_text
from .estimate import corners, scaling, transform

# The names that a 3x3 matrix may have in a calibration file.
_NAMES = ("matrix", "homography", "H")
# The least share of the visible image that infrared must see.
_MIN_VIEW = 0.02

Size = tuple[int, int]


@dataclass(frozen=True)
class Warp:
    """The 3x3 matrix from infrared to visible pixels, whose centers have integer coordinates, as in OpenCV.

    Attributes:
        matrix: (3, 3) float64.
        model: "homography", "affine", "shift" or "calibration".
        infrared_size, visible_size: (width, height) in pixels.
    """

    matrix: np.ndarray
    model: str
    infrared_size: Size
    visible_size: Size

    def check(self, source: str) -> Warp:
        """This warp; UserError, which names `source`, unless it shows a part of the visible image."""
        matrix = self.matrix
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise UserError(
                f"{source}: the matrix is not 3x3 finite numbers: give one from infrared to visible"
            )
        ends = corners(self.infrared_size)
        depth = ends @ matrix[2, :2] + matrix[2, 2]
        if abs(np.linalg.det(matrix / np.abs(matrix).max())) < 1e-12 or depth.min() * depth.max() <= 0:
            raise UserError(f"{source}: the matrix is singular on the infrared image: calibrate again")
        area = cv2.contourArea(np.float32(transform(matrix, ends)))
        if area < 1 or self.seen().mean() < 255 * _MIN_VIEW:
            raise UserError(
                f"{source}: by this matrix infrared sees less than {_MIN_VIEW:.0%} of the visible image: it "
                "must lead from infrared to visible pixels of the whole images"
            )
        return self

    def seen(self) -> np.ndarray:
        """(H, W) uint8 of the visible size: 255 where infrared sees, else 0."""
        everywhere = np.full(self.infrared_size[::-1], 255, np.uint8)
        return cv2.warpPerspective(everywhere, self.matrix, self.visible_size, flags=cv2.INTER_NEAREST)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """An infrared image, (h, w) or (h, w, 3), in the visible frame.

        Its type is kept. Pixels that infrared does not see get the lowest value of the image.
        """
        values = image if image.dtype in (np.uint8, np.uint16, np.float32) else image.astype(np.float64)
        outside = float(np.nanmin(values))
        matrix, density = self.matrix, np.sqrt(abs(np.linalg.det(self.matrix[:2, :2])))
        if density < 0.8:  # reduced first, so that no pixel is skipped
            size = [max(1, round(n * density)) for n in self.infrared_size]
            values = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
            own = scaling(size[0] / self.infrared_size[0], size[1] / self.infrared_size[1])
            matrix = matrix @ np.linalg.inv(own)
        warped = cv2.warpPerspective(values, matrix, self.visible_size, borderMode=cv2.BORDER_REPLICATE)
        warped[self.seen() == 0] = outside
        return warped if warped.dtype == image.dtype else np.rint(warped).astype(image.dtype)

    def common_view(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the largest rectangle of visible pixels that infrared sees whole."""
        step = max(1, max(self.visible_size) // 400)
        height, width = (n // step for n in self.visible_size[::-1])
        blocks = self.seen()[: height * step, : width * step].reshape(height, step, width, step)
        full = blocks.min(axis=(1, 3)) > 0
        best, heights = (0, 0, 0, 0, 0), np.zeros(width, int)
        for row in range(height):
            heights = np.where(full[row], heights + 1, 0)
            open_columns: list[tuple[int, int]] = []  # (first column, height), heights increase
            for column, tall in enumerate([*heights.tolist(), 0]):
                first = column
                while open_columns and open_columns[-1][1] >= tall:
                    first, top = open_columns.pop()
                    best = max(best, (top * (column - first), first, row + 1 - top, column, row + 1))
                open_columns.append((first, tall))
        left, top, right, bottom = (int(n) * step for n in best[1:])
        return left, top, right, bottom

    def as_dict(self) -> dict[str, Any]:
        """The content of warp.json."""
        return {
            "matrix": self.matrix.tolist(),
            "direction": "infrared to visible pixels",
            "model": self.model,
            "infrared_size": list(self.infrared_size),
            "visible_size": list(self.visible_size),
        }


def resizing(infrared_size: Size, visible_size: Size) -> Warp:
    """The warp that only resizes infrared to the visible size."""
    factors = (visible / infrared for visible, infrared in zip(visible_size, infrared_size, strict=True))
    return Warp(scaling(*factors), "resizing", infrared_size, visible_size)


def read_calibration(path: Path, infrared_size: Size, visible_size: Size) -> Warp:
    """The warp of a calibration file: warp.json, a JSON of a 3x3 matrix, or OpenCV's YAML or XML.

    Raises:
        UserError: the file is missing or is no such file, its sizes are others, or the matrix is useless.
    """
    if path.suffix.lower() == ".json":
        content = read_json(path)
        matrix = content
        if isinstance(content, dict):
            matrix = next((content[name] for name in _NAMES if name in content), None)
            for key, size in (("infrared_size", infrared_size), ("visible_size", visible_size)):
                if key in content and content[key] != list(size):
                    raise UserError(
                        f"{path}: {key} is {content[key]}, but the images have {list(size)}: calibrate "
                        "for these"
                    )
    else:
        matrix = _read_opencv(path)
    try:
        values = np.array(matrix, float)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != (3, 3):
        raise UserError(
            f"{path} has no 3x3 matrix called {' or '.join(_NAMES)}: add it, from infrared to visible"
        )
    return Warp(values, "calibration", infrared_size, visible_size).check(str(path))


def _read_opencv(path: Path) -> np.ndarray | None:
    text = read_text(path)
    storage = cv2.FileStorage()
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        if not storage.open(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY):
            raise UserError(f"{path} is no YAML or XML of OpenCV's FileStorage: give one, or a JSON")
        nodes = (storage.getNode(name) for name in _NAMES)
        return next((node.mat() for node in nodes if not node.empty() and node.isMap()), None)
    except cv2.error as error:
        raise UserError(f"{path} is no YAML or XML of OpenCV's FileStorage: give one, or a JSON") from error
    finally:
        storage.release()
        cv2.utils.logging.setLogLevel(level)
