"""Detectors of oriented boxes: Oriented R-CNN, rotated Faster R-CNN and RetinaNet, on detectron2's heads."""

from ...oriented import operators
from .midpoint import MidpointOffsetTransform
from .rcnn import OrientedHeads, OrientedOutputLayers, RotatedRPN
from .retinanet import OrientedRetinaNet, OrientedRetinaNetHead
from .rpn import MidpointAnchorGenerator, OrientedRPN
from .transform import OrientedTransform

operators.provide()

__all__ = [
    "MidpointAnchorGenerator",
    "MidpointOffsetTransform",
    "OrientedHeads",
    "OrientedOutputLayers",
    "OrientedRPN",
    "OrientedRetinaNet",
    "OrientedRetinaNetHead",
    "OrientedTransform",
    "RotatedRPN",
]
