"""What the check of a file calls equal."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from ivtuning.export.check import limits_of
from ivtuning.export.comparison import LIMITS, Comparison
from ivtuning.export.options import Options

CORNERS = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 60, 10]], dtype=np.float32)
SCORES, LABELS = np.array([0.9, 0.6, 0.3], dtype=np.float32), np.array([0, 1, 0])


def wanted() -> Instances:
    return Instances(
        (64, 64),
        pred_boxes=Boxes(torch.from_numpy(CORNERS)),
        scores=torch.from_numpy(SCORES),
        pred_classes=torch.from_numpy(LABELS),
    )


def found(**changes) -> dict[str, np.ndarray]:
    room = {"boxes": CORNERS, "scores": SCORES, "labels": LABELS} | changes
    return {"count": np.array(3), **{k: np.concatenate([v, np.zeros_like(v)]) for k, v in room.items()}}


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": CORNERS + np.array([[0, 0, 0, 0], [0, 0, 2, 2], [0, 0, 0, 0]], dtype=np.float32)},
        {"scores": SCORES + np.array([0, 2e-3, 0], dtype=np.float32)},
        {"labels": np.array([0, 0, 0])},
    ],
    ids=["boxes", "scores", "labels"],
)
def test_partners_agree_in_box_score_and_class(changes):
    comparison = Comparison(LIMITS["fp32"])
    comparison.add_detections(found(), wanted())
    assert (comparison.matched, comparison.boxes, comparison.failures()) == (6, 6, [])
    comparison.add_detections(found(**changes), wanted())
    assert (comparison.matched, comparison.boxes) == (10, 12)
    (failure,) = comparison.failures()
    assert failure.startswith("2 of 12 boxes have no partner of their class with an IoU of 0.99")


def test_pixels_that_differ_are_shown():
    comparison = Comparison(LIMITS["fp16"])
    want = np.zeros((1, 100, 100), np.uint8)
    comparison.add("label_map", want, want)
    assert comparison.lines() == ["label map: 0.00% of the pixels differ"]
    have = want.copy()
    have[0, 0, :75] = 1
    comparison.add("label_map", have, want)
    assert comparison.lines() == ["label map: 0.75% of the pixels differ"] and not comparison.failures()


def test_a_score_that_is_not_a_number_has_no_partner():
    comparison = Comparison(LIMITS["fp32"])
    comparison.add_detections(found(scores=np.full(3, np.nan, dtype=np.float32)), wanted())
    assert comparison.matched == 0 and comparison.failures()


@pytest.mark.parametrize("values", [[np.nan, 1.0], [np.inf, 1.0]], ids=["nan", "inf"])
def test_values_that_are_not_finite_differ(values):
    comparison = Comparison(LIMITS["fp16"])
    comparison.add("scores", np.array(values), np.array([0.5, 1.0]))
    comparison.add("scores", np.array([0.5, 1.0]), np.array([0.5, 1.0]))
    (failure,) = comparison.failures()
    assert failure.startswith("scores differs by")


def test_boxes_that_no_score_lets_compare_must_be_there_and_finite():
    low = {"scores": np.full(30, 0.01, np.float32), "labels": np.zeros(30, np.int64)}
    boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (30, 1))
    want = Instances(
        (64, 64), pred_boxes=Boxes(torch.from_numpy(boxes)), scores=torch.from_numpy(low["scores"])
    )
    want.pred_classes = torch.zeros(30, dtype=torch.int64)
    fine = {"count": np.array(30), "boxes": boxes, **low}
    comparison = Comparison(LIMITS["fp32"])
    comparison.add_detections(fine, want)
    assert not comparison.failures() and "none was compared" in comparison.lines()[0]
    comparison.add_detections(fine | {"count": np.array(0)}, want)
    comparison.add_detections(fine | {"boxes": boxes * np.nan}, want)
    (failure,) = comparison.failures()
    assert failure.startswith("2 pairs have boxes that are not finite")


def test_one_of_a_hundred_boxes_may_change_where_ranks_can():
    sure, ranked = (SimpleNamespace(rounding_risk=risk) for risk in ("", "ranks"))
    shares = [limits_of(graph, Options((64, 64))).share for graph in (sure, ranked)]
    assert shares == [1.0, 0.99]
    half = [limits_of(graph, Options((64, 64), precision="fp16")).share for graph in (sure, ranked)]
    assert half == [0.98, 0.98]
