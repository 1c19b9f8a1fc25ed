"""Deltas of oriented boxes lead to the same rectangle by the shortest way."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.oriented import boxes_like, corner_distance

from ivtuning.heads.oriented import OrientedTransform

WEIGHTS = (10.0, 10.0, 5.0, 5.0, 5.0)


@pytest.mark.parametrize("proj_xy", [False, True])
def test_deltas_lead_to_the_target(proj_xy):
    transform = OrientedTransform(WEIGHTS, proj_xy=proj_xy)
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


def test_projected_deltas_turn_with_the_boxes():
    """They are the same however the image is turned; unprojected ones are along its axes."""
    sources, targets = boxes_like(100, 3), boxes_like(100, 4)
    turn = math.radians(70)
    turned = [boxes.clone() for boxes in (sources, targets)]
    for boxes in turned:
        x, y = boxes[:, 0].clone(), boxes[:, 1].clone()
        boxes[:, 0], boxes[:, 1] = (
            math.cos(turn) * x + math.sin(turn) * y,
            math.cos(turn) * y - math.sin(turn) * x,
        )
        boxes[:, 4] += 70
    transform = OrientedTransform(WEIGHTS, proj_xy=True)
    deltas = transform.get_deltas(sources, targets)
    torch.testing.assert_close(transform.get_deltas(*turned), deltas)
    # A target above a source that stands upright, with its width up.
    source, target = torch.tensor([[50.0, 50, 20, 10, 90], [50, 40, 20, 10, 90]]).double().split(1)
    assert transform.get_deltas(source, target)[0].tolist() == pytest.approx([10 * 10 / 20, 0, 0, 0, 0])
    plain = OrientedTransform(WEIGHTS).get_deltas(source, target)[0].tolist()
    assert plain == pytest.approx([0, -10 * 10 / 10, 0, 0, 0])


def test_projected_deltas_of_several_classes():
    transform = OrientedTransform(WEIGHTS, proj_xy=True)
    sources, targets = boxes_like(30, 5), [boxes_like(30, seed) for seed in (6, 7)]
    deltas = torch.cat([transform.get_deltas(sources, target) for target in targets], 1)
    for found, target in zip(transform.apply_deltas(deltas, sources).split(5, 1), targets, strict=True):
        assert corner_distance(found, target) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_half_precision_of_deltas_is_not_that_of_boxes(dtype):
    boxes = torch.tensor([[456.32, 535.83, 63.85, 63.97, 0.1]])
    moved = OrientedTransform(WEIGHTS).apply_deltas(torch.zeros(1, 5, dtype=dtype), boxes)
    assert torch.allclose(moved.float(), boxes, atol=1e-4)
