"""Lets detectron2's rotated boxes, heads and poolers work where its compiled operators are not installed."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import compat
from .nms import nms
from .overlap import pairwise_iou
from .roi_align import roi_align


def provide() -> None:
    """Give detectron2 the operators of this folder in place of compiled ones that it lacks.

    It calls them from `RotatedBoxes`, `nms_rotated` and `ROIAlignRotated`, and so from its rotated R-CNN.
    Where they are compiled, they stay. Only the first call does anything.
    """
    compat.provide_operators(
        {
            "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor": pairwise_iou,
            "nms_rotated(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor": nms,
            "roi_align_rotated_forward(Tensor input, Tensor rois, float spatial_scale, int height, "
            "int width, int sampling_ratio) -> Tensor": _forward,
            "roi_align_rotated_backward(Tensor grad, Tensor rois, float spatial_scale, int height, "
            "int width, int batch, int channels, int rows, int columns, int sampling_ratio) "
            "-> Tensor": _backward,
        }
    )


def _forward(
    features: Tensor, rois: Tensor, spatial_scale: float, height: int, width: int, sampling_ratio: int
) -> Tensor:
    return roi_align(features, rois, (height, width), spatial_scale, sampling_ratio)


def _backward(
    grad: Tensor,
    rois: Tensor,
    spatial_scale: float,
    height: int,
    width: int,
    batch: int,
    channels: int,
    rows: int,
    columns: int,
    sampling_ratio: int,
) -> Tensor:
    # RoIAlign is linear in the features, so its gradient is the same for all of them.
    with torch.enable_grad():
        features = grad.new_zeros(batch, channels, rows, columns, requires_grad=True)
        pooled = roi_align(features, rois, (height, width), spatial_scale, sampling_ratio)
        return torch.autograd.grad(pooled, features, grad)[0]
