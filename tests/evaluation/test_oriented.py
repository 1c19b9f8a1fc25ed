"""Average precision of oriented boxes against a plain reference and figures computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances, RotatedBoxes
from helpers.oriented import boxes_like, plain_iou

from ivtuning.errors import UserError
from ivtuning.evaluation.coco import PairCOCOEvaluator
from ivtuning.evaluation.oriented import OrientedEvaluator

IMAGES, CLASSES = 4, ("car", "bus", "van")


def content(seed=0, number=30) -> dict:
    generator = torch.Generator().manual_seed(seed)
    images = [
        {"id": i, "file_name": f"v{i}", "ir_file_name": f"i{i}", "height": 100, "width": 100, "time": time}
        for i, time in enumerate(("day", "night", "day", "night"))
    ]
    images += [{"id": IMAGES, "file_name": "v", "ir_file_name": "i", "height": 100, "width": 100}]
    annotations = []
    for i, box in enumerate(boxes_like(number, seed).tolist()):
        image, category = (int(torch.randint(0, n, (), generator=generator)) for n in (IMAGES, 2))
        entry = {"id": i, "image_id": image, "category_id": 5 + 2 * category, "bbox": box}
        entry["iscrowd"] = int(i % 9 == 0)
        entry["modality"] = ("both", "visible", "infrared")[i % 3]
        annotations.append(entry)
    # Ids in another order than labels, and a class without objects.
    categories = [{"id": 5 + 2 * i, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def detections(truth: dict, seed=1) -> dict[int, list[tuple]]:
    """(label, score, box) by image: objects moved a little, twice, and boxes anywhere; scores repeat."""
    generator = torch.Generator().manual_seed(seed)
    rows = {i: [] for i in range(IMAGES + 1)}
    for a in truth["annotations"] * 2:
        step = torch.randn(5, generator=generator, dtype=torch.float64) * torch.tensor([2, 2, 2, 2, 8])
        box = torch.tensor(a["bbox"], dtype=torch.float64) + step
        box[2:4] = box[2:4].clamp(min=1)
        label = (a["category_id"] - 5) // 2
        rows[a["image_id"]].append((label, int(torch.randint(1, 30, (), generator=generator)) / 30, box))
    for i, box in enumerate(boxes_like(40, seed)):
        rows[i % (IMAGES + 1)].append((i % 3, (i + 1) / 50, box))
    return rows


def evaluate(name: str, rows: dict[int, list[tuple]]) -> dict:
    evaluator = OrientedEvaluator(name)
    evaluator.reset()
    for image, some in rows.items():
        instances = Instances((100, 100))
        boxes = [r[2] for r in some]
        instances.pred_boxes = RotatedBoxes(torch.stack(boxes)) if boxes else RotatedBoxes(torch.zeros(0, 5))
        instances.scores = torch.tensor([r[1] for r in some], dtype=torch.float64)
        instances.pred_classes = torch.tensor([r[0] for r in some], dtype=torch.int64)
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    figures = evaluator.evaluate()["bbox"]
    assert {f"bbox/{key}" for key in figures} == set(evaluator.metric_names())
    return figures


def plain_ap(truth: list[dict], rows: list[tuple], iou: float) -> tuple[float, float]:
    """AP by area and by 11 points of one class, as VOC's code computes them; rows are (image, score, box)."""
    objects = [(a["image_id"], torch.tensor(a["bbox"]).double(), a["iscrowd"]) for a in truth]
    total = sum(not crowd for *_, crowd in objects)
    if not total:
        return math.nan, math.nan
    taken, right, wrong, recall, precision = set(), 0, 0, [], []
    for image, _, box in sorted(rows, key=lambda row: -row[1]):
        overlaps = {i: plain_iou(box, other) for i, (at, other, _) in enumerate(objects) if at == image}
        best = max(overlaps, key=overlaps.get, default=None)
        if best is not None and overlaps[best] > iou:
            if objects[best][2]:
                continue
            right, wrong = (right + 1, wrong) if best not in taken else (right, wrong + 1)
            taken.add(best)
        else:
            wrong += 1
        recall.append(right / total)
        precision.append(right / (right + wrong))
    points = [
        max((p for r, p in zip(recall, precision, strict=True) if r >= k / 10 - 1e-9), default=0)
        for k in range(11)
    ]
    area = 0.0
    for i, r in enumerate(recall):
        before = recall[i - 1] if i else 0
        area += (r - before) * max(precision[i:])
    return 100 * area, 100 * sum(points) / 11


