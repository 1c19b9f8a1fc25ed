"""Random oriented boxes, and plain references of what is computed with them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ivtuning.oriented.boxes import corners


def boxes_like(number: int, seed: int, size: float = 100.0) -> Tensor:
    """Boxes (number, 5) float64 of edges 1 to 40 px, centers within `size` px and all angles."""
    uniform = torch.rand(number, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = uniform.new_tensor([0, 0, 1, 1, -180]), uniform.new_tensor([size, size, 40, 40, 180])
    return low + uniform * (high - low)


def corner_distance(boxes1: Tensor, boxes2: Tensor) -> float:
    """The largest distance of a corner to the nearest one of the partner, which is 0 for equal rectangles."""
    return torch.cdist(corners(boxes1), corners(boxes2)).amin(-1).max().item()


def shared_area(box1: Tensor, box2: Tensor) -> float:
    """The area that two boxes share, by clipping a polygon edge by edge (Sutherland-Hodgman)."""
    polygon = corners(box1.double()).tolist()
    frame = corners(box2.double()).tolist()
    for (ax, ay), (bx, by) in zip(frame, frame[1:] + frame[:1], strict=True):
        sides = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in polygon]
        clipped = []
        for i, (point, side) in enumerate(zip(polygon, sides, strict=True)):
            previous, before = polygon[i - 1], sides[i - 1]
            if side * before < 0:
                share = before / (before - side)
                clipped.append([p + share * (q - p) for p, q in zip(previous, point, strict=True)])
            if side >= 0:
                clipped.append(point)
        polygon = clipped
    return abs(polygon_area(polygon))


def polygon_area(points: list[list[float]]) -> float:
    """The area of a polygon by the shoelace formula, above 0 for clockwise ones on the screen."""
    turned = points[1:] + points[:1]
    return math.fsum(x * v - y * u for (x, y), (u, v) in zip(points, turned, strict=True)) / 2


def plain_iou(box1: Tensor, box2: Tensor) -> float:
    """Intersection over union of two boxes by :func:`shared_area`."""
    shared = shared_area(box1, box2)
    union = float(box1[2] * box1[3] + box2[2] * box2[3]) - shared
    return shared / union
