"""The details of a segmentor: confusion of pixels, and figures of each class."""

from __future__ import annotations

import numpy as np

from ..data.labels import IGNORE, read_labels
from ..evaluation.confusion import confusion, per_class, ratio, summary
from ..evaluation.saliency import labels_of
from ..pages import section, table
from ..utils.progress import track
from ..visualization.panels import class_name
from .cells import bar
from .details import Details, ImageScore, confusion_section
from .predictions import Predictions

RULE = "An image's score is its mean IoU over the classes that its ground truth has."


def label_details(predictions: Predictions) -> Details:
    """Details of label maps."""
    count = len(predictions.classes)
    total, scores = np.zeros((count, count), np.int64), {}
    for record in track(predictions.records, "comparing"):
        truth, found = read_labels(record), labels_of(predictions.of(record))
        matrix = confusion(truth, found, count)
        total += matrix
        if matrix.sum():
            figures = summary(matrix)
            wrong = int((truth != found)[truth != IGNORE].sum())
            note = f"mIoU {figures['mIoU']:.1f}, pixel accuracy {figures['pACC']:.1f}"
            scores[record["image_id"]] = ImageScore(figures["mIoU"] / 100, wrong, note)
    iou, accuracy = per_class(total)
    # What is predicted as a class and is of it.
    precision = 100 * ratio(total.diagonal(), total.sum(0))
    share = 100 * ratio(total.sum(1), total.sum())
    rows = [
        [
            class_name(k, predictions.classes),
            f"{share[k]:.2f}",
            *map(bar, (iou[k], accuracy[k], precision[k])),
        ]
        for k in range(count)
    ]
    head = ["class", "% of pixels", "IoU", "accuracy (recall)", "precision"]
    note = "Shares of each row in percent, of pixels that are not ignored."
    sections = [
        section("Classes", table(head, rows)),
        confusion_section(total, predictions.classes, note, unit="pixels"),
    ]
    return Details(sections, scores, RULE, {"sem_seg/mIoU": summary(total)["mIoU"]})
