"""Midpoint offsets: boxes of every angle come back, any six numbers are a rectangle, gradients are finite."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.oriented import boxes_like, corner_distance

from ivtuning.errors import UserError
from ivtuning.heads.oriented import MidpointOffsetTransform
from ivtuning.oriented.boxes import bounding_boxes, corners

TRANSFORM = MidpointOffsetTransform()


def anchors_like(number: int, seed: int) -> torch.Tensor:
    """Upright boxes (number, 4) float64."""
    return bounding_boxes(boxes_like(number, seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boxes_come_back(dtype):
    boxes, anchors = boxes_like(2000, 0).to(dtype), anchors_like(2000, 1).to(dtype)
    # Two whole turns, and angles that rounding moves to either side of upright.
    boxes[:1441, 4] = torch.arange(-360, 360.5, 0.5, dtype=dtype)
    near = torch.tensor([0.0, 1e-6, -1e-6, 1e-3, -1e-3, 2e-2, -2e-2], dtype=dtype)
    boxes[1441:1476, 4] = (near[:, None] + torch.arange(-180, 181, 90, dtype=dtype)).flatten()
    boxes[1476:1480, 2:4] = torch.tensor([[400.0, 1], [1, 400], [30, 30], [400, 2]], dtype=dtype)
    boxes[1476:1480, 4] = torch.tensor([-0.01, 0.01, -0.01, 89.99], dtype=dtype)
    deltas = TRANSFORM.get_deltas(anchors, boxes)
    decoded = TRANSFORM.apply_deltas(deltas, anchors)
    assert deltas.dtype == decoded.dtype == dtype
    assert corner_distance(decoded, boxes) < 1e-4
    assert (decoded[:, 2] >= decoded[:, 3]).all()
    assert ((decoded[:, 4] >= -90) & (decoded[:, 4] < 90)).all()


def test_the_deltas_are_those_of_the_paper():
    """The upright box around the target, and its top and right corners, by the corners themselves."""
    anchors, boxes = anchors_like(500, 2), boxes_like(500, 3)
    boxes[:, 4] = torch.linspace(-179, 179, 500) + 0.01
    dx, dy, dw, dh, da, db = TRANSFORM.get_deltas(anchors, boxes).unbind(1)
    size, middle = anchors[:, 2:] - anchors[:, :2], (anchors[:, :2] + anchors[:, 2:]) / 2
    points = corners(boxes)
    low, high = points.amin(1), points.amax(1)
    torch.testing.assert_close(torch.stack((dx, dy), 1), ((low + high) / 2 - middle) / size)
    torch.testing.assert_close(torch.stack((dw, dh), 1).exp(), (high - low) / size)
    rows = torch.arange(500)
    top, right = points[rows, points[..., 1].argmin(1), 0], points[rows, points[..., 0].argmax(1), 1]
    for value, corner, axis in ((da, top, 0), (db, right, 1)):
        offset = (corner - (low + high)[:, axis] / 2) / (high - low)[:, axis]
        torch.testing.assert_close(value, 2 * offset)  # the weight of the offsets


def test_upright_boxes_have_the_offsets_of_the_authors():
    """As in MMRotate: of a horizontal edge the right corner, of a vertical one the lower corner."""
    anchors = anchors_like(6, 4)
    boxes = torch.tensor([[9.0, 8, 40, 10, a] for a in (-90, 0, 180, 90 - 1e-5, -1e-5, 1e-5)]).double()
    assert TRANSFORM.get_deltas(anchors, boxes)[:, 4:].sub(1).abs().max() < 1e-5


def test_a_long_box_near_upright_keeps_its_area():
    """Where only one edge is nearly upright in pixels, the offsets must still be those of one rectangle."""
    box, anchor = torch.tensor([[0.0, 0, 100, 10, -0.1]]), torch.tensor([[-32.0, -32, 32, 32]])
    decoded = TRANSFORM.apply_deltas(TRANSFORM.get_deltas(anchor, box), anchor)
    torch.testing.assert_close(decoded, box, atol=1e-4, rtol=0)


def test_any_parallelogram_becomes_the_rectangle_of_its_longer_diagonal():
    anchor = torch.tensor([[-50.0, -20, 50, 20]]).double()
    # The top corner is at (0, -20), the right one at (50, 0): a rhombus of diagonals 40 and 100.
    box = TRANSFORM.apply_deltas(torch.zeros(1, 6).double(), anchor)
    assert torch.cdist(corners(box)[0], torch.tensor([[0.0, -50], [50, 0], [0, 50], [-50, 0]]).double()).amin(
        1
    ).max() == pytest.approx(0, abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    deltas = torch.randn(500, 6, generator=generator, dtype=torch.float64) * torch.tensor([1, 1, 1, 1, 2, 2])
    anchors = anchors_like(500, 5)
    boxes = TRANSFORM.apply_deltas(deltas, anchors)
    again = TRANSFORM.apply_deltas(TRANSFORM.get_deltas(anchors, boxes), anchors)
    assert corner_distance(again, boxes) < 1e-6
    size = anchors[:, 2:] - anchors[:, :2]
    outer = size * deltas[:, 2:4].exp()
    offsets = (deltas[:, 4:] / 2).clamp(-0.5, 0.5) * outer
    up, over = torch.hypot(offsets[:, 0], outer[:, 1] / 2), torch.hypot(outer[:, 0] / 2, offsets[:, 1])
    torch.testing.assert_close(torch.hypot(boxes[:, 2], boxes[:, 3]) / 2, torch.maximum(up, over))


def test_extreme_deltas_are_finite_and_bounded():
    anchors = torch.tensor([[0.0, 0, 64, 64]]).expand(3, 4)
    deltas = torch.tensor([[0.0, 0, 100, 100, 0, 0], [0, 0, -100, -100, 9, -9], [0, 0, 0, 0, -9, 9]])
    boxes = TRANSFORM.apply_deltas(deltas, anchors)
    assert boxes.isfinite().all() and boxes[0, 2] <= 64 * 1000 / 16 * math.sqrt(2)
    assert boxes[2, 3] < 1e-4  # the two corners coincide


@pytest.mark.parametrize(
    "offsets", [(0.3, -0.2), (1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0), (0.0, 0.0)]
)
def test_gradients_are_finite(offsets):
    anchors = torch.tensor([[3.0, 5, 40, 30]]).double()
    deltas = torch.tensor([[0.1, -0.2, 0.3, 0.1, *offsets]]).double().requires_grad_()
    TRANSFORM.apply_deltas(deltas, anchors).sum().backward()
    assert deltas.grad.isfinite().all()
    target = (
        torch.tensor([[20.0, 21, 30, 8, angle] for angle in (0, 45, 90, -90, 33)]).double().requires_grad_()
    )
    TRANSFORM.get_deltas(anchors.expand(5, 4), target).sum().backward()
    assert target.grad.isfinite().all()


def test_gradients_are_right_inside_the_range():
    anchors = anchors_like(4, 6)
    deltas = TRANSFORM.get_deltas(anchors, boxes_like(4, 7)).mul(0.9).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: TRANSFORM.apply_deltas(d, anchors), deltas)


def test_half_precision_of_deltas_is_not_that_of_boxes():
    box, anchor = torch.tensor([[500.3, 400.7, 64, 32, 0]]), torch.tensor([[468.3, 384.7, 532.3, 416.7]])
    deltas = TRANSFORM.get_deltas(anchor, box).round().bfloat16()
    torch.testing.assert_close(TRANSFORM.apply_deltas(deltas, anchor), box, atol=1e-4, rtol=0)


def test_four_weights_are_refused():
    with pytest.raises(UserError, match=r"weights=\[1, 1, 1, 1\]: give six, of dx, dy, dw, dh, da, db"):
        MidpointOffsetTransform([1, 1, 1, 1])
