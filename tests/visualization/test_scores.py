"""Scores of single images, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.drawings import CLASSES, annotation, instances

from ivtuning.visualization.scores import Outcomes, score_boxes, score_class, score_labels


def test_boxes_are_matched_within_their_class_above_the_threshold():
    truth = [annotation([10, 10, 20, 20], 0), annotation([40, 10, 20, 20], 1), annotation([0, 40, 8, 8], 1)]
    boxes = [[10, 10, 30, 30], [40, 10, 60, 25], [10, 10, 30, 30], [0, 40, 8, 48]]
    prediction = instances(boxes, [0.9, 0.8, 0.7, 0.2], [0, 1, 1, 1])
    fields = score_boxes(truth, prediction, CLASSES, 0.5)
    # Found: the person with IoU 1, a car with 300/400. The third box has the wrong class.
    assert fields["score"] == pytest.approx(100 * 4 / 6)
    assert fields["remark"] == "2 found, 1 missed, 1 false alarm, mean IoU 0.88"
    assert fields["classes"] == {"person": Outcomes(), "car": Outcomes(missed=1, alarms=1)}
    assert score_boxes(truth, prediction, CLASSES, 0.1)["score"] == pytest.approx(100 * 6 / 7)


def test_an_image_without_anything_has_no_score_and_crowds_count_nowhere():
    nothing = instances([], [], [])
    assert score_boxes([], nothing, CLASSES, 0.5) == {
        "score": None,
        "remark": "0 found, 0 missed, 0 false alarms",
        "classes": {},
    }
    inside = instances([[12, 12, 20, 20]], [0.9], [0])
    crowd = [annotation([10, 10, 20, 20], 0, iscrowd=1)]
    assert score_boxes(crowd, inside, CLASSES, 0.5)["score"] is None
    alarm = score_boxes([], inside, CLASSES, 0.5)
    assert alarm["score"] == 0 and alarm["classes"] == {"person": Outcomes(alarms=1)}


def test_label_maps_miss_a_class_without_a_right_pixel():
    # ground: 6 of 8 right; person: missed; car: half right; lamp: predicted, and not there; pole: nowhere
    matrix = np.array([[6, 0, 1, 1, 0], [2, 0, 0, 0, 0], [1, 0, 1, 0, 0], [0] * 5, [0] * 5])
    fields = score_labels(matrix, ["ground", "person", "car", "lamp", "pole"])
    assert fields["score"] == pytest.approx(100 * (6 / 11 + 0 + 1 / 3) / 3)
    assert fields["classes"] == {
        "ground": Outcomes(),
        "person": Outcomes(missed=1),
        "car": Outcomes(),
        "lamp": Outcomes(alarms=1),
    }
    assert score_labels(np.zeros((2, 2), int), ["a", "b"]) == {"score": None, "classes": {}}


def test_class_predictions_score_by_the_probability_of_the_class():
    scores = torch.tensor([0.75, 0.25])
    assert score_class(0, scores, ["rose", "tulip"]) == {"score": 75.0, "classes": {"rose": Outcomes()}}
    assert score_class(1, scores, ["rose", "tulip"]) == {
        "score": 25.0,
        "classes": {"tulip": Outcomes(missed=1), "rose": Outcomes(alarms=1)},
    }
    assert score_class(None, scores, ["rose", "tulip"]) == {"classes": {"rose": Outcomes()}}
