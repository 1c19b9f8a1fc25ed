"""Region proposals of oriented boxes (RRPN, arXiv 1703.01086)."""

from __future__ import annotations

from detectron2.modeling.proposal_generator.rrpn import RRPN
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


class OrientedRPN(RRPN):
    """detectron2's region proposals of oriented boxes."""

    def label_and_sample_anchors(
        self, anchors: list[RotatedBoxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels (R,) and matched boxes (R, 5) of all anchors, for each image; see RRPN.

        Raises:
            UserError: the boxes to learn are not oriented.
        """
        check_oriented(gt_instances)
        return super().label_and_sample_anchors(anchors, gt_instances)
