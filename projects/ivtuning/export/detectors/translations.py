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
    # One row for each position, so that a gather copies contiguous values.
    rows = op.Reshape(
        op.Transpose(maps, perm=[0, 2, 3, 1]), op.Concat(op.Constant(value_ints=[-1]), channels, axis=0)
    )
    first_rows = op.Mul(op.Range(0, op.Squeeze(images), 1), op.Mul(height, width))

    def along(axis: int, size: INT64) -> list[tuple[FLOAT, INT64]]:
        """Weight and index, (N, P * Q) each, of the two neighbors along x (0) or y (1)."""
        highest = op.Sub(op.Cast(size, to=FLOAT.dtype), 1.0)
        points = op.Reshape(
            op.Slice(grid, [axis], [axis + 1], [3]), op.Concat(images, op.Constant(value_ints=[-1]), axis=0)
        )
        points = op.Mul(op.Sub(op.Mul(op.Add(points, 1.0), op.Cast(size, to=FLOAT.dtype)), 1.0), 0.5)
        low = op.Floor(points)
        fraction = op.Sub(points, low)
        neighbors = []
        for index, weight in ((low, op.Sub(1.0, fraction)), (op.Add(low, 1.0), fraction)):
            nearest = op.Max(op.Min(index, highest), 0.0)
            weight = op.Where(op.Equal(nearest, index), weight, 0.0)
            neighbors.append((weight, op.Cast(nearest, to=INT64.dtype)))
        return neighbors

    total = None
    for y_weight, y in along(1, height):
        for x_weight, x in along(0, width):
            index = op.Add(op.Add(op.Mul(y, width), x), op.Unsqueeze(first_rows, [1]))
            term = op.Mul(op.Gather(rows, index, axis=0), op.Unsqueeze(op.Mul(y_weight, x_weight), [2]))
            total = term if total is None else op.Add(total, term)
    shape = op.Concat(images, channels, op.Slice(op.Shape(grid), [1], [3]), axis=0)
    return op.Reshape(op.Transpose(total, perm=[0, 2, 1]), shape)


# What torch.onnx.export takes as `custom_translation_table`.
TRANSLATIONS: dict[Callable, Callable] = {
    nms._opoverload: suppress,
    torch.ops.aten.grid_sampler_2d.default: sample,
}
