"""Graphs of detectron2's R-CNNs: region proposals, and heads of one or several stages on them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, StandardROIHeads
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.structures import Boxes
from torch import Tensor, nn

from ... import compat
from ...errors import UserError
from ...heads.cascade import RefiningOutputLayers, best_class, boxes_of_classes
from .base import NAMES, DetectorGraph, best, clip, nonempty, pack, pick
from .nms import nms


class Regions(NamedTuple):
    """What the stages on regions say about P proposals of each image.

    Fields:
        proposals: (B, P, 4) float32 x1, y1, x2, y2 in pixels; 0 where there are fewer.
        valid: (B, P) bool, what is no padding.
        scores: (B, P, K + 1) probabilities, those of the background last.
        boxes: (B, P, K, 4) in pixels, not clipped, or (B, P, 1, 4) where classes share them.
    """

    proposals: Tensor
    valid: Tensor
    scores: Tensor
    boxes: Tensor


class RCNNOutputs(DetectorGraph):
    """Outputs of an R-CNN's heads.

    For all A anchors, level by level, "objectness" (B, A), logits, and "anchor_boxes" (B, A, 4), where the
    first stage moves them. For the P best of these, "proposals" (B, P, 4), clipped, and 0 where there are
    fewer, "probabilities" (B, P, K + 1) of the classes and, last, the background, and "boxes" (B, P, K, 4),
    or (B, P, 1, 4) where classes share them. Boxes are float32 x1, y1, x2, y2 in pixels. Proposals are in the
    order of their objectness; rounding can swap two whose objectness is nearly equal.
    """

    names = ["objectness", "anchor_boxes", "proposals", "probabilities", "boxes"]
    ranked: tuple[str, ...] = ("proposals", "probabilities", "boxes")

    def __init__(self, model: GeneralizedRCNN):
        super().__init__(model)
        _check(model)

    def compute(self, images: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        features = self.model.backbone(images)
        levels = anchors_of_levels(self.model.proposal_generator, features)
        regions = self.regions(features, levels, image_size)
        objectness, boxes = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
        return objectness, boxes, regions.proposals, regions.scores, regions.boxes

    def regions(
        self, features: dict[str, Tensor], levels: list[tuple[Tensor, Tensor]], image_size: tuple[int, int]
    ) -> Regions:
        """The heads' outputs on the proposals of `levels`, see :func:`anchors_of_levels`."""
        heads = self.model.roi_heads
        proposals, valid = propose(self.model.proposal_generator, levels, image_size)
        maps = [features[name] for name in heads.box_in_features]
        if isinstance(heads, CascadeROIHeads):
            stages = list(zip(heads.box_head, heads.box_predictor, strict=True))
        else:
            stages = [(heads.box_head, heads.box_predictor)]
        boxes, scores = proposals, []
        for i, (head, predictor) in enumerate(stages):
            if i > 0:
                boxes = clip(boxes[:, :, 0], image_size)
            pooled = head(pool(heads.box_pooler, maps, boxes))
            logits, boxes = predict(predictor, pooled, boxes)
            scores.append(class_probabilities(predictor, logits))
            if isinstance(predictor, RefiningOutputLayers):
                boxes = boxes_of_classes(boxes, best_class(logits))[:, :, None]
        return Regions(proposals, valid, sum(scores) * (1.0 / len(stages)), boxes)


