"""The operators of the detectors' graphs: non-maximum suppression and bilinear samples."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.exported import run, write
from torch import Tensor, nn
from torchvision.ops import batched_nms

from ivtuning.export.detectors.nms import nms


class Operator(nn.Module):
    """A function of one tensor."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.function(x)]


def candidates(count: int = 40) -> tuple[Tensor, Tensor]:
    """Boxes (2, N, 4) and scores (2, 3, N) of two images and three classes; equal scores, and empty boxes."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, count, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(2, count, 2, generator=generator)], -1)
    boxes[:, 3, 2:] = boxes[:, 3, :2]
    scores = torch.rand(2, 3, count, generator=generator)
    scores[:, :, 5] = scores[:, :, 4]
    return boxes, scores


@pytest.mark.parametrize("limit", [1000, 3])
def test_nms_is_torchvisions_in_each_image_and_class(limit):
    boxes, scores = candidates()
    kept = nms(boxes, scores, 0.5, 0.3, limit)
    assert kept.shape == scores.shape
    for image in range(2):
        labels, index = (scores[image] > 0.3).nonzero().unbind(1)
        values = scores[image, labels, index]
        order = batched_nms(boxes[image, index], values, labels, 0.5)
        for label in range(3):
            expected = [int(index[i]) for i in order if labels[i] == label][:limit]
            assert sorted(expected) == kept[image, label].nonzero()[:, 0].tolist()


@pytest.mark.slow
def test_nms_in_onnx(tmp_path):
    boxes, scores = candidates()
    graph = Operator(lambda x: nms(x[..., :4], x[..., 4:].mT, 0.5, 0.3, 10))
    x = torch.cat([boxes, scores.mT], -1)
    session = write(graph, x, tmp_path / "nms.onnx")
    assert torch.equal(run(session, x)[0], nms(boxes, scores, 0.5, 0.3, 10))
    x[..., 4:] = 0.1  # nothing is left
    assert not run(session, x)[0].any()


@pytest.mark.slow
def test_samples_in_onnx_are_gathers(tmp_path):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 4, 7, generator=generator)
    grid = torch.rand(2, 6, 3, 2, generator=generator) * 3 - 1.5  # a third of the points lie outside
    grid[:, 0, 0] = torch.tensor([-1.0, 1.0])
    graph = Operator(lambda x: torch.ops.aten.grid_sampler_2d(maps.clone(), x, 0, 0, False))
    session = write(graph, grid, tmp_path / "sample.onnx")
    expected = F.grid_sample(maps, grid, align_corners=False)
    assert torch.allclose(run(session, grid)[0], expected, atol=1e-5)
    assert b"GridSample" not in (tmp_path / "sample.onnx").read_bytes()
