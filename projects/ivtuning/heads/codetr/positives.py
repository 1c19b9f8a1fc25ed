"""Customised positive queries (section 3.3): regions that an auxiliary head found good, as queries."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..dino.boxes import to_centers
from .regions import Regions

# Queries of one head in an image: as many as the image with most positives has, within these.
LEAST, MOST = 9, 300


class Positives(NamedTuple):
    """Q queries of one head for every image.

    Fields:
        boxes: (B, Q, 4) cx, cy, w, h of the regions, fractions of the image.
        labels: (B, Q) long, classes from 0; K where a query should find nothing.
        objects: (B, Q, 4) what a query should find, as `boxes`.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor


@torch.no_grad()
def customise(regions: list[Regions], image_sizes: list[tuple[int, int]], num_classes: int) -> Positives:
    """All regions of an image that answer for an object, or a draw of them; filled up with a draw of others.

    Args:
        regions: of each image.
        image_sizes: height and width of each, in pixels.
        num_classes: K.
    """
    positive = [r.labels < num_classes for r in regions]
    most = int(torch.stack([p.sum() for p in positive]).max())
    count = min(max(LEAST, min(most, MOST)), *(len(p) for p in positive))
    chosen = []
    for r, is_positive, (height, width) in zip(regions, positive, image_sizes, strict=True):
        # A random order, positives before all others.
        rank = torch.rand(len(r.labels), device=r.labels.device) + is_positive
        index = rank.topk(count).indices
        size = r.boxes.new_tensor([width, height, width, height])
        chosen.append(
            (to_centers(r.boxes[index] / size), r.labels[index], to_centers(r.objects[index] / size))
        )
    return Positives(*(torch.stack(values) for values in zip(*chosen, strict=True)))
