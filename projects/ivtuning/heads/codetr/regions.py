"""detectron2's R-CNN parts with mmdetection's conventions, and regions with the object assigned to each."""

from __future__ import annotations

from collections.abc import Sequence
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
        labels: (N,) long, classes from 0; K, the number of classes, where a region has no object.
        objects: (N, 4), the box of the object assigned to each region; arbitrary where there is none.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor

    @classmethod
    def from_proposals(cls, proposals: Instances) -> Regions:
        """The proposals that detectron2's heads sampled in one image."""
        boxes = proposals.proposal_boxes.tensor
        # The field is missing where the image has no objects.
        objects = proposals.gt_boxes.tensor if proposals.has("gt_boxes") else boxes
        return cls(boxes, proposals.gt_classes, objects)


class ShapeMajorAnchors(DefaultAnchorGenerator):
    """Anchors in mmdetection's order: all sizes of the first aspect ratio, then those of the next."""

    def generate_cell_anchors(self, sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
        """(ratios * sizes, 4) anchors around 0."""
        return torch.cat(
            [super(ShapeMajorAnchors, self).generate_cell_anchors(sizes, [r]) for r in aspect_ratios]
        )


class RPNHead(StandardRPNHead):
    """An RPN head whose logits and deltas are float32 under autocast, as losses and boxes need."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], ...]:
        return tuple([at_least_float32(x) for x in maps] for maps in super().forward(features))


class OutputLayers(FastRCNNOutputLayers):
    """R-CNN outputs whose scores and deltas are float32 under autocast, as losses and boxes need."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(at_least_float32(x) for x in super().forward(x))
