"""Features inside oriented boxes: RoIAlign as detectron2's `ROIAlignRotated` defines it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Values that are sampled at once, which bounds the memory beside the result.
_VALUES = 2**25


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
) -> Tensor:
    """Features (R, C, `output_size`) of regions; it has gradients with respect to the features.

    Args:
        features: (N, C, H, W) maps of floats, whose dtype the result has. float16 is computed in float32.
        rois: (R, 6): the index of the map, and an oriented box in pixels of the image.
        output_size: rows and columns of bins in a region.
        spatial_scale: pixels of the map per pixel of the image.
        sampling_ratio: samples in each direction of a bin; 0 takes one for each pixel of the map.
    """
    dtype = features.dtype
    features = features.to(torch.promote_types(dtype, torch.float32))
    rois = rois.to(features)
    result = features.new_zeros(len(rois), features.shape[1], *output_size)
    if len(rois) == 0:
        return result.to(dtype) + features.sum() * 0  # keeps the graph
    indices = rois[:, 0].long()
    if sampling_ratio > 0:
        samples = torch.full((len(rois), 2), sampling_ratio, device=rois.device)
    else:
        bins = rois.new_tensor(output_size)
        samples = (rois[:, [4, 3]] * spatial_scale / bins).ceil().long().clamp(min=1)
    # Regions of one map and one number of samples are sampled together.
    groups, member = torch.unique(torch.cat((indices[:, None], samples), 1), dim=0, return_inverse=True)
    places, parts = [], []
    for number, (image, rows, columns) in enumerate(groups.tolist()):
        members = (member == number).nonzero()[:, 0]
        size = features.shape[1] * math.prod(output_size) * rows * columns
        for some in members.split(max(1, _VALUES // size)):
            places.append(some)
            parts.append(
                _sample(features[image], rois[some, 1:], output_size, spatial_scale, (rows, columns))
            )
    return result.index_copy(0, torch.cat(places), torch.cat(parts)).to(dtype)


def _sample(
    features: Tensor, boxes: Tensor, output_size: tuple[int, int], scale: float, samples: tuple[int, int]
) -> Tensor:
    """The mean (R, C, `output_size`) of `samples` in each bin of boxes (R, 5) on one map (C, H, W)."""
    height, width = features.shape[1:]
    rows, columns = (bins * number for bins, number in zip(output_size, samples, strict=True))
    # The value of a pixel is that at its center, which is at 0.5 in coordinates of the image.
    center_x, center_y = (boxes[:, :2] * scale - 0.5).T[:, :, None, None]
    angle = torch.deg2rad(boxes[:, 4])[:, None, None]
    cos, sin = angle.cos(), angle.sin()
    steps_y = (torch.arange(rows, device=boxes.device, dtype=boxes.dtype) + 0.5) / rows - 0.5
    steps_x = (torch.arange(columns, device=boxes.device, dtype=boxes.dtype) + 0.5) / columns - 0.5
    along_y = (boxes[:, 3, None] * scale * steps_y)[:, :, None]
    along_x = (boxes[:, 2, None] * scale * steps_x)[:, None]
    x = center_x + cos * along_x + sin * along_y
    y = center_y - sin * along_x + cos * along_y
    # One pixel around the map repeats its border; beyond, all is 0.
    counts = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)
    grid = torch.stack((_unit(x, width), _unit(y, height)), -1).flatten(0, 1)[None]
    values = F.grid_sample(features[None], grid, padding_mode="border", align_corners=True)[0]
    values = values.unflatten(1, x.shape[:2]) * counts
    values = values.unflatten(3, (output_size[1], samples[1])).unflatten(2, (output_size[0], samples[0]))
    return values.mean((3, 5)).transpose(0, 1)


def _unit(position: Tensor, size: int) -> Tensor:
    """Positions in pixels 0..size - 1 as grid_sample takes them, -1..1."""
    return position * (2 / max(size - 1, 1)) - 1
