"""The definition of deformable attention, point by point."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

SHAPES = [(5, 7), (3, 4), (1, 2)]


def defining_sum(value: Tensor, locations: Tensor, weights: Tensor, shapes=SHAPES) -> Tensor:
    """The sum over the four neighbor pixels of every point, without those outside of the map."""
    out = torch.zeros(*locations.shape[:3], value.shape[-1], dtype=value.dtype)
    starts = [0, *itertools.accumulate(h * w for h, w in shapes)]
    for b, q, m, level, p in itertools.product(*map(range, weights.shape)):
        h, w = shapes[level]
        x, y = (locations[b, q, m, level, p] * torch.tensor([w, h]) - 0.5).tolist()
        for column, row in itertools.product(
            (math.floor(x), math.floor(x) + 1), (math.floor(y), math.floor(y) + 1)
        ):
            if 0 <= column < w and 0 <= row < h:
                share = (1 - abs(x - column)) * (1 - abs(y - row))
                pixel = value[b, starts[level] + row * w + column, m]
                out[b, q, m] += weights[b, q, m, level, p] * share * pixel
    return out.flatten(2)
