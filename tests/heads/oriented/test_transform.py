"""Deltas of oriented boxes lead to the same rectangle by the shortest way."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.oriented import boxes_like, corner_distance

from ivtuning.heads.oriented import OrientedTransform

WEIGHTS = (10.0, 10.0, 5.0, 5.0, 5.0)


def test_deltas_lead_to_the_target():
    transform = OrientedTransform(WEIGHTS)
    sources, targets = boxes_like(300, 0), boxes_like(300, 1)
    deltas = transform.get_deltas(sources, targets)
    assert corner_distance(transform.apply_deltas(deltas, sources), targets) < 1e-6
    assert deltas[:, 4].abs().max() <= 5 * math.pi / 4 + 1e-9


def test_boxes_that_look_alike_have_small_deltas():
    transform = OrientedTransform(WEIGHTS)
    boxes = boxes_like(50, 2)
    for turn in (-180, -90, 0, 90, 180, 270):
        other = boxes + torch.tensor([0, 0, 0, 0, turn + 1.0])
        other[:, 2:4] = other[:, [3, 2]][:, :2] if turn % 180 else other[:, 2:4]
        deltas = transform.get_deltas(boxes, other)
        assert torch.allclose(deltas, torch.tensor([0, 0, 0, 0, 5 * math.pi / 180]).double(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_half_precision_of_deltas_is_not_that_of_boxes(dtype):
    boxes = torch.tensor([[456.32, 535.83, 63.85, 63.97, 0.1]])
    moved = OrientedTransform(WEIGHTS).apply_deltas(torch.zeros(1, 5, dtype=dtype), boxes)
    assert torch.allclose(moved.float(), boxes, atol=1e-4)
