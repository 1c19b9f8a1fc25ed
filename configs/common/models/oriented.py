"""Turns a Faster R-CNN or a RetinaNet of this folder into a detector of oriented boxes."""

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import RotatedAnchorGenerator

from ivtuning.heads.oriented import (
    MidpointAnchorGenerator,
    MidpointOffsetTransform,
    OrientedHeads,
    OrientedOutputLayers,
    OrientedRetinaNet,
    OrientedRetinaNetHead,
    OrientedRPN,
    OrientedTransform,
    RotatedRPN,
)

# Degrees. With aspect ratios of 1:2 and 2:1, two angles make four directions of elongated anchors.
ANGLES = (0, 45)


def orient(model, angles=ANGLES):
    """Change the config node of a model in place, to anchors of several angles.

    It keeps its trunk, neck, sizes of anchors and losses.
    """
    if "proposal_generator" in model:
        rpn = model.proposal_generator
        rpn._target_ = RotatedRPN
        rpn.head.update(num_anchors=rpn.head.num_anchors * len(angles), box_dim=5)
        _orient_anchors(rpn, angles)
        _orient_heads(model.roi_heads)
    else:
        model._target_ = OrientedRetinaNet
        model.head._target_ = OrientedRetinaNetHead
        model.head.num_anchors *= len(angles)
        model.test_nms_thresh = 0.1
        _orient_anchors(model, angles)


def orient_rcnn(model):
    """Change the config node of a Faster R-CNN in place into Oriented R-CNN (arXiv 2108.05699).

    Its anchors stay upright; six deltas lead from them to oriented proposals. Weights of deltas and the
    thresholds of NMS are the authors'.
    """
    rpn = model.proposal_generator
    rpn._target_ = OrientedRPN
    rpn.head.box_dim = 6
    rpn.anchor_generator._target_ = MidpointAnchorGenerator
    rpn.box2box_transform = L(MidpointOffsetTransform)(weights=[1.0, 1.0, 1.0, 1.0, 2.0, 2.0])
    rpn.nms_thresh = 0.8
    _orient_heads(model.roi_heads)
    model.roi_heads.box_predictor.box2box_transform.update(weights=[10, 10, 5, 5, 10], proj_xy=True)


def _orient_heads(heads):
    heads._target_ = OrientedHeads
    heads.box_pooler.pooler_type = "ROIAlignRotated"
    heads.box_predictor._target_ = OrientedOutputLayers
    # Overlaps of long boxes that cross are small, and parked cars do not overlap.
    heads.box_predictor.test_nms_thresh = 0.1
    _orient_transform(heads.box_predictor)


def _orient_anchors(node, angles):
    node.anchor_generator._target_ = RotatedAnchorGenerator
    node.anchor_generator.angles = list(angles)
    _orient_transform(node)


def _orient_transform(node):
    node.box2box_transform._target_ = OrientedTransform
    # The angle has the weight of the logarithms of width and height.
    node.box2box_transform.weights = [*node.box2box_transform.weights, node.box2box_transform.weights[2]]
