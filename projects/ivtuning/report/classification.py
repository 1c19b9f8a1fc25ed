"""The details of a classifier: confusion of images, and the accuracy of each class."""

from __future__ import annotations

import numpy as np

from ..data.modalities import TIMES
from ..evaluation.confusion import mean, ratio
from ..pages import section, table, tag
from ..visualization.panels import class_name
from .cells import bar, figure
from .details import Details, ImageScore, confusion_section
from .predictions import Predictions

RULE = "An image's score is the probability of its class."


def class_details(predictions: Predictions) -> Details:
    """Details of class scores."""
    classes = predictions.classes
    total, scores = np.zeros((len(classes), len(classes)), np.int64), {}
    # Each time of day has a matrix of its own.
    times = {t: total.copy() for t in TIMES if any(r.get("time") == t for r in predictions.records)}
    for record in predictions.records:
        found, label = predictions.of(record), record["label"]
        best = int(found.argmax())
        for matrix in (total, times.get(record.get("time"))):
            if matrix is not None:
                matrix[label, best] += 1
        note = f"{class_name(label, classes)} {float(found[label]):.2f}"
        note += "" if best == label else f", predicted {class_name(best, classes)} {float(found[best]):.2f}"
        scores[record["image_id"]] = ImageScore(float(found[label]), 0, note)
    accuracy, top1 = _accuracy(total), _top1(total)
    tiles = [("top-1 accuracy", top1), ("balanced accuracy", mean(accuracy))]
    for time, matrix in times.items():
        tiles += [(f"top-1 by {time}", _top1(matrix)), (f"balanced by {time}", mean(_accuracy(matrix)))]
    columns = [accuracy, *map(_accuracy, times.values())]
    rows = [
        [class_name(k, classes), f"{total[k].sum():,}", *(bar(column[k]) for column in columns)]
        for k in range(len(classes))
        if total[k].sum()
    ]
    sections = [
        section(
            "Classes",
            tag("ul", *(tag("li", tag("b", figure(value)), name) for name, value in tiles), class_="tiles"),
            table(["class", "images", "accuracy", *(f"by {time}" for time in times)], rows),
        ),
        confusion_section(total, classes, "Shares of each row in percent, of images.", unit="images"),
    ]
    return Details(sections, scores, RULE, {"classification/top1": top1})


def _accuracy(matrix: np.ndarray) -> np.ndarray:
    """The accuracy of each class in percent, (K,); NaN without images."""
    return 100 * ratio(matrix.diagonal(), matrix.sum(1))


def _top1(matrix: np.ndarray) -> float:
    """The share of images in percent whose most probable class is theirs."""
    return 100 * float(ratio(matrix.trace(), matrix.sum()))
