"""Reads the labels of VEDAI: vehicles in aerial images, with oriented boxes."""

from __future__ import annotations

from pathlib import Path

from ...errors import UserError
from ...utils.text import read_lines, whole_number
from ..annotations import Box

# Ids in the files -> the nine classes that papers report, in the order of their ids.
CLASSES = {
    1: "car",
    2: "truck",
    4: "tractor",
    5: "camping car",
    9: "van",
    10: "other",
    11: "pickup",
    23: "boat",
    31: "plane",
}
# Too few of them to be measured: motorcycles and buses.
LEFT_OUT = (7, 8)
FIELDS = 14


def read_vedai(path: Path, size: tuple[int, int] | None = None) -> list[Box]:
    """The boxes around the oriented ones of one file; those of classes that are left out have no label.

    Its lines are ``xc yc angle class contained occluded x1 x2 x3 x4 y1 y2 y3 y4``, in pixels.

    Raises:
        UserError: a line of another form, or an unknown class.
    """
    labels = {number: i for i, number in enumerate(CLASSES)} | dict.fromkeys(LEFT_OUT)
    boxes = []
    for where, line in read_lines(path):
        texts = line.split()
        try:
            corners = [float(text) for text in texts[6:]]
        except ValueError:
            corners = []
        if len(texts) != FIELDS or not all(abs(value) < 1e6 for value in corners) or not corners:
            raise UserError(
                f"{where}: {line!r:.60} is not 14 numbers of an oriented box: fetch the file again"
            )
        if (number := whole_number(texts[3])) not in labels:
            raise UserError(f"{where}: unknown class {texts[3]!r:.20}: VEDAI has {list(labels)}")
        xs, ys = corners[:4], corners[4:]
        boxes.append(Box(labels[number], min(xs), min(ys), max(xs), max(ys)))
    return boxes
