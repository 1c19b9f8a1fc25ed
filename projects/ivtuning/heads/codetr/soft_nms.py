"""Soft non-maximum suppression (arXiv 1704.04503), linear: overlapped boxes lose score instead of going."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ...errors import UserError


class SoftNMS:
    """Lowers scores: each box, best first, multiplies by 1 - IoU what overlaps it in its own class.

    Args:
        iou_threshold: overlap from which on a score is lowered, above 0.
        min_score: boxes that fall below are dropped.

    Raises:
        UserError: `iou_threshold` is not in 0..1.
    """

    def __init__(self, iou_threshold: float = 0.8, min_score: float = 1e-3):
        if not 0 < iou_threshold <= 1:
            raise UserError(f"model.soft_nms.iou_threshold={iou_threshold}: give more than 0, at most 1")
        self.iou_threshold, self.min_score = iou_threshold, min_score

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            boxes: (N, 4) x1, y1, x2, y2.
            scores: (N,) from 0.
            classes: (N,).

        Returns:
            Indices of the boxes that stay, by falling score, and these scores.
        """
        overlap = box_iou(boxes, boxes) * (classes[:, None] == classes)
        overlap = torch.where(overlap >= self.iou_threshold, overlap, 0).fill_diagonal_(0)
        crowd = overlap.any(1).nonzero()[:, 0]
        # Only these change, in a chain of tiny steps that are faster on the CPU.
        keep = (1 - overlap[crowd][:, crowd]).cpu()
        left = scores[crowd].cpu()
        waiting = torch.ones(len(left), dtype=torch.bool)
        for _ in range(len(left)):
            best = torch.where(waiting, left, -1).argmax()
            waiting[best] = False
            left = torch.where(waiting, left * keep[best], left)
        scores = scores.index_copy(0, crowd, left.to(scores.device))
        scores, order = scores.sort(descending=True)
        stays = scores >= self.min_score
        return order[stays], scores[stays]
