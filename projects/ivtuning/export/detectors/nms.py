"""Non-maximum suppression whose result has a fixed shape, as an operator that ONNX has too."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor


@torch.library.custom_op("ivtuning::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, limit: int) -> Tensor:
    """Which boxes non-maximum suppression keeps, in every image and class by itself.

    Args:
        boxes: (B, N, 4) float32 x1, y1, x2, y2.
        scores: (B, K, N) float32; a box with the score of another is kept before it if its index is lower.
        iou_threshold: a box goes if its IoU with one that is kept is higher.
        score_threshold: only boxes with higher scores are looked at.
        limit: the most boxes that are kept of one image and class.

    Returns:
        (B, K, N) bool.
    """
    kept = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for image, classes in enumerate(scores):
        for label, values in enumerate(classes):
            index = (values > score_threshold).nonzero()[:, 0]
            order = torchvision.ops.nms(boxes[image, index], values[index], iou_threshold)
            kept[image, label, index[order[:limit]]] = True
    return kept


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, limit: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)
