"""Bipartite matching of queries and objects (DETR, arXiv 2005.12872, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...tuning.options import need_number
from ...utils.precision import at_least_float32
from .boxes import generalized_iou, to_corners
from .targets import Targets


class Matches(NamedTuple):
    """N pairs of a query and an object, as indices: (N,) long each.

    Fields:
        layer, image, query: indices of the prediction.
        target: index of the object in :class:`.targets.Targets`.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor


class HungarianMatcher:
    """Assigns a query of its own to every object at the lowest total cost, for every image and layer.

    Args:
        class_weight: weight of the focal cost (alpha 0.25, gamma 2), the loss of a query as a positive minus
            its loss as a negative.
        box_weight: weight of the L1 distance between the boxes, cx, cy, w, h.
        giou_weight: weight of minus their generalized IoU.

    Raises:
        UserError: a weight that is not a number from 0.
    """

    def __init__(self, class_weight: float = 2.0, box_weight: float = 5.0, giou_weight: float = 2.0):
        weights = dict(class_weight=class_weight, box_weight=box_weight, giou_weight=giou_weight)
        for name, weight in weights.items():
            need_number(f"model.criterion.matcher.{name}", weight, least=0)
        self.class_weight, self.box_weight, self.giou_weight = class_weight, box_weight, giou_weight

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Matches:
        """
        Args:
            logits: (L, B, Q, K) of L layers.
            boxes: (L, B, Q, 4) cx, cy, w, h in 0..1.

        Returns:
            min(Q, objects) matches for every layer and image. Costs that are NaN or infinite count as very
            high.
        """
        # The costs of all layers and images are computed and transferred at once; scipy then solves one
        # problem after another.
        cost = self.cost(logits, boxes, targets).cpu().numpy()
        matches = []
        start = 0
        for image, count in enumerate(targets.counts):
            for layer in range(len(logits) if count else 0):
                rows, columns = linear_sum_assignment(cost[start : start + count, layer])
                matches.append([np.full_like(rows, layer), np.full_like(rows, image), columns, rows + start])
            start += count
        indices = np.concatenate(matches, 1) if matches else np.zeros((4, 0), np.int64)
        return Matches(*torch.from_numpy(indices).to(logits.device))

    def cost(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Cost (N, L, Q) of matching each of N objects with each query of its own image."""
        probability = at_least_float32(logits.permute(1, 3, 0, 2)[targets.image, targets.labels]).sigmoid()
        positive = 0.25 * (1 - probability).square() * -(probability + 1e-8).log()
        negative = 0.75 * probability.square() * -(1 - probability + 1e-8).log()
        boxes = at_least_float32(boxes).transpose(0, 1)
        centers, corners = boxes[targets.image], to_corners(boxes)[targets.image]
        distance = torch.cdist(centers.flatten(1, 2), targets.boxes[:, None], p=1).view_as(positive)
        overlap = generalized_iou(corners, to_corners(targets.boxes)[:, None, None])
        cost = self.class_weight * (positive - negative) + self.box_weight * distance
        return (cost - self.giou_weight * overlap).nan_to_num(1e6, 1e6, 1e6)
