"""Detectors of oriented boxes: rotated Faster R-CNN and RetinaNet, on detectron2's heads."""

from ...oriented import operators
from .proposals import OrientedRPN
from .retinanet import OrientedRetinaNet, OrientedRetinaNetHead
from .transform import OrientedTransform

operators.provide()

__all__ = ["OrientedRPN", "OrientedRetinaNet", "OrientedRetinaNetHead", "OrientedTransform"]
