"""The details of a classifier: confusion of images, and the accuracy of each class."""

from __future__ import annotations

import numpy as np

from ..evaluation.confusion import mean, ratio
from ..visualization.panels import class_name
from .details import Details, ImageScore, confusion_section
from .html import bar, figure, section, table, tag
from .predictions import Predictions

RULE = "An image's score is the probability of its class."


def class_details(predictions: Predictions) -> Details:
    """Details of class scores."""
    classes = predictions.classes
    total, scores = np.zeros((len(classes), len(classes)), np.int64), {}
    for record in predictions.records:
        found, label = predictions.of(record), record["label"]
        best = int(found.argmax())
        total[label, best] += 1
        note = f"{class_name(label, classes)} {float(found[label]):.2f}"
        note += "" if best == label else f", predicted {class_name(best, classes)} {float(found[best]):.2f}"
        scores[record["image_id"]] = ImageScore(float(found[label]), 0, note)
    accuracy = 100 * ratio(total.diagonal(), total.sum(1))
    top1 = 100 * float(ratio(total.trace(), total.sum()))
    tiles = [("top-1 accuracy", top1), ("balanced accuracy", mean(accuracy))]
    rows = [
        [class_name(k, classes), f"{total[k].sum():,}", bar(accuracy[k])]
        for k in range(len(classes))
        if total[k].sum()
    ]
    sections = [
        section(
            "Classes",
            tag("ul", *(tag("li", tag("b", figure(value)), name) for name, value in tiles), class_="tiles"),
            table(["class", "images", "accuracy"], rows),
        ),
        confusion_section(total, classes, "Shares of each row in percent, of images.", unit="images"),
    ]
    return Details(sections, scores, RULE, {"classification/top1": top1})
