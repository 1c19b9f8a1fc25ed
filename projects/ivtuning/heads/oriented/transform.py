"""Deltas between oriented boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.modeling.box_regression import Box2BoxTransformRotated
from torch import Tensor


class OrientedTransform(Box2BoxTransformRotated):
    """detectron2's deltas (dx, dy, dw, dh, da), to the nearest of the four descriptions of a target.

    A rectangle stays the same when it turns by 180 degrees, or by 90 with its edges exchanged. The target's
    description is the one within 45 degrees of the source, so that boxes that look alike have small deltas.
    """

    def __init__(
        self, weights: Sequence[float], scale_clamp: float = math.log(1000 / 16), proj_xy: bool = False
    ):
        """
        Args:
            weights: factors of the five deltas.
            scale_clamp: the largest logarithm of a scale that is applied.
            proj_xy: dx and dy are along the source's width and height, as in MMRotate, so that what is pooled
                in the source's own frame tells them; else along the axes of the image, as in detectron2.
        """
        super().__init__(weights, scale_clamp)
        self.proj_xy = proj_xy

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Deltas (N, 5), weighted, that turn boxes (N, 5) into the rectangles of targets (N, 5)."""
        target = nearest_description(target_boxes, src_boxes[:, 4])
        if self.proj_xy:
            target = torch.cat((_turned(target[:, :2], src_boxes, -1), target[:, 2:]), 1)
        return super().get_deltas(src_boxes, target)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (N, k * 5) from deltas (N, k * 5) and boxes (N, 5), in float32 at least.

        detectron2 takes the type of the deltas. Under autocast that is one which cannot tell two neighboring
        pixels apart.
        """
        moved = super().apply_deltas(deltas.to(torch.promote_types(deltas.dtype, torch.float32)), boxes)
        if self.proj_xy:
            each = moved.unflatten(1, (-1, 5))
            centers = _turned(each[..., :2], boxes[:, None], 1)
            moved = torch.cat((centers, each[..., 2:]), -1).flatten(1)
        return moved


def _turned(points: Tensor, boxes: Tensor, sign: int) -> Tensor:
    """Points (..., 2) turned about the centers of boxes (..., 5) by their angles, times 1 or -1."""
    angle = torch.deg2rad(boxes[..., 4]) * sign
    cos, sin = angle.cos(), angle.sin()
    x, y = (points - boxes[..., :2]).unbind(-1)
    return boxes[..., :2] + torch.stack((cos * x + sin * y, cos * y - sin * x), -1)


def nearest_description(boxes: Tensor, angles: Tensor | float) -> Tensor:
    """The same rectangles (N, 5), with angles from 45 degrees under `angles` (N,) to 45 degrees above."""
    turns = torch.floor((boxes[:, 4] - angles + 45) / 90)
    swapped = turns.remainder(2) == 1
    width, height = boxes[:, 2], boxes[:, 3]
    sizes = torch.where(swapped, height, width), torch.where(swapped, width, height)
    return torch.stack((boxes[:, 0], boxes[:, 1], *sizes, boxes[:, 4] - 90 * turns), 1)
