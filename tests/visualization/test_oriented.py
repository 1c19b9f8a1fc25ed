"""Oriented boxes in pictures, in their scores, and in predictions as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances, RotatedBoxes
from helpers.oriented import boxes_like, corner_distance, plain_iou

from ivtuning.evaluation.matching import match_image
from ivtuning.oriented.boxes import corners
from ivtuning.predictor.results import COLUMNS, kind_of, prediction_of, results_of, rows_of
from ivtuning.visualization.boxes import draw_pair, from_annotations, from_instances
from ivtuning.visualization.scores import score_boxes

BOX = [60.0, 40.0, 50.0, 20.0, 30.0]


def found(boxes, scores=None) -> Instances:
    boxes = torch.as_tensor(boxes).reshape(-1, 5)
    instances = Instances((90, 120), pred_classes=torch.zeros(len(boxes), dtype=torch.int64))
    instances.pred_boxes = RotatedBoxes(boxes)
    instances.scores = torch.full((len(boxes),), 0.9) if scores is None else torch.tensor(scores)
    return instances


def annotation(box=BOX, **more) -> dict:
    return {"bbox": box, "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0, "iscrowd": 0} | more


@pytest.mark.parametrize("modality", ["both", "infrared"])
def test_outlines_are_where_the_edges_are(modality):
    black = np.zeros((90, 120, 3), np.uint8)
    drawing = draw_pair(black, black, [annotation(modality=modality)], found(BOX), ["car"], labels="none")
    for row in drawing.rows:
        image = np.asarray(row[0].image)
        scale = image.shape[1] // 120
        lit = np.argwhere(image.max(2) > 100)[:, ::-1] / scale
        points = corners(torch.tensor(BOX)).numpy()
        along = np.stack([points, np.roll(points, -1, 0)], 1)
        edge = along[:, 1] - along[:, 0]
        offset = lit[:, None] - along[None, :, 0]
        distance = np.abs(edge[:, 0] * offset[..., 1] - edge[:, 1] * offset[..., 0]) / np.hypot(*edge.T)
        assert len(lit) > 100 and distance.min(1).max() < 3
        assert (np.abs(lit.mean(0) - BOX[:2]) < 2).all()


def test_objects_have_corners_and_the_boxes_around_them():
    for objects in (from_annotations([annotation()], 90, 120), from_instances(found(BOX))):
        assert np.allclose(objects.corners[0], corners(torch.tensor(BOX)).numpy(), atol=1e-4)
        around = [*objects.corners[0].min(0), *objects.corners[0].max(0)]
        assert np.allclose(objects.boxes[0], around, atol=1e-3)
    assert len(from_instances(found(BOX), threshold=0.95)) == 0


def test_hundreds_of_detections_count():
    centers = [[20.0 + 5 * (i % 20), 10.0 + 9 * (i // 20), 4.0, 8.0, 0.0] for i in range(150)]
    remark = score_boxes([annotation(box) for box in centers], found(centers), ["car"], 0.5)["remark"]
    assert remark.startswith("150 found, 0 missed, 0 false alarms")


def test_scores_of_pictures():
    turned = [60.0, 40.0, 20.0, 50.0, -60.0]
    perfect = score_boxes([annotation()], found(turned), ["car"], 0.5)
    assert perfect["score"] == 100 and "1 found, 0 missed, 0 false alarms, mean IoU 1.00" in perfect["remark"]
    across = score_boxes([annotation()], found([60.0, 40.0, 50.0, 20.0, 120.0]), ["car"], 0.5)
    assert across["score"] == 0 and "0 found, 1 missed, 1 false alarm" in across["remark"]


def test_upright_boxes_are_scored_beside_oriented_ones():
    none = Instances((90, 120), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    none.pred_classes = torch.zeros(0, dtype=torch.int64)
    assert "0 found, 1 missed, 0 false alarms" in score_boxes([annotation()], none, ["car"], 0.5)["remark"]
    upright = annotation([35, 30, 50, 21], bbox_mode=BoxMode.XYWH_ABS)
    exact = found([60.0, 40.5, 50.0, 21.0, 0.0])
    assert "mean IoU 1.00" in score_boxes([upright], exact, ["car"], 0.5)["remark"]
    for objects, hits in (
        ([35, 30, 50, 21], [60, 40.5, 50, 21, 0]),
        ([60, 40.5, 50, 21, 0], [35, 30, 50, 21]),
    ):
        matches = match_image([{"bbox": objects, "label": 0}], [{"bbox": hits, "label": 0, "score": 1}], 0.5)
        assert np.allclose(matches.overlaps, 1)


def test_overlaps_and_crowds_of_a_match():
    boxes = boxes_like(6, 0, size=30).tolist()
    objects = [{"bbox": b, "label": 0, "iscrowd": i == 5} for i, b in enumerate(boxes)]
    hits = [
        {"bbox": b, "label": 0, "score": 1 - i / 10} for i, b in enumerate(boxes_like(5, 1, size=30).tolist())
    ]
    hits.append({"bbox": [*boxes[5][:2], 1.0, 1.0, 17.0], "label": 0, "score": 0.01})
    matches = match_image(objects, hits, 0.5)
    expected = [[plain_iou(torch.tensor(h["bbox"]), torch.tensor(o)) for o in boxes[:5]] for h in hits]
    assert np.allclose(matches.overlaps, expected, atol=1e-6)
    assert matches.matched[-1] == -2  # inside the crowd region


def test_predictions_as_results_rows_and_back():
    boxes = boxes_like(5, 2)
    prediction = found(boxes, [0.9, 0.8, 0.7, 0.6, 0.1])
    assert kind_of(prediction) == "oriented"
    results = results_of(prediction, 7, [3])
    assert [r["category_id"] for r in results] == [3] * 5 and {len(r["bbox"]) for r in results} == {5}
    again = prediction_of({"results": results}, Path(), [3], (90, 120))
    assert corner_distance(again.pred_boxes.tensor.double(), boxes) < 1e-4
    rows = rows_of("oriented", results, ["car"], [3], 0.5)
    assert len(rows) == 4 and {len(row) for row in rows} == {len(COLUMNS["oriented"])}
