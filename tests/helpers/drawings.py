"""Things to draw, and readings of what was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from ivtuning.visualization.panels import GAP

CLASSES = ["person", "car"]


def annotation(box, category=0, **more):
    return {"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, **more}


def instances(boxes, scores, classes, shape=(60, 80)):
    predictions = Instances(shape)
    predictions.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    predictions.scores = torch.tensor(scores)
    predictions.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return predictions


def gray_pair(height=60, width=80):
    return np.full((height, width, 3), 90, np.uint8), np.full((height, width), 40, np.uint8)


def write_pairs(folder: Path, stems, size=(80, 60)):
    """Pairs of plain images in vis/ and ir/ of a folder; returns the two folders."""
    for side in ("vis", "ir"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for k, stem in enumerate(stems):
        Image.new("RGB", size, (90, 10 * k, 60)).save(folder / "vis" / f"{stem}.png")
        Image.new("L", size, 120).save(folder / "ir" / f"{stem}.jpg")
    return folder / "vis", folder / "ir"


def panels(picture, rows, scale=7, width=80, height=60):
    """{(row, column): (height*scale, width*scale, 3)} below each row's caption strip, of all columns."""
    wide, tall = width * scale, height * scale
    footer_and_strips = picture.shape[0] - rows * tall
    strip = footer_and_strips // (rows + 1)
    return {
        (r, c): picture[(r + 1) * strip + r * tall :][:tall, c * (wide + GAP) :][:, :wide]
        for r in range(rows)
        for c in range((picture.shape[1] + GAP) // (wide + GAP))
    }


def count(region, rgb):
    return int((region == np.array(rgb)).all(-1).sum())
