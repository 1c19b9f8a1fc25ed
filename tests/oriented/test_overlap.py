"""Areas that oriented boxes share, and suppression by them."""

from __future__ import annotations

import pytest
import torch
from helpers.oriented import boxes_like, plain_iou

from ivtuning.oriented import overlap
from ivtuning.oriented.nms import nms
from ivtuning.oriented.overlap import intersection, overlapping, paired_iou, pairwise_iou


def references(boxes1, boxes2):
    return torch.tensor([[plain_iou(a, b) for b in boxes2] for a in boxes1], dtype=torch.float64)


def test_iou_is_that_of_clipped_polygons():
    boxes1, boxes2 = boxes_like(40, 0, size=50), boxes_like(50, 1, size=50)
    expected = references(boxes1, boxes2)
    assert (expected > 0).float().mean() > 0.2
    assert torch.allclose(pairwise_iou(boxes1, boxes2), expected, rtol=0, atol=1e-9)
    single = pairwise_iou(boxes1.float(), boxes2.float())
    assert single.dtype == torch.float32 and torch.allclose(single.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [0, 1e-9, 1e-7, 1e-4, 30, 45, 90, 135, 180, -90, 270.0])
def test_iou_where_borders_coincide(angle):
    box = boxes_like(30, 2, size=2000)
    same = box + torch.tensor([0, 0, 0, 0, 180.0])
    assert torch.allclose(paired_iou(box, same), torch.ones(30).double(), rtol=0, atol=1e-9)
    # A box of half the width, at one end of the other: three borders coincide.
    turned = box.clone()
    turned[:, 4] = angle
    half = turned.clone()
    direction = torch.deg2rad(turned[:, 4])
    half[:, 0] -= turned[:, 2] / 4 * direction.cos()
    half[:, 1] += turned[:, 2] / 4 * direction.sin()
    half[:, 2] /= 2
    assert torch.allclose(paired_iou(turned, half), torch.full((30,), 0.5).double(), rtol=0, atol=1e-8)
    nearly = turned + torch.tensor([0, 0, 0, 0, 1e-7])
    assert (paired_iou(turned, nearly) > 1 - 1e-6).all()


def test_iou_of_known_shapes():
    square = torch.tensor([[5.0, 5.0, 2.0, 2.0, 0.0]])
    diamond = torch.tensor([[5.0, 5.0, 2.0, 2.0, 45.0]])
    octagon = 8 * (2**0.5 - 1)  # of width 2
    assert intersection(square, diamond).item() == pytest.approx(octagon, abs=1e-12)
    inside = torch.tensor([[5.0, 5.0, 1.0, 0.5, 20.0]])
    assert pairwise_iou(square, inside).item() == pytest.approx(0.125, abs=1e-7)
    beside = torch.tensor([[7.0, 5.0, 2.0, 2.0, 0.0], [100.0, 5.0, 2.0, 2.0, 0.0], [5.0, 5.0, 0.0, 2.0, 3.0]])
    assert pairwise_iou(square, beside).tolist() == [[0, 0, 0]]
    assert pairwise_iou(beside[2:], beside[2:]).tolist() == [[0]]


def test_thin_and_far_boxes():
    boxes1, boxes2 = boxes_like(200, 3, size=30), boxes_like(200, 4, size=30)
    boxes1[:, 3] = 0.01
    boxes1[:, 2] = 500
    boxes1[:, :2] += 3e4
    boxes2[:, :2] += 3e4
    expected = torch.tensor([plain_iou(a, b) for a, b in zip(boxes1, boxes2, strict=True)])
    assert torch.allclose(paired_iou(boxes1, boxes2).float(), expected, rtol=0, atol=1e-6)


def test_no_boxes_and_small_parts(monkeypatch):
    boxes = boxes_like(30, 5, size=40)
    assert pairwise_iou(boxes[:0], boxes).shape == (0, 30) and pairwise_iou(boxes, boxes[:0]).shape == (30, 0)
    whole = pairwise_iou(boxes, boxes)
    monkeypatch.setattr(overlap, "_CLIPPED", 7)
    monkeypatch.setattr(overlap, "_LOOKED_AT", 50)
    assert torch.equal(pairwise_iou(boxes, boxes), whole)
    for threshold in (0.0, 0.1, 0.5, 0.9):
        assert torch.equal(overlapping(boxes, boxes, threshold), whole > threshold)


def greedy(boxes, scores, threshold, classes):
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(classes[i] != classes[j] or plain_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
def test_nms_keeps_what_the_greedy_loop_keeps(threshold, monkeypatch):
    monkeypatch.setattr("ivtuning.oriented.nms._BLOCK", 16)
    boxes = boxes_like(70, 6, size=40) - torch.tensor([50, 50, 0, 0, 0])
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 20, (70,), generator=generator) / 20
    classes = torch.randint(-1, 2, (70,), generator=generator)
    assert nms(boxes, scores, threshold, classes).tolist() == greedy(boxes, scores, threshold, classes)
    one = torch.zeros(70)
    assert nms(boxes.float(), scores, threshold).tolist() == greedy(boxes, scores, threshold, one)
    assert nms(boxes[:0], scores[:0], threshold, classes[:0]).tolist() == []
