"""Which objects count in COCO figures, and as what: crowds, other modalities, odd boxes, renamed classes."""

from __future__ import annotations

import copy
import math

import pytest
from helpers.coco import boxes, evaluate, one_object_scene, random_predictions, random_truth, reference
from helpers.sets import registering

from ivtuning.data.classes import align_classes
from ivtuning.data.datasets.detection import register_pairs
from ivtuning.evaluation import PairCOCOEvaluator


def test_objects_of_another_modality_are_neither_right_nor_wrong(make, library):
    truth = one_object_scene()
    detections = boxes(([200, 200, 240, 240], 0.9), ([10, 10, 50, 50], 0.5))
    got = evaluate(make(truth), truth, detections)["bbox"]
    assert (got["AP-both"], got["AP-infrared"], got["AP"]) == pytest.approx((100, 100, 100))
    assert math.isnan(got["AP-visible"])  # no object is shown by the visible camera alone
    # a false alarm inside the ignored object still counts: 1 right below 1 wrong
    alarm = boxes(([205, 205, 215, 215], 0.9), ([10, 10, 50, 50], 0.5))
    got = evaluate(make(truth), truth, alarm)["bbox"]
    assert got["AP-both"] == pytest.approx(50)
    assert got["AP-infrared"] == 0.0


def test_annotation_id_zero_is_an_object_like_any_other(make, library):
    truth = one_object_scene()
    truth["annotations"] = truth["annotations"][:1]
    assert evaluate(make(truth), truth, boxes(([10, 10, 50, 50], 0.5)))["bbox"]["AP"] == pytest.approx(100)


def test_ignored_objects_count_as_crowds(make, library):
    truth = random_truth(11, modality=False)
    marked = [a for a in truth["annotations"] if a["iscrowd"]]
    assert len(marked) > 3
    expected = copy.deepcopy(truth)
    for a in marked:
        del a["iscrowd"]
        a["ignore"] = 1
    predictions = random_predictions(truth, 12)
    stats, _ = reference(expected, predictions)
    got = evaluate(make(truth), truth, predictions)["bbox"]
    assert [got[k] for k in ("AP", "AP50", "AP75")] == pytest.approx(100 * stats[:3], abs=1e-9)


def test_objects_with_bad_polygons_count_with_their_boxes(make, library):
    truth = random_truth(13, modality=False, masks=True)
    predictions = random_predictions(truth, 14)
    stats, _ = reference(truth, predictions)
    for k, a in enumerate(truth["annotations"]):
        a["segmentation"] = [[a["segmentation"][0][:4]], [a["segmentation"][0][:5]], [[]], []][k % 4]
    got = evaluate(make(truth), truth, predictions)["bbox"]
    assert [got[k] for k in ("AP", "AP50", "AP75")] == pytest.approx(100 * stats[:3], abs=1e-9)


def test_boxes_that_stick_out_are_those_of_pycocotools(make, library):
    truth = random_truth(15, modality=False)
    for a in truth["annotations"][::3]:
        a["bbox"][0] -= a["bbox"][0] + 0.3 * a["bbox"][2]
    predictions = random_predictions(truth, 16)
    stats, _ = reference(truth, predictions)
    got = evaluate(make(truth), truth, predictions)["bbox"]
    assert [got[k] for k in ("AP", "AP50", "AP75")] == pytest.approx(100 * stats[:3], abs=1e-9)


def test_labels_are_those_of_the_set_that_was_trained_on(library, tmp_path):
    truth = random_truth(17, modality=False)
    predictions = random_predictions(truth, 18)
    stats, _ = reference(truth, predictions)
    renamed = copy.deepcopy(truth)
    names = {c["id"]: c["name"] for c in truth["categories"]}
    ids = {name: number for number, name in zip(names, reversed(names.values()), strict=True)}
    renamed["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
    for a in renamed["annotations"]:
        a["category_id"] = ids[names[a["category_id"]]]
    for data in (truth, renamed):
        for image in data["images"]:
            image["ir_file_name"] = f"infrared_{image['file_name']}"
    with registering(tmp_path, "annotations", register_pairs) as register:
        trained, tested = register(truth, "trained_set"), register(renamed, "tested_set")
        align_classes([trained, tested])
        got = evaluate(PairCOCOEvaluator(tested), renamed, predictions)["bbox"]
    assert [got[k] for k in ("AP", "AP50", "AP75")] == pytest.approx(100 * stats[:3], abs=1e-9)
