"""Random boxes and masks with predictions of them, and their figures by pycocotools alone."""

from __future__ import annotations

import contextlib
import copy
import io
import math

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NAMES = ["person", "car", "bus", "lamp", "unseen"]
SIZE = 320


def random_truth(seed: int, images: int = 14, modality: bool = True, masks: bool = False) -> dict:
    """Crowds, empty images, objects of every size, category ids with gaps, one class without objects."""
    rng = np.random.default_rng(seed)
    data = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE, "time": ["day", "night"][i % 2]}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": 2 + 3 * k, "name": n} for k, n in enumerate(NAMES)],
        "annotations": [],
    }
    for image in data["images"][2:]:  # two images without objects
        for _ in range(rng.integers(1, 12)):
            w, h = rng.choice([12, 25, 60, 110, 180], 2) + rng.uniform(0, 8, 2)
            x, y = rng.uniform(0, SIZE - w), rng.uniform(0, SIZE - h)
            a = {
                "id": len(data["annotations"]) + 1,
                "image_id": image["id"],
                "category_id": int(2 + 3 * rng.integers(0, 4)),
                "bbox": [float(v) for v in (x, y, w, h)],
                "area": float(w * h * rng.uniform(0.7, 1)),
                "iscrowd": int(rng.random() < 0.15),
            }
            if modality:
                a["modality"] = str(rng.choice(["both", "visible", "infrared"]))
            if masks:
                a["segmentation"] = [[x, y, x + w, y + h / 4, x + w / 2, y + h]]
            data["annotations"].append(a)
    return data


def random_predictions(truth: dict, seed: int, extra: int = 30, masks: bool = False) -> list[Instances]:
    """Jittered truth, duplicates, wrong classes and noise; scores with ties. One Instances per image."""
    rng = np.random.default_rng(seed)
    out = []
    for image in truth["images"]:
        boxes, classes = [], []
        for a in truth["annotations"]:
            if a["image_id"] == image["id"] and rng.random() < 0.8:
                x, y, w, h = a["bbox"]
                for _ in range(rng.integers(1, 3)):
                    box = np.array([x, y, x + w, y + h]) + rng.normal(0, 0.06, 4) * [w, h, w, h]
                    boxes.append(np.concatenate([np.minimum(box[:2], box[2:] - 1), box[2:]]))
                    right = rng.random() < 0.85
                    classes.append((a["category_id"] - 2) // 3 if right else rng.integers(0, len(NAMES)))
        for _ in range(int(rng.integers(0, extra))):
            lo, size = rng.uniform(0, SIZE / 2, 2), rng.uniform(2, SIZE / 2, 2)
            boxes.append(np.concatenate([lo, lo + size]))
            classes.append(rng.integers(0, len(NAMES)))
        n = len(boxes)
        inst = Instances((SIZE, SIZE))
        inst.pred_boxes = Boxes(torch.as_tensor(np.array(boxes).reshape(n, 4), dtype=torch.float32))
        inst.scores = torch.as_tensor(rng.integers(1, 60, n) / 60, dtype=torch.float32)
        inst.pred_classes = torch.as_tensor(np.array(classes, dtype=np.int64))
        if masks:
            inst.pred_masks = torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
            for m, (x0, y0, x1, y1) in zip(inst.pred_masks, np.array(boxes).reshape(n, 4), strict=True):
                x0, y0 = max(int(x0), 0), max(int(y0), 0)
                m[y0 : max(int(y1), y0 + 1), x0 : max(int((x0 + 2 * x1) / 3), x0 + 1)] = True
        out.append(inst)
    return out


def one_object_scene():
    """One object that both cameras show and one that only infrared shows, each in its own image half."""
    box = {"category_id": 2, "iscrowd": 0, "area": 1600.0, "image_id": 1}
    return {
        "images": [{"id": 1, "file_name": "1.png", "height": SIZE, "width": SIZE}],
        "categories": [{"id": 2, "name": "person"}],
        "annotations": [
            box | {"id": 0, "bbox": [10, 10, 40, 40], "modality": "both"},
            box | {"id": 1, "bbox": [200, 200, 40, 40], "modality": "infrared"},
        ],
    }


def boxes(*items):
    """Detections of the first class in one image, from pairs of a box (x0, y0, x1, y1) and its score."""
    inst = Instances((SIZE, SIZE))
    inst.pred_boxes = Boxes(torch.tensor([b for b, _ in items], dtype=torch.float32))
    inst.scores = torch.tensor([s for _, s in items])
    inst.pred_classes = torch.zeros(len(items), dtype=torch.int64)
    return [inst]


def evaluate(evaluator, truth, predictions, **kwargs):
    """The figures of predictions, one Instances for each image of the ground truth."""
    evaluator.reset()
    for image, instances in zip(truth["images"], predictions, strict=True):
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    return evaluator.evaluate(**kwargs)


def reference(truth, predictions, images=None, ignored=(), limit=100, task="bbox"):
    """pycocotools alone, driven as detectron2 drives it: (stats of summarize(), precision array)."""
    truth = copy.deepcopy(truth)
    for a in truth["annotations"]:
        if a.get("modality") in ignored:
            a["area"] = 1e12  # outside every area range
    results = []
    for image, inst in zip(truth["images"], predictions, strict=True):
        for k in range(len(inst)):
            x0, y0, x1, y1 = inst.pred_boxes.tensor[k].double().tolist()
            if task == "bbox":
                box = np.float32([x0, y0, np.float32(x1) - np.float32(x0), np.float32(y1) - np.float32(y0)])
                shape = {"bbox": [float(v) for v in box]}
            else:
                shape = {
                    "segmentation": mask_util.encode(np.asfortranarray(inst.pred_masks[k].numpy(), "uint8"))
                }
            category = truth["categories"][int(inst.pred_classes[k])]["id"]
            results.append(
                {"image_id": image["id"], "category_id": category, "score": float(inst.scores[k])} | shape
            )
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = truth
        gt.createIndex()
        run = COCOeval(gt, gt.loadRes(results), task)
        run.params.maxDets = [1, 5, limit]
        if images is not None:
            run.params.imgIds = images
        run.evaluate()
        run.accumulate()
        if limit == 100:
            run.summarize()
    return run.stats, run.eval["precision"][..., 0, -1]


def mean(p):
    """AP in percent: the mean of a part of the precision array; NaN where no object is."""
    return 100 * p[p > -1].mean() if (p > -1).any() else math.nan
