"""Cascade R-CNN (arXiv 1712.00726) on detectron2's heads: boxes for each class, weighted stages."""

from __future__ import annotations

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from .segmentation.blocks import build_norm


def sync_bn(channels: int) -> nn.Module:
    """Batch norm over the images of all processes, on any device."""
    return build_norm("SyncBN", channels)


class RefiningOutputLayers(FastRCNNOutputLayers):
    """The outputs of all stages but the last, with a box for each class.

    A region goes on with one of them: in training that of the object it was matched to, or else, and always
    at inference, that of the class it scores highest for. detectron2's cascade alone knows boxes that all
    classes share.
    """

    def predict_boxes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """(scores (R, K+1), deltas (R, 4K)) of R regions in all -> boxes (R_i, 4), XYXY pixels, by image."""
        scores, _ = predictions
        boxes = torch.cat(super().predict_boxes(predictions, proposals)).unflatten(1, (-1, 4))
        chosen = scores[:, :-1].argmax(1)
        if self.training:
            matched = torch.cat([p.gt_classes for p in proposals])
            chosen = torch.where(matched < self.num_classes, matched, chosen)
        boxes = boxes[torch.arange(len(boxes), device=boxes.device), chosen]
        return boxes.split([len(p) for p in proposals])


class CascadeHeads(CascadeROIHeads):
    """detectron2's cascade, whose stages weigh in the features' gradient what their losses weigh.

    detectron2 gives every stage the weight 1 and scales that gradient down by their number; mmdetection
    and the recipes made with it weigh the losses instead: `loss_weight` of each stage's predictor.
    """

    def _run_stage(
        self, features: list[Tensor], proposals: list[Instances], stage: int
    ) -> tuple[Tensor, Tensor]:
        pooled = self.box_pooler(features, [p.proposal_boxes for p in proposals])
        return self.box_predictor[stage](self.box_head[stage](pooled))
