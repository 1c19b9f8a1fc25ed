"""How well the predictions for one image fit its ground truth, for pages that sort and filter pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode, Instances, RotatedBoxes
from torch import Tensor

from ..evaluation.confusion import summary
from ..evaluation.matching import CROWD, MAX_DETECTIONS, NOTHING, match_image
from .panels import class_name

IOU = 0.5  # least IoU of a box and the object that it found


@dataclass
class Outcomes:
    """What became of one class in one image: how many of its objects, or of its areas in label maps.

    Attributes:
        missed: in the ground truth, and not found.
        alarms: predicted, and not there.
    """

    missed: int = 0
    alarms: int = 0


def score_boxes(
    truth: Sequence[dict], prediction: Instances, classes: Sequence[str], threshold: float
) -> dict[str, Any]:
    """Score boxes by F1 on 0..100, matched class by class as COCO does at IoU 0.5.

    Args:
        truth: annotations of a detectron2 dataset dict.
        prediction: `Instances` in pixels of the image.
        classes: names by contiguous class id.
        threshold: least score of a box that counts.

    Returns:
        The fields "score", "remark" and "classes" of a :class:`.contact_sheet.Picture`. The score is None
        where there is nothing to find and nothing was found.
    """
    oriented = any(a["bbox_mode"] == BoxMode.XYWHA_ABS for a in truth)
    mode = BoxMode.XYWHA_ABS if oriented else BoxMode.XYWH_ABS
    objects = [
        {
            "bbox": BoxMode.convert([float(v) for v in a["bbox"]], a["bbox_mode"], mode),
            "label": a["category_id"],
            "iscrowd": a.get("iscrowd", 0),
        }
        for a in truth
    ]
    shown = prediction[prediction.scores >= threshold].to("cpu")
    boxes = shown.pred_boxes.tensor.detach()
    oriented = isinstance(prediction.pred_boxes, RotatedBoxes)
    if not oriented:
        boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    found = [
        {"bbox": box, "label": label, "score": score}
        for box, label, score in zip(
            boxes.tolist(), shown.pred_classes.tolist(), shown.scores.tolist(), strict=True
        )
    ]
    matches = match_image(objects, found, IOU, len(found) if oriented else MAX_DETECTIONS)
    hits, alarms, missed = matches.counts(threshold)
    remark = f"{hits} found, {missed} missed, {alarms} false alarm{'s' * (alarms != 1)}"
    if hits:
        at = np.flatnonzero(matches.matched >= 0)
        remark += f", mean IoU {matches.overlaps[at, matches.matched[at]].mean():.2f}"
    lost = np.delete(matches.objects, matches.matched[matches.matched >= 0])
    wrong = matches.labels[matches.matched == NOTHING]
    seen = {*matches.objects.tolist(), *matches.labels[matches.matched != CROWD].tolist()}
    f1 = matches.f1(threshold)
    return {
        "score": None if f1 is None else 100 * f1,
        "remark": remark,
        "classes": {
            class_name(k, classes): Outcomes(int((lost == k).sum()), int((wrong == k).sum()))
            for k in sorted(seen)
        },
    }


def score_labels(matrix: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Score a label map by its mean IoU on 0..100, over the classes in its ground truth.

    A class counts as missed if the prediction has none of its pixels right, and as a false alarm if the
    ground truth has none of it.

    Args:
        matrix: confusion of the image's pixels, (K, K); rows: ground truth, columns: prediction.
        classes: names by class id.

    Returns:
        The fields "score" and "classes" of a :class:`.contact_sheet.Picture`. The score is None where all
        pixels are ignored.
    """
    truth, predicted, hits = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    miou = summary(matrix)["mIoU"]
    return {
        "score": None if np.isnan(miou) else miou,
        "classes": {
            class_name(k, classes): Outcomes(int(truth[k] > 0 and not hits[k]), int(not truth[k]))
            for k in np.flatnonzero(truth + predicted).tolist()
        },
    }


def score_class(label: int | None, scores: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Score a class prediction by the probability of the image's class, on 0..100.

    Args:
        label: class id, or None where the image has none.
        scores: probabilities (K,).
        classes: names by class id.

    Returns:
        The fields "score" and "classes" of a :class:`.contact_sheet.Picture`.
    """
    best = int(scores.argmax())
    if label is None:
        return {"classes": {class_name(best, classes): Outcomes()}}
    outcomes = {class_name(label, classes): Outcomes(missed=int(best != label))}
    if best != label:
        outcomes[class_name(best, classes)] = Outcomes(alarms=1)
    return {"score": 100 * float(scores[label]), "classes": outcomes}
