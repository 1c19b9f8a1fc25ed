"""RoIAlign of oriented boxes."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.oriented import boxes_like
from torchvision.ops import roi_align as upright_roi_align

from ivtuning.oriented import roi_align as module
from ivtuning.oriented.roi_align import roi_align


def plain(features, rois, size, scale, ratio):
    """The definition, sample by sample, in float64."""
    result = torch.zeros(len(rois), features.shape[1], *size, dtype=torch.float64)
    height, width = features.shape[2:]

    def value(image, y, x):
        if y < -1 or y > height or x < -1 or x > width:
            return 0
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        v, u = y - y0, x - x0
        top = features[image, :, y0, x0] * (1 - u) + features[image, :, y0, x1] * u
        bottom = features[image, :, y1, x0] * (1 - u) + features[image, :, y1, x1] * u
        return top * (1 - v) + bottom * v

    for r, (image, cx, cy, w, h, angle) in enumerate(rois.tolist()):
        cx, cy, w, h = cx * scale - 0.5, cy * scale - 0.5, w * scale, h * scale
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        rows, columns = (ratio or math.ceil(edge / bins) for edge, bins in zip((h, w), size, strict=True))
        for i in range(size[0]):
            for j in range(size[1]):
                for k in range(rows):
                    for m in range(columns):
                        y = -h / 2 + (i + (k + 0.5) / rows) * h / size[0]
                        x = -w / 2 + (j + (m + 0.5) / columns) * w / size[1]
                        at = value(int(image), cy + y * cos - x * sin, cx + y * sin + x * cos)
                        result[r, :, i, j] += at / (rows * columns)
    return result


def regions(number=12, seed=0):
    boxes = boxes_like(number, seed, size=90)
    images = torch.arange(number, dtype=torch.float64)[:, None] % 2
    return torch.cat((images, boxes - boxes.new_tensor([5, 5, 0, 0, 0])), 1)


FEATURES = torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_values_and_gradients_are_those_of_the_definition(ratio, monkeypatch):
    rois = regions()
    args = (rois, (3, 4), 0.25, ratio)
    features = FEATURES.clone().requires_grad_()
    found, expected = roi_align(features, *args), plain(features, *args)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((x * weights).sum(), features)[0] for x in (found, expected)]
    assert gradients[1].any() and torch.allclose(*gradients, rtol=0, atol=1e-10)
    monkeypatch.setattr(module, "_VALUES", 50)
    assert torch.allclose(roi_align(features, *args), found, rtol=0, atol=1e-12)


def test_upright_boxes_give_what_torchvision_gives():
    rois = regions()
    rois[:, 5] = 0
    x, y, w, h = rois[:, 1:5].T
    edges = torch.stack((rois[:, 0], x - w / 2, y - h / 2, x + w / 2, y + h / 2), 1)
    expected = upright_roi_align(FEATURES, edges, (5, 5), 0.25, 2, aligned=True)
    assert torch.allclose(roi_align(FEATURES, rois, (5, 5), 0.25, 2), expected, rtol=0, atol=1e-10)


def test_no_regions_and_half_precision():
    features = FEATURES.float().requires_grad_()
    empty = roi_align(features, torch.zeros(0, 6), (2, 2), 0.25)
    assert empty.shape == (0, 3, 2, 2)
    empty.sum().backward()
    rois = regions().float()
    half = roi_align(FEATURES.bfloat16(), rois, (2, 2), 0.25, 2)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), roi_align(features, rois, (2, 2), 0.25, 2), atol=0.05)
