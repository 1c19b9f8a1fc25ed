"""Which detection is of which object: confusion between classes, missed objects and false alarms.

Detections are matched as COCO does it: within an image and a class, the highest score first, each to the
object that it overlaps most, one to an object. Detections that fit a crowd region alone count nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util
import torch
from torch import Tensor

from ..data.oriented import with_angles
from ..oriented.overlap import intersection, pairwise_iou

NOTHING, CROWD = -1, -2  # what a detection is matched to instead of an object
MAX_DETECTIONS = 100  # how many of each class count in an image by default, COCO's number
NEAR = 1e-10  # COCO's tolerance at the IoU that is asked for


@dataclass(frozen=True)
class ImageMatches:
    """The detections and objects of one image. Detections are in descending order of their scores.

    Attributes:
        scores: (D,) float64.
        labels: (D,) int64, the detections' classes.
        objects: (G,) int64, classes of the objects that are no crowd regions.
        matched: (D,) int64, the object of the same class that a detection found, or NOTHING or CROWD.
        overlaps: (D, G) float64, IoUs in 0..1.
        iou: the least IoU of a match.
    """

    scores: np.ndarray
    labels: np.ndarray
    objects: np.ndarray
    matched: np.ndarray
    overlaps: np.ndarray
    iou: float

    def counts(self, threshold: float) -> tuple[int, int, int]:
        """Numbers of objects found, false alarms and objects missed, from scores of `threshold` on."""
        matched = self.matched[self.scores >= threshold]
        found = int((matched >= 0).sum())
        return found, int((matched == NOTHING).sum()), len(self.objects) - found

    def f1(self, threshold: float) -> float | None:
        """F1 in 0..1 from scores of `threshold` on; None without any object or detection that counts."""
        found, alarms, missed = self.counts(threshold)
        return 2 * found / (2 * found + alarms + missed) if found + alarms + missed else None


def match_image(
    truth: Sequence[Mapping], detections: Sequence[Mapping], iou: float = 0.5, limit: int = MAX_DETECTIONS
) -> ImageMatches:
    """Match the detections of one image to its objects of the same class.

    Args:
        truth: objects with "bbox" (x, y, width, height in pixels; or an oriented box of five numbers),
            "label" and "iscrowd".
        detections: those of the image, with "bbox", "label" and "score", in any order.
        iou: the least IoU of a match. With a crowd region, the share of the detection inside it counts.
        limit: how many of the highest-scoring detections of each class count.
    """
    scores = np.array([d["score"] for d in detections], float)
    labels = np.array([d["label"] for d in detections], np.int64)
    order = np.argsort(-scores, kind="stable")
    counted = np.zeros(len(order), bool)
    for k in np.unique(labels):
        counted[order[labels[order] == k][:limit]] = True
    order = order[counted[order]]
    scores, labels = scores[order], labels[order]
    crowd = np.array([bool(o.get("iscrowd")) for o in truth], bool)
    of_object = np.array([o["label"] for o in truth], np.int64)
    overlaps = np.zeros((len(order), len(truth)))
    if overlaps.size:
        boxes = [np.array([d["bbox"] for d in part], float) for part in (detections, truth)]
        if 5 in (boxes[0].shape[1], boxes[1].shape[1]):
            found, objects = (with_angles(torch.from_numpy(b)) for b in boxes)
            overlaps = _oriented_overlaps(found[order], objects, crowd)
        else:
            overlaps = np.asarray(mask_util.iou(boxes[0][order], boxes[1], crowd.astype(np.uint8)))
    real, crowds = np.flatnonzero(~crowd), np.flatnonzero(crowd)
    matched = np.full(len(order), NOTHING)
    free = np.ones(len(real), bool)
    for d, label in enumerate(labels):
        at = np.where(free & (of_object[real] == label), overlaps[d, real], -1.0)
        # Of equal overlaps COCO takes the last one.
        best = len(at) - 1 - int(np.argmax(at[::-1])) if len(at) else NOTHING
        if len(at) and at[best] >= min(iou, 1 - NEAR):
            matched[d], free[best] = best, False
        elif (overlaps[d, crowds[of_object[crowds] == label]] >= min(iou, 1 - NEAR)).any():
            matched[d] = CROWD
    return ImageMatches(scores, labels, of_object[real], matched, overlaps[:, real], iou)


def _oriented_overlaps(found: Tensor, objects: Tensor, crowd: np.ndarray) -> np.ndarray:
    """IoU (D, G) of oriented boxes (D, 5) and (G, 5); with a crowd region, the share of a detection in it."""
    overlaps = pairwise_iou(found, objects).numpy()
    for g in np.flatnonzero(crowd):
        shared = intersection(found, objects[g].expand_as(found)).numpy()
        overlaps[:, g] = shared / np.maximum(found[:, 2:4].prod(1).numpy(), 1e-12)
    return overlaps


def box_confusion(images: Sequence[ImageMatches], classes: int, threshold: float) -> np.ndarray:
    """Confusion matrix (K + 1, K + 1) int64 of boxes; rows: objects, columns: detections.

    The last column counts missed objects, the last row false alarms. The diagonal has the matches within a
    class. What these leave over is matched across classes, by score as well.

    Args:
        threshold: least score of a detection that counts.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for image in images:
        counted = np.flatnonzero(image.scores >= threshold)
        matched = image.matched[counted]
        free = np.ones(len(image.objects), bool)
        free[matched[matched >= 0]] = False
        for d in counted:
            label, own = image.labels[d], image.matched[d]
            if own >= 0:
                matrix[image.objects[own], label] += 1
            elif own == NOTHING:
                at = np.where(free, image.overlaps[d], -1.0)
                other = int(np.argmax(at)) if len(at) else 0
                if len(at) and at[other] >= image.iou:
                    free[other] = False
                    matrix[image.objects[other], label] += 1
                else:
                    matrix[classes, label] += 1
        np.add.at(matrix, (image.objects[free], classes), 1)
    return matrix


@dataclass(frozen=True)
class ThresholdCurve:
    """Precision, recall and F1 by the score from which detections count: (N,) float64 each, in 0..1.

    Attributes:
        thresholds: the scores that occur, in descending order.
        precision, recall, f1: of all detections with at least that score.
        objects: how many there are to find.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    objects: int

    @property
    def best(self) -> int | None:
        """Position of the highest F1, of equal ones that of the highest score; None without any."""
        return int(np.argmax(self.f1)) if len(self.f1) and self.f1.max() > 0 else None


def threshold_curve(images: Sequence[ImageMatches], label: int | None = None) -> ThresholdCurve:
    """The curve of one class, or of all classes together."""

    def of_label(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return values if label is None else values[labels == label]

    scores = np.concatenate([np.zeros(0), *(of_label(i.scores, i.labels) for i in images)])
    matched = np.concatenate([np.zeros(0), *(of_label(i.matched, i.labels) for i in images)])
    objects = sum(len(of_label(i.objects, i.objects)) for i in images)
    scores, matched = scores[matched != CROWD], matched[matched != CROWD]
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(matched[order] >= 0)
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of each score
    hits, counted = hits[last], last + 1
    return ThresholdCurve(
        scores[last],
        hits / counted,
        hits / objects if objects else np.zeros(len(hits)),
        2 * hits / (counted + objects),
        objects,
    )
