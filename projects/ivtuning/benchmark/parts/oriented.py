"""Non-maximum suppression of oriented boxes, against torchvision's of the upright boxes around them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import ops

from ...oriented.boxes import bounding_boxes
from ...oriented.nms import nms
from ..measures.timing import interleaved, ratio, summary
from ..options import Options
from ..report import Result, Row

BOXES, SIDE = 10_000, 4000  # of a large aerial image, in pixels
IOU = 0.1  # the threshold of DOTA's detectors


def measure(options: Options) -> Result:
    """Row oriented_nms_over_upright, with the seconds beside it."""
    boxes, scores = random_boxes(BOXES)
    upright = bounding_boxes(boxes)
    runs = {
        "oriented": lambda: nms(boxes, scores, IOU),
        "upright": lambda: ops.nms(upright, scores, IOU),
    }
    times = interleaved(runs, options.repeats, "NMS", options.warmup)
    seconds = summary(times)
    kept = {name: len(run()) for name, run in runs.items()}
    result = Result(
        f"{BOXES:,} boxes of 10 to 110 px in {SIDE} x {SIDE} px, IoU {IOU}, of which {kept['oriented']:,} "
        f"are kept, and {kept['upright']:,} of the upright ones"
    )
    result.raw["seconds"] = seconds
    result.facts["oriented_nms_seconds"] = seconds["oriented"]["median"]
    result.rows["oriented_nms_over_upright"] = Row.of(
        ratio(times, "oriented", "upright"), note=f"{seconds['oriented']['median']:.2f} s"
    )
    return result


def random_boxes(count: int) -> tuple[Tensor, Tensor]:
    """Oriented boxes (N, 5) at random places, sizes and angles, and scores (N,)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 6, generator=generator)
    centers, sizes, angles = SIDE * x[:, :2], 10 + 100 * x[:, 2:4], 180 * x[:, 4:5] - 90
    return torch.cat((centers, sizes, angles), 1), x[:, 5]
