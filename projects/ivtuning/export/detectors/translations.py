"""How operators of the detectors' graphs are written in ONNX.

Imported where an ONNX file is written, since it needs onnxscript.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from onnxscript import opset18 as op
from onnxscript.onnx_types import BOOL, FLOAT, INT64

from .nms import nms


def suppress(boxes: FLOAT, scores: FLOAT, iou_threshold: float, score_threshold: float, limit: int) -> BOOL:
    """:func:`.nms.nms`: rows (image, class, box) of what is kept become marks in a mask."""
    kept = op.NonMaxSuppression(boxes, scores, [limit], [iou_threshold], [score_threshold])
    marks = op.Expand(1.0, op.Slice(op.Shape(kept), [0], [1]))
    return op.Greater(op.ScatterND(op.Mul(scores, 0.0), kept, marks), 0.5)


def sample(
    maps: FLOAT, grid: FLOAT, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> FLOAT:
    """Bilinear samples of maps (N, C, H, W) at points (N, P, Q, 2), x and y in -1..1, by gathers; 0 outside.

    TensorRT computes deformable attention wrongly where it is written with GridSample (its issue 4813).
    """
    if (interpolation_mode, padding_mode, align_corners) != (0, 0, False):
        raise NotImplementedError("only bilinear samples, 0 outside of a map, have a form in ONNX here")
    images, channels, height, width = (op.Slice(op.Shape(maps), [i], [i + 1]) for i in range(4))
    size = op.Cast(op.Concat(width, height, axis=0), to=FLOAT.dtype)
    points = op.Reshape(grid, op.Concat(images, op.Constant(value_ints=[1, -1, 2]), axis=0))
    points = op.Mul(op.Sub(op.Mul(op.Add(points, 1.0), size), 1.0), 0.5)  # in pixels, (N, 1, P * Q, 2)
    corners = op.Constant(value_floats=[0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    corners = op.Reshape(corners, op.Constant(value_ints=[4, 1, 2]))
    # All four neighbors at once, which keeps a graph of many layers and maps small.
    neighbors = op.Add(op.Floor(points), corners)  # (N, 4, P * Q, 2)
    nearest = op.Max(op.Min(neighbors, op.Sub(size, 1.0)), 0.0)
    weights = op.Sub(1.0, op.Abs(op.Sub(points, neighbors)))
    weights = op.ReduceProd(op.Where(op.Equal(nearest, neighbors), weights, 0.0), [3])
    # One row for each position, so that a gather copies contiguous values.
    rows = op.Reshape(
        op.Transpose(maps, perm=[0, 2, 3, 1]), op.Concat(op.Constant(value_ints=[-1]), channels, axis=0)
    )
    steps = op.Concat(op.Constant(value_ints=[1]), width, axis=0)
    index = op.ReduceSum(op.Mul(op.Cast(nearest, to=INT64.dtype), steps), [3], keepdims=0)
    first_rows = op.Mul(op.Range(0, op.Squeeze(images), 1), op.Mul(height, width))
    index = op.Add(index, op.Unsqueeze(first_rows, [1, 2]))
    total = op.ReduceSum(op.Mul(op.Gather(rows, index, axis=0), weights), [1], keepdims=0)
    shape = op.Concat(images, channels, op.Slice(op.Shape(grid), [1], [3]), axis=0)
    return op.Reshape(op.Transpose(total, perm=[0, 2, 1]), shape)


# What torch.onnx.export takes as `custom_translation_table`.
TRANSLATIONS: dict[Callable, Callable] = {
    nms._opoverload: suppress,
    torch.ops.aten.grid_sampler_2d.default: sample,
}
