"""Matches of boxes: counted by hand, and as pycocotools finds them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from helpers.sets import registering
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ivtuning.data.datasets.detection import register_pairs
from ivtuning.evaluation.coco import PairCOCOEvaluator
from ivtuning.evaluation.matching import CROWD, NOTHING, box_confusion, match_image, threshold_curve


def box(label, x, score=None, width=10, **more):
    """A box of 10 pixels in height at the top of an image."""
    return {"label": label, "bbox": [x, 0, width, 10], **({} if score is None else {"score": score}), **more}


SCENE = match_image(
    truth=[box(0, 0), box(0, 100), box(1, 200), box(2, 300, width=40, iscrowd=1)],
    detections=[
        box(0, 1, 0.9),  # finds the first object
        box(0, 0, 0.8),  # fits better, but comes second
        box(0, 201, 0.7),  # takes the object of class 1 for one of class 0
        box(2, 310, 0.6),  # in the crowd
        box(2, 500, 0.5),
        box(1, 104, 0.4),  # IoU 6 / 14 with the second object
    ],
)


def test_each_detection_finds_one_object_of_its_class():
    assert SCENE.matched.tolist() == [0, NOTHING, NOTHING, CROWD, NOTHING, NOTHING]
    assert SCENE.overlaps[5, 1] == pytest.approx(6 / 14)
    assert SCENE.counts(0.0) == (1, 4, 2)
    assert SCENE.counts(0.85) == (1, 0, 2)
    assert SCENE.f1(0.0) == pytest.approx(2 / 8)


def test_confusion_has_missed_objects_and_false_alarms():
    assert box_confusion([SCENE], 3, 0.0).tolist() == [
        [1, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 1, 1, 0],
    ]
    assert box_confusion([SCENE], 3, 0.75).tolist() == [
        [1, 0, 0, 1],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
        [1, 0, 0, 0],
    ]
    assert box_confusion([SCENE, SCENE], 3, 0.0).sum() == 2 * box_confusion([SCENE], 3, 0.0).sum()


def test_f1_by_threshold():
    curve = threshold_curve([SCENE], 0)
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7]
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert curve.recall.tolist() == pytest.approx([1 / 2] * 3)
    assert curve.f1.tolist() == pytest.approx([2 / 3, 1 / 2, 2 / 5])
    assert curve.best == 0 and curve.objects == 2
    assert threshold_curve([SCENE], 2).best is None  # there is no object to find
    both = threshold_curve([SCENE, SCENE])
    assert both.thresholds.tolist() == [0.9, 0.8, 0.7, 0.5, 0.4]
    assert both.precision[0] == 1 and both.objects == 6


def test_an_image_may_have_nothing():
    nothing = match_image([], [])
    assert nothing.counts(0) == (0, 0, 0) and nothing.f1(0) is None
    assert match_image([box(0, 0)], []).f1(0) == 0
    assert box_confusion([nothing], 1, 0).sum() == 0
    assert threshold_curve([nothing]).best is None


def test_only_the_best_of_a_class_count():
    many = [box(0, 0, 0.1 * i) for i in range(1, 6)]
    assert match_image([], many, limit=2).scores.tolist() == pytest.approx([0.5, 0.4])


def random_boxes(rng, count):
    place, size = rng.integers(0, 40, (count, 2)), rng.integers(5, 30, (count, 2))
    labels = rng.integers(3, size=count).tolist()
    return [
        {"bbox": [*p, *s], "label": label}
        for p, s, label in zip(place.tolist(), size.tolist(), labels, strict=True)
    ]


def detections(rng, truth):
    """Two near each object, some of another class, and some anywhere; many scores are equal."""
    found = random_boxes(rng, 5)
    for o in truth * 2:
        box = (np.array(o["bbox"]) + rng.integers(-3, 4, 4)).clip(1).tolist()
        found.append({"bbox": box, "label": o["label"] if rng.random() < 0.8 else int(rng.integers(3))})
    return [b | {"score": float(rng.integers(1, 8)) / 8} for b in found]


@pytest.fixture(scope="module")
def drawn():
    """30 images with random objects, one in ten of them a crowd, and detections; as COCO has them."""
    rng = np.random.default_rng(0)
    images = []
    for i in range(1, 31):
        truth = random_boxes(rng, rng.integers(0, 9))
        images.append((i, truth, detections(rng, truth)))
        for o in truth:
            o["iscrowd"] = int(rng.random() < 0.1)
    content = {
        "images": [
            {"id": i, "height": 80, "width": 80, "file_name": f"{i}", "ir_file_name": f"ir{i}"}
            for i, _, _ in images
        ],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(3)],
        "annotations": [
            {
                "image_id": i,
                "category_id": o["label"] + 1,
                "bbox": o["bbox"],
                "iscrowd": o["iscrowd"],
                "area": o["bbox"][2] * o["bbox"][3],
            }
            for i, truth, _ in images
            for o in truth
        ],
    }
    for number, annotation in enumerate(content["annotations"], 1):
        annotation["id"] = number
    results = [
        {"image_id": i, "category_id": d["label"] + 1, "bbox": d["bbox"], "score": d["score"]}
        for i, _, found in images
        for d in found
    ]
    return images, content, results


@pytest.fixture(scope="module")
def evaluation(drawn):
    """pycocotools' own evaluation."""
    _, content, results = drawn
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    return run


@pytest.mark.parametrize("iou", [0, 5])
def test_matches_are_those_of_pycocotools(drawn, evaluation, iou):
    """Where scores are equal the order is that of the results."""
    theirs = [e for e in evaluation.evalImgs if e is not None]
    hits, alarms = [], []
    for e in theirs:
        counted = ~e["dtIgnore"][iou]
        matched = e["dtMatches"][iou][counted] > 0
        hits.append((e["image_id"], e["category_id"], int(matched.sum())))
        alarms.append((e["image_id"], e["category_id"], int((~matched).sum())))
    ours = {
        i: match_image(truth, found, float(evaluation.params.iouThrs[iou])) for i, truth, found in drawn[0]
    }
    assert sum(n for *_, n in hits) > 20
    for (image, category, found), (*_, wrong) in zip(hits, alarms, strict=True):
        of_class = ours[image].labels == category - 1
        assert int((ours[image].matched[of_class] >= 0).sum()) == found
        assert int((ours[image].matched[of_class] == NOTHING).sum()) == wrong


def test_precision_by_recall_is_that_of_pycocotools(drawn, evaluation, tmp_path):
    _, content, results = drawn
    with registering(tmp_path, "annotations", register_pairs) as make:
        evaluator = PairCOCOEvaluator(make(content))
    ours = evaluator.precision_by_recall(results)
    assert list(evaluator.classes.items()) == [(1, "class 0"), (2, "class 1"), (3, "class 2")]
    assert len(evaluator.truth["annotations"]) == len(content["annotations"])
    theirs = evaluation.eval["precision"][:, :, :, 0, -1]
    assert ours.shape == (10, 101, 3) and 0.02 < theirs[0].mean() < 0.9
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
