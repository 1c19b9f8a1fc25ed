"""Linear soft non-maximum suppression (arXiv 1704.04503): lowers the scores of overlapping boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ...errors import UserError
from ...tuning.options import need_number


class SoftNMS:
    """Decay of the scores of boxes that overlap a better one of the same class.

    In the order of their scores, each box multiplies the scores of those that it overlaps by 1 - IoU.

    Args:
        iou_threshold: IoU from which on a score decays, above 0.
        min_score: boxes whose score falls below are dropped.

    Raises:
        UserError: `iou_threshold` is not in 0..1, or `min_score` not a number from 0.
    """

    def __init__(self, iou_threshold: float = 0.8, min_score: float = 1e-3):
        if not 0 < iou_threshold <= 1:
            raise UserError(f"model.soft_nms.iou_threshold={iou_threshold}: give more than 0, at most 1")
        need_number("model.soft_nms.min_score", min_score, least=0)
        self.iou_threshold, self.min_score = iou_threshold, min_score

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            boxes: (N, 4) x1, y1, x2, y2.
            scores: (N,) from 0.
            classes: (N,).

        Returns:
            Indices of the boxes that are kept, by descending score, and these scores.
        """
        overlap = box_iou(boxes, boxes) * (classes[:, None] == classes)
        overlap = torch.where(overlap >= self.iou_threshold, overlap, 0).fill_diagonal_(0)
        overlapping = overlap.any(1).nonzero()[:, 0]
        # Only these scores change, in a sequence of tiny steps that are faster on the CPU.
        decay = (1 - overlap[overlapping][:, overlapping]).cpu()
        decayed = scores[overlapping].cpu()
        pending = torch.ones(len(decayed), dtype=torch.bool)
        for _ in range(len(decayed)):
            best = torch.where(pending, decayed, -1).argmax()
            pending[best] = False
            decayed = torch.where(pending, decayed * decay[best], decayed)
        scores = scores.index_copy(0, overlapping, decayed.to(scores.device))
        scores, order = scores.sort(descending=True)
        keep = scores >= self.min_score
        return order[keep], scores[keep]
