"""Evaluators for detection, segmentation and classification, per class, time of day and modality."""

from .coco import PairCOCOEvaluator

__all__ = ["PairCOCOEvaluator"]
