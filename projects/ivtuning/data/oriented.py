"""Oriented boxes of a COCO-like JSON: center, size and angle, or four corners.

The `bbox` of an annotation is then [x1, y1, ..., x4, y4] or [center x, center y, width, height, angle], with
the angle in degrees by the convention that ``info.angle_convention`` names, which is detectron2's by default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from detectron2.structures import BoxMode
from torch import Tensor

from ..errors import UserError
from ..oriented.boxes import (
    CONVENTIONS,
    DETECTRON2,
    canonical,
    check_convention,
    from_polygons,
    in_convention,
    to_detectron2,
)

CENTERED, CORNERS = 5, 8  # numbers of a bbox
_FORMS = {
    4: "four finite numbers [x, y, width, height]",
    CENTERED: "five numbers [center x, center y, width, height, angle]",
    CORNERS: "four corners [x1, y1, ..., x4, y4]",
}
# Labels are rounded: so many pixels may the longer edge be shorter, and so many degrees an angle be outside.
_ROUNDED = 0.01


def is_oriented(annotations: list[dict]) -> bool:
    """Whether checked annotations have oriented boxes, which all of a set have or none."""
    return bool(annotations) and len(annotations[0]["bbox"]) in (CENTERED, CORNERS)


def with_angles(boxes: Tensor) -> Tensor:
    """Boxes (N, 5); upright ones (N, 4), of a corner, width and height, get the angle 0."""
    return boxes if boxes.shape[1] == 5 else BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)


def convention_of(content: dict, source: object) -> str:
    """The convention of angles that a JSON states; UserError, which names `source`, if it is unknown."""
    info = content.get("info")
    stated = info.get("angle_convention") if isinstance(info, dict) else None
    if stated is None:
        return DETECTRON2
    try:
        check_convention(stated)
    except (UserError, TypeError) as error:
        raise UserError(f"{source}: info.angle_convention: {error}") from error
    return stated


def box_faults(annotations: Mapping[int, dict], convention: str) -> Iterator[tuple[int, str]]:
    """Yield (index, what is wrong) of annotations whose `bbox` is 4, 5 or 8 finite numbers, sizes from 0.

    Args:
        annotations: index in the JSON -> annotation.
        convention: a known one, to which angles have to keep.
    """
    lengths = {i: len(a["bbox"]) for i, a in annotations.items()}
    if set(lengths.values()) <= {4}:
        return
    usual = max(set(lengths.values()), key=list(lengths.values()).count)
    for i, length in lengths.items():
        box = annotations[i]["bbox"]
        if length != usual:
            yield i, f"bbox is {box}, not {_FORMS[usual]} as most of the set have"
        elif length == CORNERS:
            if detail := corner_fault(np.array(box, np.float64).reshape(4, 2)):
                yield i, f"bbox {detail}"
        elif length == CENTERED and (detail := _angle_fault(box, convention)):
            yield i, f"bbox is {box}, but {detail}"


def corner_fault(corners: np.ndarray) -> str | None:
    """What is wrong with four corners (4, 2) of a box; None if they go once around it."""
    if len(np.unique(corners, axis=0)) < 4:
        return "has fewer than four different corners: give x1, y1, ..., x4, y4"

    def side(a: int, b: int, c: int) -> float:
        (px, py), (qx, qy) = corners[b] - corners[a], corners[c] - corners[a]
        return np.sign(px * qy - py * qx)

    for a, b, c, d in ((0, 1, 2, 3), (1, 2, 3, 0)):
        if side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0:
            return "crosses itself: give its corners in order around it"
    return None


def _angle_fault(box: list, convention: str) -> str | None:
    values = torch.tensor(box, dtype=torch.float64)
    if in_convention(values, convention):
        return None
    width, height, angle = box[2:]
    low, high = CONVENTIONS.get(convention, (-180.0, 180.0))
    if not low - _ROUNDED <= angle <= high + _ROUNDED:
        return (
            f"angles of the convention {convention!r} are {low:g} to {high:g} degrees: name the right one in "
            "info.angle_convention"
        )
    if convention in ("le90", "le135") and height > width + _ROUNDED:
        return (
            f"by the convention {convention!r}, the width is the longer edge: name the right one in "
            "info.angle_convention"
        )
    return None


def convert(annotations: list[dict], convention: str) -> None:
    """Turn checked boxes, in place, to detectron2's with the longer edge as width and angles in [-90, 90)."""
    if not is_oriented(annotations):
        return
    values = np.array([a["bbox"] for a in annotations], np.float64)
    if values.shape[1] == CORNERS:
        boxes = from_polygons(values.reshape(-1, 4, 2))
    else:
        boxes = canonical(to_detectron2(torch.from_numpy(values), convention)).numpy()
    for annotation, box in zip(annotations, boxes.tolist(), strict=True):
        annotation["bbox"] = box


def center_and_size(bbox: list) -> tuple[float, float, float, float]:
    """Center x and y, width and height of a checked oriented `bbox`; of four corners, the first two edges."""
    if len(bbox) == CENTERED:
        return tuple(bbox[:4])
    points = np.array(bbox, np.float64).reshape(4, 2)
    edges = np.linalg.norm(np.diff(points[:3], axis=0), axis=1)
    return *points.mean(0).tolist(), *edges.tolist()


def inside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """1 for each of boxes (N, 5) that has an area, and its center in its image; 0 for others.

    Args:
        sizes: (N, 2) width and height of the images in pixels.
    """
    center = ((boxes[:, :2] >= 0) & (boxes[:, :2] <= sizes)).all(1)
    return (center & (boxes[:, 2:4] > 0).all(1)).astype(np.float64)
