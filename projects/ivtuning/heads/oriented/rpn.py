"""The oriented RPN of Oriented R-CNN (arXiv 2108.05699): oriented proposals from upright anchors."""

from __future__ import annotations

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances, RotatedBoxes, pairwise_iou
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor

from ...oriented.boxes import bounding_boxes
from .rcnn import check_oriented


class MidpointAnchorGenerator(DefaultAnchorGenerator):
    """Upright anchors. For each, RPN takes `box_dim` numbers of its head: six deltas, not four."""

    box_dim = 6


class OrientedRPN(RPN):
    """A region proposal network whose upright anchors lead to oriented boxes.

    It takes RPN's arguments, with a :class:`.midpoint.MidpointOffsetTransform`, a
    :class:`MidpointAnchorGenerator` and a head with `box_dim` 6. Anchors are matched with the upright boxes
    around the objects, and NMS compares the upright boxes around the proposals of one map, as the authors do.
    """

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels (R,) in -1, 0, 1 and matched oriented boxes (R, 5) of all anchors, for each image; see RPN.

        Raises:
            UserError: the boxes to learn are not oriented.
        """
        check_oriented(gt_instances)
        every = Boxes.cat(anchors)
        labels, boxes = [], []
        for target in gt_instances:
            oriented = target.gt_boxes.tensor
            overlaps = retry_if_cuda_oom(pairwise_iou)(Boxes(bounding_boxes(oriented)), every)
            matched, label = retry_if_cuda_oom(self.anchor_matcher)(overlaps)
            label = label.to(oriented.device)
            if self.anchor_boundary_thresh >= 0:
                label[~every.inside_box(target.image_size, self.anchor_boundary_thresh)] = -1
            labels.append(self._subsample_labels(label))
            # Without objects, all anchors are background, whose boxes nobody reads.
            boxes.append(oriented[matched] if len(oriented) else oriented.new_ones(len(every), 5))
        return labels, boxes

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """The proposals of each image by falling score: oriented `proposal_boxes`, and `objectness_logits`.

        Args:
            anchors: (Ri, 4) of each map.
            pred_objectness_logits: (N, Ri) of each map.
            pred_anchor_deltas: (N, Ri, 6) of each map.
            image_sizes: height and width of each image.

        Raises:
            FloatingPointError: in training, a box or score is not finite.
        """
        most, kept = self.pre_nms_topk[self.training], self.post_nms_topk[self.training]
        results = []
        for i, size in enumerate(image_sizes):
            boxes, scores, levels = [], [], []
            maps = zip(anchors, pred_objectness_logits, pred_anchor_deltas, strict=True)
            for level, (anchor, logits, deltas) in enumerate(maps):
                score, order = logits[i].float().sort(descending=True, stable=True)
                order = order[:most]
                boxes.append(self.box2box_transform.apply_deltas(deltas[i, order], anchor.tensor[order]))
                scores.append(score[:most])
                levels.append(torch.full_like(order, level))
            box, score, level = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
            usable = box.isfinite().all(1) & score.isfinite()
            if self.training and not usable.all():
                raise FloatingPointError("proposals contain Inf or NaN: training has diverged")
            usable &= (box[:, 2:4] > self.min_box_size).all(1)
            box, score, level = box[usable], score[usable], level[usable]
            keep = batched_nms(bounding_boxes(box), score, level, self.nms_thresh)[:kept]
            proposals = Instances(size, objectness_logits=score[keep])
            proposals.proposal_boxes = RotatedBoxes(box[keep])
            results.append(proposals)
        return results
