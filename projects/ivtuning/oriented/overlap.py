"""Exact areas that oriented boxes share, for many pairs at once.

The border of the intersection of two convex shapes consists of what each border has inside the other shape.
By Green's theorem, an edge from p to q adds cross(p, q) / 2 to an area, and the part of it between fractions
s and t adds (t - s) times that. So it is enough to clip each of the eight edges to the other rectangle, which
in that rectangle's own frame is a clip to two intervals. Nothing needs to be sorted.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .boxes import bounding_boxes

# Relative to the longest edge: where borders coincide, the first one counts and the second does not. An
# error of the area is at most this times the border, and rounding is far smaller.
_TOLERANCE = 1e-12
# Pairs that are clipped at once, and pairs that are looked at to find out which may touch. They bound the
# memory: some 100 and 10 bytes each.
_CLIPPED, _LOOKED_AT = 2**13, 2**21


@torch.no_grad()
def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union (N, M), in 0..1, of boxes (N, 5) and (M, 5), in the dtype of the first.

    It is computed in float64, and little memory is needed beside the result. Empty boxes have 0 with all.
    """
    iou = boxes1.new_zeros(len(boxes1), len(boxes2))
    for i, j in _candidates(boxes1, boxes2, 0.0):
        iou[i, j] = paired_iou(boxes1[i], boxes2[j]).to(iou.dtype)
    return iou


@torch.no_grad()
def overlapping(boxes1: Tensor, boxes2: Tensor, iou_threshold: float) -> Tensor:
    """Whether boxes (N, 5) and (M, 5) have an IoU above the threshold, (N, M) bool.

    Most pairs are decided without their exact IoU.
    """
    result = torch.zeros(len(boxes1), len(boxes2), dtype=torch.bool, device=boxes1.device)
    for i, j in _candidates(boxes1, boxes2, iou_threshold):
        result[i, j] = paired_iou(boxes1[i], boxes2[j]) > iou_threshold
    return result


def _candidates(boxes1: Tensor, boxes2: Tensor, iou_threshold: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the indices of pairs, thousands at once; all with an IoU above the threshold are among them."""
    if len(boxes1) == 0 or len(boxes2) == 0:
        return
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    bounds1, bounds2 = bounding_boxes(boxes1), bounding_boxes(boxes2)
    areas1, areas2 = _areas(boxes1), _areas(boxes2)
    rows = max(1, _LOOKED_AT // len(boxes2))
    for start in range(0, len(boxes1), rows):
        i, j = _may_touch(bounds1[start : start + rows], bounds2).nonzero(as_tuple=True)
        i = i + start
        if iou_threshold > 0:
            # They share no more than the upright boxes around them, nor than the smaller one has.
            first, second = bounds1[i], bounds2[j]
            sides = torch.minimum(first, second)[:, 2:] - torch.maximum(first, second)[:, :2]
            area1, area2 = areas1[i], areas2[j]
            most = torch.minimum(sides.prod(1), torch.minimum(area1, area2))
            possible = most >= iou_threshold * (1 - 1e-9) * (area1 + area2 - most)
            i, j = i[possible], j[possible]
        yield from zip(i.split(_CLIPPED), j.split(_CLIPPED), strict=True)


@torch.no_grad()
def paired_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union (N,) float64, in 0..1, of each of boxes (N, 5) with its partner in (N, 5)."""
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    shared = intersection(boxes1, boxes2)
    union = _areas(boxes1) + _areas(boxes2) - shared
    return torch.where(union > 0, shared / union, 0.0)


@torch.no_grad()
def intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Shared area (N,) float64, in square pixels, of each of boxes (N, 5) with its partner in (N, 5)."""
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    size1, size2 = boxes1[:, 2:4].clamp(min=0), boxes2[:, 2:4].clamp(min=0)
    # The second loses by the margin what the first gains, wherever the borders cross.
    margin = (_TOLERANCE * torch.maximum(size1, size2).amax(1))[:, None]
    # Each rectangle in the frame of the other, whose center is 0 and whose edges are parallel to the axes.
    first = _seen_from(boxes2, boxes1, size1)
    second = _seen_from(boxes1, boxes2, size2)
    # In the frame of the first, each of its own edges spans half its area.
    inside2 = _fraction_inside(first, size2 / 2 + margin).sum(1) * size1.prod(1) / 2
    x, y = second.unbind(-1)
    cross = x * y.roll(-1, 1) - y * x.roll(-1, 1)
    inside1 = (_fraction_inside(second, (size1 / 2 - margin).clamp(min=0)) * cross).sum(1)
    area = (inside2 + inside1) / 2
    return torch.minimum(area.clamp(min=0), torch.minimum(size1.prod(1), size2.prod(1)))


def _seen_from(origin: Tensor, boxes: Tensor, size: Tensor) -> Tensor:
    """Corners (N, 4, 2) of boxes in the frames of their partners `origin`."""
    turn = torch.deg2rad(origin[:, 4])
    cos, sin = turn.cos(), turn.sin()
    dx, dy = (boxes[:, :2] - origin[:, :2]).unbind(1)
    center_x, center_y = cos * dx - sin * dy, sin * dx + cos * dy
    turn = torch.deg2rad(boxes[:, 4] - origin[:, 4])
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]
    x = size[:, :1] / 2 * size.new_tensor([-1, 1, 1, -1])
    y = size[:, 1:] / 2 * size.new_tensor([-1, -1, 1, 1])
    return torch.stack((center_x[:, None] + cos * x + sin * y, center_y[:, None] - sin * x + cos * y), -1)


def _fraction_inside(points: Tensor, half: Tensor) -> Tensor:
    """How much of each edge of quadrilaterals (N, 4, 2) is where |x|, |y| < `half` (N, 2): (N, 4), 0..1."""
    along = points.roll(-1, 1) - points
    # An edge along an axis never leaves its interval, or never enters it.
    along = torch.where(along.abs() < 1e-200, 1e-200, along)
    half = half[:, None]
    one, other = (-half - points) / along, (half - points) / along
    enters = torch.minimum(one, other).amax(-1).clamp(min=0)
    leaves = torch.maximum(one, other).amin(-1).clamp(max=1)
    return (leaves - enters).clamp(min=0)


def _areas(boxes: Tensor) -> Tensor:
    return boxes[:, 2].clamp(min=0) * boxes[:, 3].clamp(min=0)


def _may_touch(bounds1: Tensor, bounds2: Tensor) -> Tensor:
    """Whether upright boxes (N, 4) and (M, 4) overlap, (N, M) bool."""
    left1, top1, right1, bottom1 = bounds1[:, :, None].unbind(1)
    left2, top2, right2, bottom2 = bounds2.unbind(1)
    return (left1 < right2) & (left2 < right1) & (top1 < bottom2) & (top2 < bottom1)
