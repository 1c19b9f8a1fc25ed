"""RetinaNet for oriented boxes."""

from __future__ import annotations

import torch
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import ImageList, Instances, RotatedBoxes, pairwise_iou_rotated
from torch import Tensor, nn

from ...meta_arch import PairedRetinaNet
from ...oriented.nms import nms
from .rcnn import check_oriented


class OrientedRetinaNetHead(RetinaNetHead):
    """RetinaNet's head with five deltas for each anchor; see detectron2's for the arguments."""

    def __init__(self, *, num_anchors: int, **kwargs):
        super().__init__(num_anchors=num_anchors, **kwargs)
        last = self.bbox_pred
        self.bbox_pred = nn.Conv2d(last.in_channels, num_anchors * 5, kernel_size=3, padding=1)
        nn.init.normal_(self.bbox_pred.weight, std=0.01)
        nn.init.zeros_(self.bbox_pred.bias)


class OrientedRetinaNet(PairedRetinaNet):
    """RetinaNet on pairs, with oriented anchors and boxes."""

    def forward_training(
        self, images: ImageList, features: list[Tensor], predictions: tuple, gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        """The losses "loss_cls" and "loss_box_reg".

        Raises:
            UserError: the boxes to learn are not oriented.
        """
        check_oriented(gt_instances)
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 5])
        anchors = self.anchor_generator(features)
        labels, boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, labels, deltas, boxes)

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[RotatedBoxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels (R,) and matched boxes (R, 5) of all anchors, for each image.

        Labels are classes, the number of classes for background, and -1 for anchors that are ignored.
        """
        every = RotatedBoxes.cat(anchors)
        labels, boxes = [], []
        for target in gt_instances:
            matched, verdict = self.anchor_matcher(pairwise_iou_rotated(target.gt_boxes, every))
            if len(target):
                label = target.gt_classes[matched]
                label[verdict == 0] = self.num_classes
                label[verdict == -1] = -1
                boxes.append(target.gt_boxes.tensor[matched])
            else:
                label = torch.full_like(matched, self.num_classes)
                boxes.append(torch.zeros_like(every.tensor))
            labels.append(label)
        return labels, boxes

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: tuple
    ) -> list[Instances]:
        """The detections of each image, in pixels of the model's input."""
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 5])
        anchors = self.anchor_generator(features)
        return [
            self.inference_single_image(
                anchors, [x[i].sigmoid() for x in logits], [x[i] for x in deltas], size
            )
            for i, size in enumerate(images.image_sizes)
        ]

    def inference_single_image(
        self,
        anchors: list[RotatedBoxes],
        box_cls: list[Tensor],
        box_delta: list[Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """The detections of one image from scores (R, K) and deltas (R, 5) of each map."""
        boxes, scores, labels = [], [], []
        for anchor, every_score, delta in zip(anchors, box_cls, box_delta, strict=True):
            places = (every_score > self.test_score_thresh).nonzero()
            score, order = every_score[tuple(places.T)].sort(descending=True, stable=True)
            row, label = places[order[: self.test_topk_candidates]].T
            boxes.append(self.box2box_transform.apply_deltas(delta[row], anchor.tensor[row]))
            scores.append(score[: self.test_topk_candidates])
            labels.append(label)
        box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        keep = nms(box, score, self.test_nms_thresh, label)[: self.max_detections_per_image]
        found = Instances(image_size, scores=score[keep], pred_classes=label[keep])
        found.pred_boxes = RotatedBoxes(box[keep])
        return found
