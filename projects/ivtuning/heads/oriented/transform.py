"""Deltas between oriented boxes."""

from __future__ import annotations

import torch
from detectron2.modeling.box_regression import Box2BoxTransformRotated
from torch import Tensor


class OrientedTransform(Box2BoxTransformRotated):
    """detectron2's deltas (dx, dy, dw, dh, da), to the nearest of the four descriptions of a target.

    A rectangle stays the same when it turns by 180 degrees, or by 90 with its edges exchanged. The target's
    description is the one within 45 degrees of the source, so that boxes that look alike have small deltas.
    """

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Deltas (N, 5), weighted, that turn boxes (N, 5) into the rectangles of targets (N, 5)."""
        return super().get_deltas(src_boxes, nearest_description(target_boxes, src_boxes[:, 4]))

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (N, k * 5) from deltas (N, k * 5) and boxes (N, 5), in float32 at least.

        detectron2 takes the type of the deltas. Under autocast that is one which cannot tell two neighboring
        pixels apart.
        """
        return super().apply_deltas(deltas.to(torch.promote_types(deltas.dtype, torch.float32)), boxes)


def nearest_description(boxes: Tensor, angles: Tensor | float) -> Tensor:
    """The same rectangles (N, 5), with angles from 45 degrees under `angles` (N,) to 45 degrees above."""
    turns = torch.floor((boxes[:, 4] - angles + 45) / 90)
    swapped = turns.remainder(2) == 1
    width, height = boxes[:, 2], boxes[:, 3]
    sizes = torch.where(swapped, height, width), torch.where(swapped, width, height)
    return torch.stack((boxes[:, 0], boxes[:, 1], *sizes, boxes[:, 4] - 90 * turns), 1)
