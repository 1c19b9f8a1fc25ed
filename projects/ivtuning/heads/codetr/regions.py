"""detectron2's R-CNN parts as mmdetection sets them up, and regions that know what they answer for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor

from ...utils.precision import at_least_float32


class Regions(NamedTuple):
    """N anchors or proposals of one image.

    Fields:
        boxes: (N, 4) x1, y1, x2, y2, pixels.
        labels: (N,) long, classes from 0; K, the number of classes, where a region answers for nothing.
        objects: (N, 4) the object it answers for, as `boxes`; anything where it answers for nothing.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor

    @classmethod
    def of(cls, proposals: Instances) -> Regions:
        """What detectron2's heads sampled of one image's proposals."""
        boxes = proposals.proposal_boxes.tensor
        # Without objects in the image there is no such field.
        objects = proposals.gt_boxes.tensor if proposals.has("gt_boxes") else boxes
        return cls(boxes, proposals.gt_classes, objects)


class ShapeMajorAnchors(DefaultAnchorGenerator):
    """Anchors of a place in mmdetection's order: all sizes of the first shape, then of the next."""

    def generate_cell_anchors(self, sizes, aspect_ratios) -> Tensor:
        """(shapes * sizes, 4) around 0."""
        return torch.cat(
            [super(ShapeMajorAnchors, self).generate_cell_anchors(sizes, [r]) for r in aspect_ratios]
        )


class RPNHead(StandardRPNHead):
    """Logits and deltas in float32, which losses and boxes need, whatever autocast computes in."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], ...]:
        return tuple([at_least_float32(x) for x in maps] for maps in super().forward(features))


class OutputLayers(FastRCNNOutputLayers):
    """Scores and deltas in float32, see :class:`RPNHead`."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(at_least_float32(x) for x in super().forward(x))
