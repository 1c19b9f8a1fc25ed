"""Average precision of oriented boxes, by the rules of Pascal VOC, which DOTA's evaluation follows."""

from __future__ import annotations

import logging
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import BoxMode, Instances, RotatedBoxes
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from ..data.modalities import SHOWN_IN, TIMES
from ..data.oriented import with_angles
from ..oriented.overlap import pairwise_iou
from .coco import PairCOCOEvaluator
from .confusion import mean

logger = logging.getLogger("ivtuning.evaluation")
IOUS = np.arange(10) * 0.05 + 0.5
_COLUMNS = ("AP", "AP50", "AP50_11point")


class OrientedEvaluator(PairCOCOEvaluator):
    """Rotated AP on 0..100, by the exact IoU of oriented boxes.

    `evaluate()` returns ``{"bbox": {...}}`` with

    - ``AP, AP50, AP75``: area under the curve of precision and recall (VOC since 2010, "VOC 12"), with AP the
      mean over IoUs .50:.05:.95; and ``AP50_11point``: mean precision at 11 recalls (VOC 2007, as in DOTA);
    - ``AP-<class>, AP50-<class>, AP50_11point-<class>``, and the same of ``day``, ``night``, and of the
      modalities ``both``, ``visible``, ``infrared``, where the JSON has them, as in
      :class:`.coco.PairCOCOEvaluator`.

    A detection belongs to the object of its class that it overlaps most, if their IoU is above the threshold;
    it is right if no detection of a higher score has that object. Crowd objects (marked difficult) count
    neither as found nor as missed. All detections count. Boxes without an angle are taken with angle 0.

    Args and errors: see :class:`.coco.PairCOCOEvaluator`; `max_dets_per_image` does not apply.
    """

    ORIENTED = True

    @property
    def max_dets_per_image(self) -> int:
        """All detections count: a tile from above may have hundreds of one class."""
        return sys.maxsize

    def metric_names(self) -> list[str]:
        """Names of the figures of :meth:`evaluate`, such as "bbox/AP50"."""
        names = [f"bbox/{key}" for key in ("AP", "AP50", "AP75", "AP50_11point")]
        images, truth = self._images.values(), self._truth or ()
        parts = [self._names[category] for category in self._categories]
        parts += TIMES if any("time" in image for image in images) else ()
        parts += SHOWN_IN if any("modality" in a for a in truth) else ()
        return names + [f"bbox/{key}-{part}" for part in parts for key in _COLUMNS]

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the detections of one batch: `inputs` as the mapper made them, `outputs` of the model."""
        for x, output in zip(inputs, outputs, strict=True):
            results = oriented_results(output["instances"].to("cpu"), x["image_id"])
            self._predictions.append({"instances": results, "masks": False})

    def precision_by_recall(self, results: list[dict]) -> np.ndarray:
        """Precision, the best from each recall on, whose mean over recalls is nearly the area of the curve.

        Args and shape: see :class:`.coco.PairCOCOEvaluator`.
        """
        recalls = np.arange(101) / 100
        table = np.full((len(IOUS), 101, len(self._categories)), -1.0)
        for k, category in enumerate(self._categories):
            curve = self._curve(self._truth or [], results, category)
            if curve.objects:
                for i, (r, p) in enumerate(zip(curve.recall, curve.precision, strict=True)):
                    table[i, :, k] = [p[r >= at - 1e-9].max(initial=0.0) for at in recalls]
        return table

    def _figures(self, task: str, results: list[dict], ids: list[int]) -> dict:
        """Compute and log all figures."""
        counted = set(ids)
        found = [r for r in results if r["image_id"] in counted]
        truth = [a for a in self._truth if a["image_id"] in counted]
        by_class = {k: self._curve(truth, found, k) for k in self._categories}
        area = np.array([curve.area() for curve in by_class.values()])
        points = np.array([curve.eleven_points() for curve in by_class.values()])
        figures = {
            "AP": _mean(area),
            "AP50": _mean(area[:, 0]),
            "AP75": _mean(area[:, 5]),
            "AP50_11point": _mean(points[:, 0]),
        }
        rows = [
            (self._names[k], _mean(a), _mean(a[0]), _mean(p[0]))
            for k, a, p in zip(self._categories, area, points, strict=True)
        ]
        if any("time" in self._images[i] for i in ids):
            for time in TIMES:
                some = {i for i in ids if self._images[i].get("time") == time}
                part = [[a for a in each if a["image_id"] in some] for each in (truth, found)]
                rows.append((time, *self._means(*part)))
        if any("modality" in a for a in truth):
            for modality in SHOWN_IN:
                other = [a | {"iscrowd": 1} if a.get("modality", "both") != modality else a for a in truth]
                rows.append((modality, *self._means(other, found)))
        logger.info(
            f"{task} results of {self._metadata.name}:\n{create_small_table(figures)}\n"
            + tabulate(rows, headers=["part", *_COLUMNS], tablefmt="pipe", floatfmt=".3f")
        )
        for name, *values in rows:
            figures |= {f"{key}-{name}": value for key, value in zip(_COLUMNS, values, strict=True)}
        return figures

    def _means(self, truth: list[dict], found: list[dict]) -> tuple[float, float, float]:
        """AP, AP50 and AP50_11point over all classes."""
        curves = [self._curve(truth, found, k) for k in self._categories]
        area = np.array([curve.area() for curve in curves])
        return _mean(area), _mean(area[:, 0]), _mean(np.array([c.eleven_points()[0] for c in curves]))

    def _curve(self, truth: list[dict], found: list[dict], category: int) -> Curve:
        return match(
            [a for a in truth if a["category_id"] == category],
            [r for r in found if r["category_id"] == category],
        )


def oriented_results(instances: Instances, image_id: int) -> list[dict]:
    """Detections in the form of COCO's results, whose "bbox" is [center x, center y, width, height, angle].

    Args:
        instances: on the CPU, with `pred_boxes` (oriented, or upright, which get the angle 0), `scores` and
            `pred_classes`.
    """
    boxes = instances.pred_boxes.tensor
    if not isinstance(instances.pred_boxes, RotatedBoxes):
        boxes = with_angles(BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS))
    rows = zip(boxes.tolist(), instances.scores.tolist(), instances.pred_classes.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
        for box, score, label in rows
    ]


@dataclass(frozen=True)
class Curve:
    """Precision by recall of one class, for each IoU of IOUS. Without objects, its figures are NaN.

    Attributes:
        recall, precision: a list of arrays (D,) float64 in 0..1, in descending order of the scores.
        objects: how many there are to find.
    """

    recall: Sequence[np.ndarray]
    precision: Sequence[np.ndarray]
    objects: int

    def area(self) -> np.ndarray:
        """Area under the curve, with the best precision from each recall on: (IoUs,) in 0..1, or NaN."""
        return self._each(_area)

    def eleven_points(self) -> np.ndarray:
        """Mean of the best precision from recalls 0, 0.1, ... 1 on: (IoUs,) in 0..1, or NaN."""
        return self._each(_eleven_points)

    def _each(self, rule) -> np.ndarray:
        if not self.objects:
            return np.full(len(IOUS), np.nan)
        return np.array([rule(r, p) for r, p in zip(self.recall, self.precision, strict=True)])


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    steps = np.diff(recall, prepend=0.0)
    return float((steps * np.maximum.accumulate(precision[::-1])[::-1]).sum())


def _eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    # Ten times the recall, so that 3 of 10 objects are a recall of 0.3 in spite of rounding.
    return float(np.mean([precision[recall * 10 >= k - 1e-9].max(initial=0.0) for k in range(11)]))


def match(truth: list[dict], found: list[dict]) -> Curve:
    """The curve of one class, from its objects and detections in all images."""
    objects = defaultdict(list)
    for a in truth:
        objects[a["image_id"]].append(a)
    scores = np.array([r["score"] for r in found])
    best = np.zeros(len(found))
    owner = np.full(len(found), -1)
    ignored = []
    numbers = {}
    for image, some in objects.items():
        numbers[image] = len(ignored)
        ignored += [bool(a.get("iscrowd")) for a in some]
    of_image = defaultdict(list)
    for i, r in enumerate(found):
        of_image[r["image_id"]].append(i)
    for image, rows in of_image.items():
        if some := objects.get(image):
            overlaps = pairwise_iou(_boxes([found[i] for i in rows]), _boxes(some)).numpy()
            best[rows] = overlaps.max(1)
            owner[rows] = overlaps.argmax(1) + numbers[image]
    order = np.argsort(-scores, kind="stable")
    best, owner = best[order], owner[order]
    crowd = np.array([*ignored, False])[owner]
    recalls, precisions = [], []
    total = len(ignored) - sum(ignored)
    for iou in IOUS:
        near = best > iou
        hits = near & ~crowd
        first = np.zeros(len(order), bool)
        first[np.flatnonzero(hits)[np.unique(owner[hits], return_index=True)[1]]] = True
        counted = ~(near & crowd)
        right = np.cumsum(first[counted])
        recalls.append(right / max(total, 1))
        precisions.append(right / np.arange(1, len(right) + 1))
    return Curve(recalls, precisions, total)


def _boxes(entries: list[dict]) -> torch.Tensor:
    """(N, 5) float64 boxes of annotations or results."""
    return with_angles(torch.tensor([e["bbox"] for e in entries], dtype=torch.float64))


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the figures that are no NaN, on 0..100; NaN without any."""
    return 100 * mean(np.asarray(values))
