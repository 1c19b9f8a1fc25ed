"""The patch embedding's two forms against timm's, and resized positions against torch's interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm import layers
from torch import nn

from ivtuning.backbones import patches
from ivtuning.backbones.patches import PatchEmbed, resize_positions


@pytest.mark.parametrize("norm", [None, nn.LayerNorm])
@pytest.mark.parametrize("size", [(16, 24), (13, 21), (8, 5)])
@pytest.mark.parametrize("form", [patches.by_convolution, patches.by_product])
def test_patches_are_timms(form, size, norm, monkeypatch):
    """Both forms on this device: the one for CUDA gives the same values and gradients."""
    monkeypatch.setattr(patches, "by_convolution", form)
    torch.manual_seed(0)
    ours = PatchEmbed(8, 12, norm)
    theirs = layers.PatchEmbed(
        None, 8, 3, 12, norm, output_fmt="NHWC", strict_img_size=False, dynamic_img_pad=True
    )
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 3, *size, requires_grad=True)
    out, expected = ours(image), theirs(image)
    assert out.is_contiguous() and out.shape == (2, -(-size[0] // 8), -(-size[1] // 8), 12)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn(expected.shape)
    ours = torch.autograd.grad(out, (image, *ours.parameters()), grad)
    theirs = torch.autograd.grad(expected, (image, *theirs.parameters()), grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(14, 14), (9, 30), (32, 7), (3, 3)])
def test_positions_are_interpolations(size):
    grid = torch.randn(1, 14, 14, 5, requires_grad=True)
    out = resize_positions(grid, size)
    expected = F.interpolate(grid.permute(0, 3, 1, 2), size=size, mode="bicubic").permute(0, 2, 3, 1)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-6)
    grad = torch.randn(expected.shape)
    ours, theirs = (torch.autograd.grad(y, grid, grad)[0] for y in (out, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_positions_keep_their_precision():
    """Autocast does not round them; half ones come back as half, computed in fp32; same size: untouched."""
    grid = torch.randn(1, 6, 6, 4)
    plain = resize_positions(grid, (9, 9))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize_positions(grid, (9, 9)), plain)
    half = resize_positions(grid.bfloat16(), (9, 9))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, resize_positions(grid.bfloat16().float(), (9, 9)).bfloat16())
    assert resize_positions(grid, (6, 6)) is grid
