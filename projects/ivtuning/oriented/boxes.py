"""Corners of oriented boxes, boxes of corners, boxes around them, and conventions of their angles."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, nearest

# convention: its range of angles in degrees clockwise, as in MMRotate; "oc" excludes 0 and includes 90, the
# others include their lower end. In "le90" and "le135" the width is the longer edge.
CONVENTIONS = {"oc": (0.0, 90.0), "le90": (-90.0, 90.0), "le135": (-45.0, 135.0)}
# detectron2's own, in degrees counter-clockwise; any edge may be the width.
DETECTRON2 = "detectron2"


def check_convention(name: str) -> None:
    """Raise UserError unless `name` is "detectron2" or one of CONVENTIONS."""
    known = (DETECTRON2, *CONVENTIONS)
    if name not in known:
        raise UserError(
            f"no convention of angles is called {name!r}: give {', '.join(known)}{nearest(str(name), known)}"
        )


def corners(boxes: Tensor) -> Tensor:
    """Corners (..., 4, 2), x and y, of boxes (..., 5): clockwise, from the top left one at 0 degrees."""
    angle = boxes[..., 4:] * (torch.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    x = boxes[..., 2:3] / 2 * boxes.new_tensor([-1, 1, 1, -1])
    y = boxes[..., 3:4] / 2 * boxes.new_tensor([-1, -1, 1, 1])
    return torch.stack((boxes[..., :1] + cos * x + sin * y, boxes[..., 1:2] - sin * x + cos * y), -1)


def from_corners(points: Tensor) -> Tensor:
    """Boxes (..., 5) of corners (..., 4, 2) in the order of :func:`corners`, or mirrored.

    Corners of a rectangle give that rectangle. Those of a parallelogram, which a stretched image makes of a
    rectangle, give one of the same center and edge lengths whose height has the direction of the
    parallelogram's, as `RotatedBoxes.scale` of detectron2 does.
    """
    top, side = points[..., 1, :] - points[..., 0, :], points[..., 3, :] - points[..., 0, :]
    angle = torch.atan2(side[..., :1], side[..., 1:]) * (180 / torch.pi)
    return torch.cat(
        (points.mean(-2), top.norm(dim=-1, keepdim=True), side.norm(dim=-1, keepdim=True), angle), -1
    )


def bounding_boxes(boxes: Tensor) -> Tensor:
    """Upright boxes (..., 4), left, top, right and bottom, around boxes (..., 5)."""
    angle = torch.deg2rad(boxes[..., 4])
    cos, sin = angle.cos().abs(), angle.sin().abs()
    x, y, width, height = boxes[..., :4].unbind(-1)
    half_x, half_y = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return torch.stack((x - half_x, y - half_y, x + half_x, y + half_y), -1)


def canonical(boxes: Tensor) -> Tensor:
    """The same rectangles (..., 5) with the longer edge as width and an angle in [-90, 90).

    A rectangle has four descriptions; this one is unique but for squares.
    """
    return _longer_edge(boxes, -90.0)


def to_detectron2(boxes: Tensor, convention: str) -> Tensor:
    """Boxes (..., 5) of a convention, in degrees, as detectron2's, with angles in [-180, 180).

    Raises:
        UserError: an unknown convention.
    """
    check_convention(convention)
    angle = boxes[..., 4:] if convention == DETECTRON2 else -boxes[..., 4:]
    return torch.cat((boxes[..., :4], _within(angle, -180.0, 360.0)), -1)


def from_detectron2(boxes: Tensor, convention: str) -> Tensor:
    """Boxes (..., 5) of detectron2 in a convention, in degrees.

    Raises:
        UserError: an unknown convention.
    """
    check_convention(convention)
    if convention == DETECTRON2:
        return to_detectron2(boxes, convention)
    clockwise = torch.cat((boxes[..., :4], -boxes[..., 4:]), -1)
    if convention != "oc":
        return _longer_edge(clockwise, CONVENTIONS[convention][0])
    angle = clockwise[..., 4]
    turns = torch.ceil(angle / 90) - 1
    # Rounding must leave the half-open range in neither direction.
    angle = angle - 90 * turns
    return _described(clockwise, torch.where(angle <= 0, angle + 90, angle), turns.remainder(2) == 1)


def in_convention(boxes: Tensor, convention: str) -> Tensor:
    """Whether the convention allows the angle, in degrees, and the longer edge of each of boxes (..., 5)."""
    check_convention(convention)
    angle = boxes[..., 4]
    if convention == DETECTRON2:
        return (angle >= -180) & (angle < 180)
    low, high = CONVENTIONS[convention]
    if convention == "oc":
        return (angle > low) & (angle <= high)
    return (angle >= low) & (angle < high) & (boxes[..., 2] >= boxes[..., 3])


def from_polygons(polygons: np.ndarray) -> np.ndarray:
    """The smallest rectangles, canonical boxes (N, 5) float64, around polygons (N, P, 2) in pixels."""
    polygons = np.asarray(polygons, np.float64)
    boxes = np.zeros((len(polygons), 5))
    for box, polygon in zip(boxes, polygons, strict=True):
        # OpenCV computes in float32: near the origin, its digits are those of the rectangle.
        middle = polygon.mean(0)
        center, size, angle = cv2.minAreaRect((polygon - middle).astype(np.float32))
        box[:] = *(middle + center), *size, -angle
    return canonical(torch.from_numpy(boxes)).numpy()


def _longer_edge(boxes: Tensor, low: float) -> Tensor:
    swapped = boxes[..., 3] > boxes[..., 2]
    angle = torch.where(swapped, boxes[..., 4] + 90, boxes[..., 4])
    return _described(boxes, _within(angle, low, 180.0), swapped)


def _described(boxes: Tensor, angle: Tensor, swapped: Tensor) -> Tensor:
    width, height = boxes[..., 2], boxes[..., 3]
    sizes = torch.where(swapped, height, width), torch.where(swapped, width, height)
    return torch.stack((boxes[..., 0], boxes[..., 1], *sizes, angle), -1)


def _within(angle: Tensor, low: float, period: float) -> Tensor:
    """Angles in [low, low + period), which rounding must not leave."""
    angle = (angle - low).remainder(period) + low
    return torch.where(angle >= low + period, angle - period, angle)
