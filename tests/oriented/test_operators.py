"""detectron2's rotated boxes work without its compiled operators, and compute the same with them."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import batched_nms_rotated
from detectron2.layers.roi_align_rotated import ROIAlignRotated
from detectron2.structures import RotatedBoxes
from detectron2.structures.rotated_boxes import pairwise_iou as rotated_iou
from helpers.oriented import boxes_like

from ivtuning.oriented.nms import nms
from ivtuning.oriented.operators import provide
from ivtuning.oriented.overlap import pairwise_iou
from ivtuning.oriented.roi_align import roi_align


@pytest.fixture(autouse=True)
def operators():
    provide()
    provide()


def test_iou():
    boxes1, boxes2 = (boxes_like(100, seed, size=60).float() for seed in (0, 1))
    found = rotated_iou(RotatedBoxes(boxes1), RotatedBoxes(boxes2))
    # The compiled operator computes in float32.
    assert torch.allclose(found, pairwise_iou(boxes1, boxes2), rtol=0, atol=2e-4)


def test_nms():
    boxes = boxes_like(300, 2, size=80).float()
    generator = torch.Generator().manual_seed(0)
    scores, classes = torch.rand(300, generator=generator), torch.randint(0, 3, (300,), generator=generator)
    found = batched_nms_rotated(boxes, scores, classes, 0.3)
    assert found.tolist() == nms(boxes, scores, 0.3, classes).tolist()


@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(ratio):
    features = torch.randn(2, 4, 20, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    boxes = boxes_like(20, 3, size=90).float()
    rois = torch.cat((torch.arange(20.0)[:, None] % 2, boxes), 1)
    results = [
        ROIAlignRotated((3, 3), 0.25, ratio)(features, rois),
        roi_align(features, rois, (3, 3), 0.25, ratio),
    ]
    assert torch.allclose(*results, atol=1e-4)
    gradients = [torch.autograd.grad(r.square().sum(), features)[0] for r in results]
    assert gradients[1].any() and torch.allclose(*gradients, atol=1e-3)
