"""Log-average miss rates against the toolbox's rules, written out plainly box by box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from ivtuning.evaluation.miss_rate import log_average, metric_names, miss_rates

WIDTH, HEIGHT = 640, 512
INF = float("inf")
# KAIST's settings: heights, occlusions, and the time of day.
SETTINGS = {
    "MR": (55, INF, (0, 1), None),
    "MR-day": (55, INF, (0, 1), "day"),
    "MR-night": (55, INF, (0, 1), "night"),
    "MR-all": (20, INF, (0, 1, 2), None),
    "MR-all-day": (20, INF, (0, 1, 2), "day"),
    "MR-all-night": (20, INF, (0, 1, 2), "night"),
    "MR-near": (115, INF, (0,), None),
    "MR-medium": (45, 115, (0,), None),
    "MR-far": (1, 45, (0,), None),
    "MR-unoccluded": (1, INF, (0,), None),
    "MR-partially-occluded": (1, INF, (1,), None),
    "MR-heavily-occluded": (1, INF, (2,), None),
}


def overlap(a: Sequence[float], b: Sequence[float], ignored: bool) -> float:
    """IoU of two boxes x, y, w, h; with an ignored `b`, the share of `a` inside it."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    union = a[2] * a[3] if ignored else a[2] * a[3] + b[2] * b[3] - w * h
    return w * h / union


def reference(
    images: Sequence[Mapping],
    truth: Sequence[Mapping],
    detections: Sequence[Mapping],
    low: float,
    high: float,
    occlusions: Sequence[int],
    time: str | None,
) -> float:
    """The toolbox's evalRes and compRoc for one class: 0..100."""
    images = [image for image in images if time in (None, image["time"])]
    rows, objects = [], 0
    for image in images:
        gts = []
        for a in truth:
            if a["image_id"] != image["id"]:
                continue
            x, y, w, h = a["bbox"]
            ignored = (
                bool(a.get("iscrowd"))
                or not low <= h <= high
                or a.get("occlusion", 0) not in occlusions
                or x < 5
                or y < 5
                or x + w > WIDTH - 5
                or y + h > HEIGHT - 5
            )
            gts.append({"bbox": a["bbox"], "ignored": ignored, "taken": False})
        gts.sort(key=lambda g: g["ignored"])
        objects += sum(not g["ignored"] for g in gts)
        own = sorted((d for d in detections if d["image_id"] == image["id"]), key=lambda d: -d["score"])
        for d in own:
            best, match = 0.5, None
            for g in gts:
                if g["taken"] and not g["ignored"]:
                    continue
                if match is not None and not match["ignored"] and g["ignored"]:
                    break
                if (o := overlap(d["bbox"], g["bbox"], g["ignored"])) >= best:
                    best, match = o, g
            if match is None:
                rows.append((d["score"], False))
            elif not match["ignored"]:
                match["taken"] = True
                rows.append((d["score"], True))
    rows.sort(key=lambda row: -row[0])
    fppi, recall, hits, alarms = [-INF], [0.0], 0, 0
    for _, found in rows:
        hits, alarms = hits + found, alarms + (not found)
        fppi.append(alarms / len(images))
        recall.append(hits / objects)
    logs = []
    for i in range(9):
        last = max(j for j, value in enumerate(fppi) if value <= 10 ** (-2 + i / 4))
        logs.append(math.log(max(1e-10, 1 - recall[last])))
    return 100 * math.exp(sum(logs) / 9)


def random_set(seed: int, images: int = 24) -> tuple[list[dict], list[dict], list[dict]]:
    """Images, pedestrians of all kinds, some at the border, and detections, some with equal scores."""
    rng = np.random.default_rng(seed)
    pictures = [
        {"id": i, "width": WIDTH, "height": HEIGHT, "time": ("day", "night")[i % 2]} for i in range(images)
    ]
    truth, detections = [], []
    for image in pictures:
        for _ in range(rng.integers(0, 7)):
            h = rng.uniform(15, 220)
            w = 0.41 * h
            box = [rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h), w, h]
            crowd = int(rng.random() < 0.15)
            truth.append({"image_id": image["id"], "category_id": 1, "bbox": box, "iscrowd": crowd})
            truth[-1]["occlusion"] = int(rng.integers(0, 3))
            for _ in range(rng.integers(0, 3)):
                moved = (np.array(box) + rng.normal(0, 0.08, 4) * [w, h, w, h]).tolist()
                detections.append({"bbox": moved})
        for _ in range(rng.integers(0, 4)):
            h = rng.uniform(15, 220)
            detections.append({"bbox": [*rng.uniform(0, 400, 2), 0.41 * h, h]})
        for d in detections:
            d.setdefault("image_id", image["id"])
    for d in detections:
        d |= {"category_id": 1, "score": int(rng.integers(1, 40)) / 40}
    return pictures, truth, detections


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_toolbox(seed):
    images, truth, detections = random_set(seed)
    figures = miss_rates(images, truth, detections)
    assert list(figures) == metric_names(images, truth) == list(SETTINGS)
    for name, setting in SETTINGS.items():
        assert figures[name] == pytest.approx(reference(images, truth, detections, *setting), abs=1e-9), name


def test_values_by_hand():
    # Ten images, ten persons; the detector finds nine and then makes five false positives.
    found = np.array([True] * 9 + [False] * 5)
    assert log_average(-np.arange(14.0), found, 10, 10) == pytest.approx(0.1)
    # The first detection is false: nothing is found at the four rates below 0.1 per image.
    found = np.array([False] + [True] * 9)
    expected = math.exp(5 / 9 * math.log(0.1))
    assert log_average(-np.arange(10.0), found, 10, 10) == pytest.approx(expected)
    assert log_average(np.zeros(0), np.zeros(0, bool), 3, 10) == 1.0
    assert log_average(-np.arange(10.0), np.ones(10, bool), 10, 10) == pytest.approx(1e-10)
    assert math.isnan(log_average(np.zeros(0), np.zeros(0, bool), 0, 10))


def test_objects_outside_a_subset_are_ignored():
    images = [{"id": 1, "width": WIDTH, "height": HEIGHT}]
    box = {"image_id": 1, "category_id": 1}
    truth = [box | {"bbox": [100, 100, 40, 100]}, box | {"bbox": [300, 100, 20, 54.9]}]
    detections = [a | {"score": 0.9 - i / 10} for i, a in enumerate(reversed(truth))]
    figures = miss_rates(images, truth, detections)
    # The lower person is too small for MR, so its detection is no false positive.
    assert figures["MR"] == figures["MR-all"] == pytest.approx(1e-8)
    assert math.isnan(figures["MR-near"]) and math.isnan(figures["MR-far"])
    assert list(figures) == ["MR", "MR-all", "MR-near", "MR-medium", "MR-far"]
    at_border = [box | {"bbox": [2, 100, 40, 100]}]
    assert math.isnan(miss_rates(images, at_border, [])["MR"])


def test_mean_over_the_classes_that_have_objects():
    images = [{"id": 1, "width": WIDTH, "height": HEIGHT}]
    truth = [
        {"image_id": 1, "category_id": c, "bbox": [100 * c, 100, 40, 100], "occlusion": 0} for c in (1, 2)
    ]
    detections = [truth[0] | {"score": 0.5}, truth[0] | {"score": 0.4, "category_id": 3}]
    assert miss_rates(images, truth, detections)["MR"] == pytest.approx((1e-8 + 100) / 2)
