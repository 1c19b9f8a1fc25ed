"""The two stages of rotated Faster R-CNN (RRPN, arXiv 1703.01086); the second is Oriented R-CNN's as well."""

from __future__ import annotations

from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.modeling.roi_heads.rotated_fast_rcnn import RotatedFastRCNNOutputLayers, RROIHeads
from detectron2.structures import Instances, RotatedBoxes
from torch import Tensor

from ...errors import UserError


def check_oriented(targets: list[Instances]) -> None:
    """Raise UserError unless the boxes to learn are oriented."""
    if not all(isinstance(target.gt_boxes, RotatedBoxes) for target in targets):
        raise UserError(
            "the detector learns oriented boxes, but the mapper gives others: set "
            "dataloader.train.mapper.oriented=True"
        )


class RotatedRPN(RRPN):
    """detectron2's region proposals of oriented boxes, from anchors of several angles."""

    def label_and_sample_anchors(
        self, anchors: list[RotatedBoxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels (R,) and matched boxes (R, 5) of all anchors, for each image; see RRPN.

        Raises:
            UserError: the boxes to learn are not oriented.
        """
        check_oriented(gt_instances)
        return super().label_and_sample_anchors(anchors, gt_instances)

    def predict_proposals(
        self,
        anchors: list[RotatedBoxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """The proposals of each image, see RRPN. Its compiled NMS takes scores of float32 alone."""
        logits = [part.float() for part in pred_objectness_logits]
        return super().predict_proposals(anchors, logits, pred_anchor_deltas, image_sizes)


class OrientedHeads(RROIHeads):
    """detectron2's heads on oriented regions. They pool in float32: its compiled RoIAlign has no bfloat16."""

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]):
        return super()._forward_box({name: part.float() for name, part in features.items()}, proposals)


class OrientedOutputLayers(RotatedFastRCNNOutputLayers):
    """detectron2's scores and deltas of oriented regions."""

    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """Probabilities (R_i, K + 1) float32 of each image."""
        return [scores.float() for scores in super().predict_probs(predictions, proposals)]
