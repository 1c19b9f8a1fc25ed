"""Boxes to draw."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, BoxMode, Instances

CLASSES = ["person", "car"]


def annotation(box, category=0, **more):
    return {"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, **more}


def instances(boxes, scores, classes, shape=(60, 80)):
    found = Instances(shape)
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return found
