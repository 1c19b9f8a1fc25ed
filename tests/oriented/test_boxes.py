"""Corners of oriented boxes, conventions of their angles, and boxes of polygons."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import RotatedBoxes
from helpers.oriented import boxes_like, corner_distance

from ivtuning.errors import UserError
from ivtuning.oriented.boxes import (
    CONVENTIONS,
    canonical,
    corners,
    from_corners,
    from_detectron2,
    from_polygons,
    in_convention,
    to_detectron2,
)

BOXES = boxes_like(500, seed=0)
EDGE_CASES = torch.tensor(
    [[0, 0, 4, 2, angle] for angle in range(-180, 180, 45)] + [[0, 0, 2, 4, a] for a in range(-180, 180, 45)]
).double()


def test_corners_turn_counter_clockwise_on_the_screen():
    points = corners(torch.tensor([[10.0, 20.0, 4.0, 2.0, 0.0], [10.0, 20.0, 4.0, 2.0, 90.0]]))
    assert points[0].tolist() == [[8, 19], [12, 19], [12, 21], [8, 21]]
    # The top left corner goes to the bottom left.
    assert torch.allclose(points[1], torch.tensor([[9.0, 22.0], [9.0, 18.0], [11.0, 18.0], [11.0, 22.0]]))


def test_boxes_of_corners_are_the_boxes():
    again = from_corners(corners(BOXES))
    assert torch.allclose(again, BOXES, atol=1e-9)
    mirrored = from_corners(corners(BOXES) * torch.tensor([-1.0, 1.0]))
    assert corner_distance(mirrored, BOXES * torch.tensor([-1, 1, 1, 1, -1])) < 1e-9


def test_parallelograms_become_what_detectron2_makes_of_them():
    stretched = from_corners(corners(BOXES) * torch.tensor([1.5, 0.7]))
    expected = RotatedBoxes(BOXES.clone())
    expected.scale(1.5, 0.7)
    assert torch.allclose(stretched.float(), expected.tensor, atol=1e-3)


@pytest.mark.parametrize("convention", [*CONVENTIONS, "detectron2"])
def test_a_convention_describes_the_same_rectangles(convention):
    for boxes in (BOXES, EDGE_CASES):
        described = from_detectron2(boxes, convention)
        assert in_convention(described, convention).all()
        assert corner_distance(to_detectron2(described, convention), boxes) < 1e-9
        again = from_detectron2(to_detectron2(described, convention), convention)
        assert torch.allclose(again, described, atol=1e-9)


def test_angles_of_the_conventions():
    box = torch.tensor([[0.0, 0.0, 4.0, 2.0, 30.0]])  # detectron2's: the long edge rises to the right
    expected = {"oc": [2, 4, 60], "le90": [4, 2, -30], "le135": [4, 2, -30], "detectron2": [4, 2, 30]}
    for convention, values in expected.items():
        assert from_detectron2(box, convention)[0, 2:].tolist() == values
    upright = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0]])
    assert from_detectron2(upright, "oc")[0, 2:].tolist() == [2, 4, 90]
    steep = torch.tensor([[0.0, 0.0, 4.0, 2.0, 60.0]])
    assert from_detectron2(steep, "le90")[0, 4] == -60 and from_detectron2(steep, "le135")[0, 4] == 120


def test_rounding_does_not_leave_a_range():
    angles = torch.tensor([-180.0, -90.0, -45.0, 0.0, 45.0, 90.0, 135.0, 180.0])
    near = torch.cat([angles + step for step in (-1e-6, -1e-14, 0.0, 1e-14, 1e-6)])
    for dtype in (torch.float32, torch.float64):
        boxes = torch.cat((torch.tensor([[5.0, 5.0, 4.0, 2.0]]).expand(len(near), 4), near[:, None]), 1)
        for convention in (*CONVENTIONS, "detectron2"):
            assert in_convention(from_detectron2(boxes.to(dtype), convention), convention).all()


def test_polygons_have_the_smallest_rectangle_around_them():
    polygons = corners(BOXES).numpy() + 1e4
    for start in range(4):
        found = torch.from_numpy(from_polygons(np.roll(polygons, start, 1)[:, ::-1]))
        moved = BOXES + torch.tensor([1e4, 1e4, 0, 0, 0])
        assert corner_distance(found, moved) < 1e-3 and torch.equal(found, canonical(found))
    triangle = from_polygons(np.array([[[0, 0], [4, 0], [0, 3.0]]]))
    assert np.allclose(sorted(triangle[0, 2:4]), [2.4, 5]) or np.allclose(sorted(triangle[0, 2:4]), [3, 4])


def test_unknown_convention():
    with pytest.raises(UserError, match="'le9'.*le135.*did you mean 'le90'"):
        to_detectron2(BOXES, "le9")