def test_figures_are_those_of_the_plain_reference(register):
    truth = content()
    rows = detections(truth)
    found = evaluate(register(truth), rows)
    ious = [0.5 + 0.05 * i for i in range(10)]
    means = []
    for label, name in enumerate(CLASSES):
        some = [a for a in truth["annotations"] if a["category_id"] == 5 + 2 * label]
        own = [(i, score, box) for i, each in rows.items() for k, score, box in each if k == label]
        areas = [plain_ap(some, own, iou) for iou in ious]
        if name == "van":
            assert all(math.isnan(found[f"{key}-van"]) for key in ("AP", "AP50", "AP50_11point"))
            continue
        means.append(areas)
        assert found[f"AP-{name}"] == pytest.approx(sum(a for a, _ in areas) / 10, abs=1e-6)
        assert found[f"AP50-{name}"] == pytest.approx(areas[0][0], abs=1e-6)
        assert found[f"AP50_11point-{name}"] == pytest.approx(areas[0][1], abs=1e-6)
        assert 5 < found[f"AP-{name}"] < 95
    assert found["AP50"] == pytest.approx(sum(a[0][0] for a in means) / 2, abs=1e-6)
    assert found["AP75"] == pytest.approx(sum(a[5][0] for a in means) / 2, abs=1e-6)
    assert found["AP50_11point"] == pytest.approx(sum(a[0][1] for a in means) / 2, abs=1e-6)

    day = {image["id"] for image in truth["images"] if image.get("time") == "day"}
    areas = [
        plain_ap(
            [a for a in truth["annotations"] if a["category_id"] == 5 + 2 * label and a["image_id"] in day],
            [(i, score, box) for i in day for k, score, box in rows[i] if k == label],
            0.5,
        )[0]
        for label in range(2)
    ]
    assert found["AP50-day"] == pytest.approx(sum(areas) / 2, abs=1e-6)
    for a in truth["annotations"]:
        a["iscrowd"] = int(a["iscrowd"] or a["modality"] != "infrared")
    others = [
        plain_ap(
            [a for a in truth["annotations"] if a["category_id"] == 5 + 2 * label],
            [(i, score, box) for i, each in rows.items() for k, score, box in each if k == label],
            0.5,
        )[0]
        for label in range(2)
    ]
    assert found["AP50-infrared"] == pytest.approx(sum(others) / 2, abs=1e-6)


def test_perfect_half_and_no_detections(register):
    truth = content(number=8)
    for i, a in enumerate(truth["annotations"]):
        a.update(category_id=5, iscrowd=0, image_id=i % 2)
    name = register(truth)
    objects = [(a["image_id"], torch.tensor(a["bbox"]).double()) for a in truth["annotations"]]
    rows = {i: [(0, 0.5, box) for at, box in objects if at == i] for i in (0, 1)}
    perfect = evaluate(name, rows)
    assert perfect["AP"] == perfect["AP50_11point"] == 100.0
    # The same rectangles, described in another way.
    turned = {
        i: [(0, s, box[[0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, 90])) for _, s, box in r]
        for i, r in rows.items()
    }
    assert evaluate(name, turned)["AP"] == 100.0
    half = evaluate(name, {0: rows[0], 1: []})
    assert half["AP50"] == pytest.approx(50.0) and half["AP50_11point"] == pytest.approx(600 / 11)
    assert evaluate(name, {0: [], 1: []})["AP"] == 0.0


def test_upright_boxes_on_either_side(register):
    truth = content(number=1)
    truth["annotations"][0].update(bbox=[10, 20, 30, 10], category_id=5, iscrowd=0, image_id=0)
    evaluator = OrientedEvaluator(register(truth))
    evaluator.reset()
    instances = Instances((100, 100), scores=torch.ones(1), pred_classes=torch.zeros(1, dtype=torch.int64))
    instances.pred_boxes = Boxes(torch.tensor([[10.0, 20, 40, 30]]))
    evaluator.process([{"image_id": 0}], [{"instances": instances}])
    assert evaluator.evaluate()["bbox"]["AP"] == 100.0


def test_other_evaluators_and_unknown_classes(register):
    name = register(content())
    with pytest.raises(UserError, match=f"{name} has oriented boxes: .*OrientedEvaluator"):
        PairCOCOEvaluator(name)
    with pytest.raises(UserError, match="miss rates are of upright boxes"):
        OrientedEvaluator(name, miss_rate=True)
    with pytest.raises(UserError, match="predicts class 3, but some_set has only 3 classes"):
        evaluate(name, {0: [(3, 0.5, torch.tensor([1.0, 1, 1, 1, 0]))]})
    assert len(DatasetCatalog.get(name)) == IMAGES + 1


def test_oriented_predictions_need_this_evaluator(register):
    truth = content(number=1)
    truth["annotations"][0].update(bbox=[10, 20, 30, 10], category_id=5, iscrowd=0, image_id=0)
    evaluator = PairCOCOEvaluator(register(truth))
    evaluator.reset()
    instances = Instances((100, 100), pred_boxes=RotatedBoxes(torch.ones(1, 5)), scores=torch.ones(1))
    instances.pred_classes = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(UserError, match="predicts oriented boxes: take a config with OrientedEvaluator"):
        evaluator.process([{"image_id": 0}], [{"instances": instances}])
