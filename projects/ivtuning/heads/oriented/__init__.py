"""Detectors of oriented boxes: rotated Faster R-CNN and RetinaNet, on detectron2's heads."""

from ...oriented import operators
from .rcnn import OrientedHeads, OrientedOutputLayers, OrientedRPN
from .retinanet import OrientedRetinaNet, OrientedRetinaNetHead
from .transform import OrientedTransform

operators.provide()

__all__ = [
    "OrientedHeads",
    "OrientedOutputLayers",
    "OrientedRPN",
    "OrientedRetinaNet",
    "OrientedRetinaNetHead",
    "OrientedTransform",
]
