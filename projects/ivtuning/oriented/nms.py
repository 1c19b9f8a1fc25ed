"""Non-maximum suppression of oriented boxes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .overlap import overlapping

# How many boxes are compared with all that follow at once.
_BLOCK = 512


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, classes: Tensor | None = None) -> Tensor:
    """Indices (K,) int64 of the boxes that are kept, by falling score.

    A box goes where one of a higher score is kept whose IoU with it is above the threshold. Equal scores stay
    in their order.

    Args:
        boxes: (N, 5) oriented boxes.
        scores: (N,).
        iou_threshold: in 0..1.
        classes: (N,) integers; a box removes others of its class only. None: all are of one.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order].double()
    if classes is not None and len(boxes):
        # Each class gets a place of its own.
        reach = boxes[:, 2:4].clamp(min=0).sum(1)
        span = (boxes[:, 0] + reach).max() - (boxes[:, 0] - reach).min()
        places = torch.unique(classes[order], return_inverse=True)[1]
        boxes[:, 0] += places * (span + 1)
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for start in range(0, len(boxes), _BLOCK):
        end = start + _BLOCK
        block = alive[start:end].nonzero()[:, 0] + start
        kept = _greedy(overlapping(boxes[block], boxes[block], iou_threshold))
        alive[block] = kept
        later = alive[end:].nonzero()[:, 0] + end
        covered = overlapping(boxes[block[kept]], boxes[later], iou_threshold).any(0)
        alive[later[covered]] = False
    return order[alive]


def _greedy(covers: Tensor) -> Tensor:
    """Which boxes (N,) bool are kept, where (i, j) of (N, N) bool says that i would remove a later j."""
    table = covers.cpu().numpy()
    kept = np.ones(len(table), bool)
    for i in range(len(table)):
        if kept[i]:
            kept[i + 1 :] &= ~table[i, i + 1 :]
    return torch.from_numpy(kept).to(covers.device)
