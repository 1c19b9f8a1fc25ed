"""Evaluators for detection, segmentation and classification, per class, time of day and modality."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from .. import compat

compat.prepare()

from .coco import PairCOCOEvaluator

__all__ = ["PairCOCOEvaluator"]
