"""Heads and meta-architectures that detectron2 lacks: detection, segmentation and classification."""

from .. import compat

compat.prepare()
