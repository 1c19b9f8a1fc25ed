"""What a task's predictions come to: sections of the page, and a score for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..pages import Html, section, table, tag
from ..visualization.panels import class_name
from .cells import confusion_table

LARGEST_MATRIX = 40  # classes; of more, the page lists the most frequent confusions


@dataclass
class ImageScore:
    """How good the prediction of one image is.

    Attributes:
        score: in 0..1, 1 is best.
        weight: of images with equal scores, the one with more of it is worse among the worst, and better
            among the best: such as the number of errors or objects.
        note: the score in words.
    """

    score: float
    weight: float
    note: str


@dataclass
class Details:
    """What the page says about predictions.

    Attributes:
        sections: of the page.
        scores: by "image_id"; images that nothing can be said about are left out.
        rule: how an image is scored, in a sentence.
        figures: figures computed from the predictions by "task/name", on 0..100, to compare with those of the
            evaluation.
        threshold: least score of boxes in pictures.
    """

    sections: list[Html]
    scores: dict[Any, ImageScore]
    rule: str
    figures: dict[str, float] = field(default_factory=dict)
    threshold: float = 0.5


def confusion_section(
    matrix: np.ndarray, classes: Sequence[str], note: str, background: Sequence[str] = (), unit: str = ""
) -> Html:
    """A section with a confusion matrix, rows: ground truth; with many classes, of its largest errors.

    Args:
        matrix: (K, K) counts, or (K + 1, K + 1) with a background.
        classes: names by label; further labels are shown as numbers.
        background: what the last row and the last column are called, where there is one.
        unit: what is counted.
    """
    count = len(matrix) - bool(background)
    names = [class_name(k, classes) for k in range(count)]
    rows, columns = [*names, *background[:1]], [*names, *background[1:]]
    if count <= LARGEST_MATRIX:
        body = confusion_table(matrix, rows, columns, "truth ↓ prediction →")
    else:
        errors = matrix.copy()
        np.fill_diagonal(errors, 0)
        largest = np.argsort(-errors, axis=None, kind="stable")[:20]
        pairs = [np.unravel_index(place, errors.shape) for place in largest]
        listed = [(rows[i], columns[j], f"{errors[i, j]:,}") for i, j in pairs if errors[i, j]]
        body = table(["truth", "prediction", unit], listed)
    return section("Confusion", tag("p", note, class_="note"), body)
