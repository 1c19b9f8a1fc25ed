"""COCO average precision of boxes: this package's evaluator, against pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ...evaluation import coco as ours
from ..measures.timing import interleaved, ratio, summary
from ..options import Options
from ..report import Result, Row

CLASSES, OBJECTS, DETECTIONS, LIMIT = 80, 8, 100, 100
WIDTH, HEIGHT = 640, 480


def measure(options: Options) -> Result:
    """Row coco_eval_ratio. Both compute AP of all four area ranges; their indices are built beforehand."""
    truth, detections = random_records(options.images)
    images, classes = list(range(1, options.images + 1)), list(range(1, CLASSES + 1))
    results: dict[str, np.ndarray] = {}
    sets = {
        kind: [_index(kind, options.images, records) for records in (truth, detections)]
        for kind in (ours.COCO, COCO)
    }
    del truth, detections  # each has its own copy

    def run_ours() -> None:
        results["ours"] = ours.precision(
            *sets[ours.COCO],
            task="bbox",
            image_ids=images,
            category_ids=classes,
            areas=ours.AREAS.values(),
            limit=LIMIT,
        )

    def run_pycocotools() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            run = COCOeval(*sets[COCO], "bbox")
            run.evaluate()
            run.accumulate()
        results["pycocotools"] = run.eval["precision"][..., -1]

    times = interleaved(
        {"ours": run_ours, "pycocotools": run_pycocotools}, options.repeats, "COCO evaluation"
    )
    difference = float(np.abs(results["ours"] - results["pycocotools"]).max())
    result = Result(
        f"{options.images:,} images, {DETECTIONS} detections and {OBJECTS} objects each, {CLASSES} classes; "
        f"evaluate and accumulate; {ours.COCOeval.__name__} against pycocotools"
    )
    result.raw["seconds"] = summary(times)
    result.facts["coco_eval_difference"] = difference
    result.rows["coco_eval_ratio"] = Row.of(
        ratio(times, "ours", "pycocotools"), note=f"precisions differ by {difference:.1g} at most"
    )
    return result


def random_records(images: int) -> tuple[list[dict], list[dict]]:
    """Random objects and detections in COCO's format; some detections lie near an object of their class."""
    rng = np.random.default_rng(0)
    objects = _boxes(rng, images * OBJECTS).reshape(images, OBJECTS, 4)
    object_classes = rng.integers(1, CLASSES + 1, (images, OBJECTS))
    boxes = _boxes(rng, images * DETECTIONS).reshape(images, DETECTIONS, 4)
    classes = rng.integers(1, CLASSES + 1, (images, DETECTIONS))
    scores = rng.random((images, DETECTIONS))
    # Two detections of each object, shifted by up to a fifth of its size.
    for k in (0, OBJECTS):
        near = slice(k, k + OBJECTS)
        boxes[:, near] = objects
        boxes[:, near, :2] += rng.uniform(-0.2, 0.2, objects[..., :2].shape) * objects[..., 2:]
        classes[:, near] = object_classes
    return _records(objects, object_classes), _records(boxes, classes, scores)


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) boxes x, y, w, h in pixels, of COCO's small, medium and large sizes."""
    sides = np.exp(rng.uniform(np.log(8), np.log(240), (count, 2)))
    corners = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, sides], 1)


def _records(boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray | None = None) -> list[dict]:
    records = []
    for image, rows in enumerate(boxes.tolist(), 1):
        for k, box in enumerate(rows):
            record = {
                "id": len(records) + 1,
                "image_id": image,
                "category_id": int(classes[image - 1, k]),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            if scores is not None:
                record["score"] = float(scores[image - 1, k])
            records.append(record)
    return records


def _index(kind: type, images: int, records: list[dict]):
    """An indexed dataset of `records`, of the library's class `kind`."""
    with contextlib.redirect_stdout(io.StringIO()):
        api = kind()
        api.dataset = {
            "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(1, images + 1)],
            "categories": [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)],
            "annotations": [dict(r) for r in records],  # both libraries write into them
        }
        api.createIndex()
    return api