class RCNNDetections(RCNNOutputs):
    """An R-CNN's detections, with masks where it has a mask head; see :func:`..detections`."""

    ranked = ()

    def __init__(self, model: GeneralizedRCNN):
        super().__init__(model)
        self.names = [*NAMES, "masks"] if model.roi_heads.mask_on else NAMES

    def compute(self, images: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        features = self.model.backbone(images)
        levels = anchors_of_levels(self.model.proposal_generator, features)
        boxes, scores, labels, count = self.detect(self.regions(features, levels, image_size), image_size)
        if not self.model.roi_heads.mask_on:
            return boxes, scores, labels, count
        valid = torch.arange(boxes.shape[1], device=boxes.device) < count[:, None]
        masks = predict_masks(self.model.roi_heads, features, boxes, labels)
        return boxes, scores, labels, count, masks.masked_fill(~valid[..., None, None], 0.0)

    def detect(self, regions: Regions, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        """The best regions of every class that do not overlap, see :func:`.base.pack`."""
        predictor = self.model.roi_heads.box_predictor
        predictor = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
        boxes = clip(regions.boxes, image_size).transpose(1, 2)  # (B, K or 1, P, 4)
        scores = regions.scores[..., :-1].float().mT  # (B, K, P)
        valid = (scores > predictor.test_score_thresh) & regions.valid[:, None]
        limit = predictor.test_topk_per_image
        if limit < 0:  # all of them
            limit = scores.shape[1] * scores.shape[2]
        separate = boxes.shape[1] > 1
        candidates = scores.masked_fill(~valid, -1.0)
        if separate:  # every class with boxes of its own counts as an image
            candidates = candidates.flatten(0, 1)[:, None]
        threshold = max(0.0, predictor.test_score_thresh)
        kept = nms(boxes.flatten(0, 1), candidates, predictor.test_nms_thresh, threshold, limit)
        top, index, valid = best(scores.flatten(1), kept.view(scores.shape).flatten(1), limit)
        region = index if separate else index % scores.shape[2]
        return pack(pick(boxes.flatten(1, 2), region), top, index // scores.shape[2], valid, image_size)


def _check(model: GeneralizedRCNN) -> None:
    """Raise UserError unless all parts of the model have a graph here."""
    rpn, heads = model.proposal_generator, model.roi_heads
    if not isinstance(rpn, RPN) or rpn.anchor_generator.box_dim != 4:
        raise UserError(
            f"model.proposal_generator is {type(rpn).__name__}: only an RPN of upright boxes can be exported"
        )
    if not isinstance(heads, StandardROIHeads) or getattr(heads, "keypoint_on", False):
        kind = "has keypoints" if getattr(heads, "keypoint_on", False) else f"is {type(heads).__name__}"
        raise UserError(f"model.roi_heads {kind}: only box and mask heads can be exported")
    predictors = heads.box_predictor if isinstance(heads, CascadeROIHeads) else [heads.box_predictor]
    for predictor in predictors:
        if not isinstance(predictor, FastRCNNOutputLayers):
            raise UserError(
                f"model.roi_heads predicts boxes with {type(predictor).__name__}: only FastRCNNOutputLayers "
                "can be exported"
            )
    poolers = [heads.box_pooler]
    if heads.mask_on:
        if not isinstance(heads.mask_head, BaseMaskRCNNHead) or heads.mask_pooler is None:
            raise UserError(
                f"model.roi_heads.mask_head is {type(heads.mask_head).__name__}: only mask heads on pooled "
                "regions can be exported"
            )
        poolers.append(heads.mask_pooler)
    for pooler in poolers:
        if not all(isinstance(level, ROIAlign) for level in pooler.level_poolers):
            raise UserError(
                "model.roi_heads pools regions by another way than RoIAlign: set pooler_type=ROIAlignV2"
            )


def anchors_of_levels(rpn: RPN, features: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Objectness (B, A) and moved boxes (B, A, 4) of the anchors of every level; boxes are not clipped."""
    maps = [features[name] for name in rpn.in_features]
    levels = []
    for logits, deltas, anchors in zip(*rpn.rpn_head(maps), rpn.anchor_generator(maps), strict=True):
        logits = logits.permute(0, 2, 3, 1).flatten(1)
        deltas = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        anchors = anchors.tensor.expand(deltas.shape[0], -1, -1)
        boxes = rpn.box2box_transform.apply_deltas(deltas.flatten(0, 1), anchors.flatten(0, 1))
        levels.append((logits.float(), boxes.view(deltas.shape)))
    return levels


def propose(
    rpn: RPN, levels: list[tuple[Tensor, Tensor]], image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The best boxes of all levels without those that overlap better ones of their level.

    Args:
        levels: see :func:`anchors_of_levels`.
        image_size: height and width.

    Returns:
        Boxes (B, P, 4), clipped, 0 where there are fewer, and which are none of these, (B, P) bool.
    """
    scores, boxes, ranks = [], [], []
    for logits, moved in levels:
        logits, index = logits.topk(min(rpn.pre_nms_topk[False], logits.shape[1]), 1)
        scores.append(logits)
        boxes.append(pick(moved, index))
        # Boxes are in the order of their scores, of which suppression sees the ranks: logits can be negative.
        ranks.append(torch.arange(logits.shape[1], 0, -1, dtype=torch.float32, device=logits.device))
    scores, boxes = torch.cat(scores, 1), clip(torch.cat(boxes, 1), image_size)
    valid = nonempty(boxes, rpn.min_box_size)
    limit = rpn.post_nms_topk[False]
    kept = nms(boxes, torch.block_diag(*ranks) * valid[:, None], rpn.nms_thresh, 0.0, limit)
    _, index, valid = best(scores, kept.any(1), limit)
    return pick(boxes, index).masked_fill(~valid[..., None], 0.0), valid


def pool(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """Features (B * P, C, h, w) of the regions `boxes` (B, P, 4), each from the map of its size.

    Every map is asked for all regions. On maps that are not a region's it has no area, and costs little.
    """
    image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    image = image[:, None].expand(boxes.shape[:2]).reshape(-1, 1)
    flat = boxes.reshape(-1, 4)
    level = assign_boxes_to_levels(
        [Boxes(flat)],
        pooler.min_level,
        pooler.max_level,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )
    output = None
    for i, (align, features) in enumerate(zip(pooler.level_poolers, maps, strict=True)):
        here = (level == i)[:, None]
        regions = torch.cat([image, flat.where(here, 0.0)], 1)
        # Half precision would round the regions' corners to pixels.
        pooled = align(features.float(), regions).to(features.dtype)
        output = pooled if output is None else pooled.where(here[..., None, None], output)
    return output


def predict(predictor: FastRCNNOutputLayers, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, P, K + 1) and moved boxes (B, P, K or 1, 4) of regions `boxes` (B, P, 4)."""
    logits, deltas = predictor(features)
    moved = predictor.box2box_transform.apply_deltas(deltas, boxes.reshape(-1, 4))
    shape = boxes.shape[:2]
    return logits.view(*shape, -1), moved.view(*shape, -1, 4)


def class_probabilities(predictor: FastRCNNOutputLayers, logits: Tensor) -> Tensor:
    """Logits as probabilities: independent ones where the predictor learned such."""
    return logits.sigmoid() if compat.independent_classes(predictor) else logits.softmax(-1)


def predict_masks(
    heads: StandardROIHeads, features: dict[str, Tensor], boxes: Tensor, labels: Tensor
) -> Tensor:
    """Masks (B, N, h, w) in 0..1 of the given classes in `boxes` (B, N, 4)."""
    maps = [features[name] for name in heads.mask_in_features]
    logits = heads.mask_head.layers(pool(heads.mask_pooler, maps, boxes)).unflatten(0, labels.shape)
    if logits.shape[2] == 1:
        return logits[:, :, 0].sigmoid()
    index = labels[..., None, None, None].expand(-1, -1, -1, *logits.shape[3:])
    return logits.gather(2, index)[:, :, 0].sigmoid()
