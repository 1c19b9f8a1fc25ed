"""Customized positive queries (Co-DETR, section 3.3): positive regions of an auxiliary head, as queries."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..dino.boxes import to_centers
from .regions import Regions

# Limits of the number of queries that one head gives for every image. Within them, it is the number of
# positive regions in the image that has most.
MIN_QUERIES, MAX_QUERIES = 9, 300


class PositiveQueries(NamedTuple):
    """Q queries of one head for every image.

    Fields:
        boxes: (B, Q, 4) cx, cy, w, h of the regions, fractions of the image.
        labels: (B, Q) long, classes from 0; K where a query has no object.
        objects: (B, Q, 4), the target box of each query, like `boxes`.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor


@torch.no_grad()
def customized_queries(
    regions: list[Regions], image_sizes: list[tuple[int, int]], num_classes: int
) -> PositiveQueries:
    """Make queries from the positive regions of every image.

    Too many positives are sampled at random; too few are filled up with random other regions.

    Args:
        regions: of each image.
        image_sizes: height and width of each image, in pixels.
        num_classes: K.
    """
    positive = [r.labels < num_classes for r in regions]
    most = int(torch.stack([p.sum() for p in positive]).max())
    count = min(max(MIN_QUERIES, min(most, MAX_QUERIES)), *(len(p) for p in positive))
    chosen = []
    for r, is_positive, (height, width) in zip(regions, positive, image_sizes, strict=True):
        # A random order with all positives before the others.
        rank = torch.rand(len(r.labels), device=r.labels.device) + is_positive
        index = rank.topk(count).indices
        size = r.boxes.new_tensor([width, height, width, height])
        chosen.append(
            (to_centers(r.boxes[index] / size), r.labels[index], to_centers(r.objects[index] / size))
        )
    return PositiveQueries(*(torch.stack(values) for values in zip(*chosen, strict=True)))
