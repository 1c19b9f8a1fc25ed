"""Cascade R-CNN (arXiv 1712.00726) on detectron2's heads: class-specific boxes and weighted stages."""

from __future__ import annotations

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from ..utils.norms import make_norm


def sync_bn(channels: int) -> nn.Module:
    """Synchronized batch norm over the images of all processes, on any device."""
    return make_norm("SyncBN", channels)


def best_class(scores: Tensor) -> Tensor:
    """The class of the highest of `scores` (..., K + 1), the last of which, the background's, is left out."""
    return scores[..., :-1].argmax(-1)


def boxes_of_classes(boxes: Tensor, classes: Tensor) -> Tensor:
    """From `boxes` (..., K, 4) of all classes those of `classes` (...): (..., 4)."""
    return boxes.gather(-2, classes[..., None, None].expand(*classes.shape, 1, 4)).squeeze(-2)


class RefiningOutputLayers(FastRCNNOutputLayers):
    """Outputs of all stages but the last, with a box for each class.

    The next stage gets one of a region's boxes: in training, that of the class of its matched object; without
    such an object, and always at inference, that of the class with the highest score. detectron2's own
    cascade supports class-agnostic boxes only.
    """

    def predict_boxes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Boxes (R_i, 4), XYXY pixels, of each image from scores (R, K + 1) and deltas (R, 4K)."""
        scores, _ = predictions
        boxes = torch.cat(super().predict_boxes(predictions, proposals)).unflatten(1, (-1, 4))
        classes = best_class(scores)
        if self.training:
            matched = torch.cat([p.gt_classes for p in proposals])
            classes = torch.where(matched < self.num_classes, matched, classes)
        return boxes_of_classes(boxes, classes).split([len(p) for p in proposals])


class CascadeHeads(CascadeROIHeads):
    """detectron2's cascade, whose stages contribute to the features' gradient as their losses are weighted.

    detectron2 divides each stage's gradient by the number of stages. mmdetection, and the recipes made with
    it, weight the losses instead: see `loss_weight` of each stage's predictor.
    """

    def _run_stage(
        self, features: list[Tensor], proposals: list[Instances], stage: int
    ) -> tuple[Tensor, Tensor]:
        pooled = self.box_pooler(features, [p.proposal_boxes for p in proposals])
        return self.box_predictor[stage](self.box_head[stage](pooled))
