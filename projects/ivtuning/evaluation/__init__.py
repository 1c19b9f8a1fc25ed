"""What detectron2's evaluators lack: fast COCO figures per class, per time of day and per modality."""

from .coco import PairCOCOEvaluator

__all__ = ["PairCOCOEvaluator"]
