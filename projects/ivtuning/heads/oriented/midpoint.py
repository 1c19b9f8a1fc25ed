"""Deltas from upright anchors to oriented boxes: midpoint offsets of Oriented R-CNN (arXiv 2108.05699)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import UserError
from ...oriented.boxes import canonical
from .transform import nearest_description

# A box within so many degrees of upright counts as upright: there the two offsets jump from one end of their
# range to the other, and rounding must not choose the end.
_UPRIGHT = 1e-4


class MidpointOffsetTransform:
    """Six deltas (dx, dy, dw, dh, da, db) of each anchor, scaled by weights.

    The first four lead from the anchor to the upright box around the target, as in Faster R-CNN. The others
    say where on that box the target's corners are, from the middle of an edge and as a fraction of its
    length, -0.5..0.5: `da` of the top corner to the right, `db` of the right corner downward. The opposite
    corners are symmetric.
    """

    def __init__(
        self,
        weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0, 2.0, 2.0),
        scale_clamp: float = math.log(1000 / 16),
    ):
        """
        Args:
            weights: factors of the six deltas; the defaults are those of the authors.
            scale_clamp: the largest logarithm of a scale that is applied, either way.

        Raises:
            UserError: not six weights.
        """
        if len(weights) != 6:
            raise UserError(f"box2box_transform.weights={list(weights)}: give six, of dx, dy, dw, dh, da, db")
        self.weights = tuple(weights)
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Deltas (N, 6) from upright boxes (N, 4), x1, y1, x2, y2, to oriented targets (N, 5)."""
        target = nearest_description(target_boxes, 45 - _UPRIGHT)  # angles of 0 to 90 degrees
        x, y, width, height, angle = target.unbind(1)
        angle = torch.deg2rad(angle)
        cos, sin = angle.cos(), angle.sin()
        outer_width, outer_height = width * cos + height * sin, width * sin + height * cos
        left, top, right, bottom = src_boxes.unbind(1)
        deltas = (
            (x - (left + right) / 2) / (right - left),
            (y - (top + bottom) / 2) / (bottom - top),
            (outer_width / (right - left)).log(),
            (outer_height / (bottom - top)).log(),
            (width * cos - height * sin) / (2 * outer_width),
            (height * cos - width * sin) / (2 * outer_height),
        )
        return torch.stack(deltas, 1) * src_boxes.new_tensor(self.weights)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Oriented boxes (N, 5), canonical, from deltas (N, 6) and upright boxes (N, 4), in float32 at least.

        Any four corners with these offsets are a parallelogram. It becomes a rectangle as the shorter
        diagonal is lengthened to the longer one.
        """
        deltas = deltas.to(torch.promote_types(deltas.dtype, torch.float32))
        dx, dy, dw, dh, da, db = (deltas / deltas.new_tensor(self.weights)).unbind(1)
        left, top, right, bottom = boxes.to(deltas.dtype).unbind(1)
        center = torch.stack(
            ((left + right) / 2 + dx * (right - left), (top + bottom) / 2 + dy * (bottom - top)), 1
        )
        outer_width = (right - left) * dw.clamp(-self.scale_clamp, self.scale_clamp).exp()
        outer_height = (bottom - top) * dh.clamp(-self.scale_clamp, self.scale_clamp).exp()
        # Half the diagonals, from the center to the top corner and to the right one.
        up = torch.stack((da.clamp(-0.5, 0.5) * outer_width, -outer_height / 2), 1)
        over = torch.stack((outer_width / 2, db.clamp(-0.5, 0.5) * outer_height), 1)
        lengths = up.norm(dim=1, keepdim=True), over.norm(dim=1, keepdim=True)
        longest = torch.maximum(*lengths)
        up, over = up * longest / lengths[0], over * longest / lengths[1]
        one, other = up + over, over - up
        # The longer edge has a direction even where the other one vanishes.
        swapped = (other.square().sum(1) > one.square().sum(1))[:, None]
        edge, side = torch.where(swapped, other, one), torch.where(swapped, one, other)
        angle = torch.rad2deg(torch.atan2(-edge[:, 1], edge[:, 0]))
        sizes = edge.norm(dim=1), side.norm(dim=1)
        return canonical(torch.stack((*center.unbind(1), *sizes, angle), 1))
