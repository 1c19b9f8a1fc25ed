"""Reads box labels in other tools' formats: VOC XML and YOLO text files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from ..errors import UserError, nearest

# (class index from 0, x0, y0, x1, y1) in pixels, x1 and y1 exclusive. The index is None for a class that the
# user chose to ignore.
Box = tuple[int | None, float, float, float, float]


def read_classes(path: Path) -> list[str]:
    """Class names of a YOLO classes.txt: one per line, with or without a leading id."""
    if not path.is_file():
        raise UserError(f"{path} is missing: it names the classes of the YOLO labels, one per line")
    return [re.sub(r"^\d+\s+", "", line.strip()) for line in path.read_text().splitlines() if line.strip()]


def read_voc(path: Path, classes: Sequence[str], ignore: Iterable[str] = ()) -> list[Box]:
    """Boxes of a VOC XML file.

    Args:
        classes: names that count, compared without regard to case.
        ignore: names whose boxes get the class index None.

    Raises:
        UserError: broken XML, an unknown class name, or a box without four numbers.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not readable XML ({error}): fetch it again") from error
    index: dict[str, int | None] = {name.lower(): i for i, name in enumerate(classes)}
    index.update({name.lower(): None for name in ignore})
    boxes = []
    for item in root.iter("object"):
        name = (item.findtext("name") or "").strip()
        if name.lower() not in index:
            hint = nearest(name, classes)
            raise UserError(f"{path}: unknown class {name!r} (known: {', '.join(classes)}){hint}")
        corners = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        x0, y0, x1, y1 = _numbers(corners, f"{path}: the bndbox of a {name}")
        boxes.append((index[name.lower()], x0, y0, x1, y1))
    return boxes


def read_yolo(path: Path, classes: Sequence[str], size: tuple[int, int]) -> list[Box]:
    """Boxes of a YOLO text file, whose lines are ``id xc yc w h`` in fractions of the image.

    Args:
        size: width and height of the image in pixels.

    Raises:
        UserError: a line of another form, an unknown class id, or coordinates in pixels.
    """
    width, height = size
    boxes = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{path}:{number}"
        if len(fields) != 5 or not fields[0].isdigit():
            raise UserError(f"{where}: expected `class xc yc w h`, got {line.strip()!r}")
        if (index := int(fields[0])) >= len(classes):
            last = len(classes) - 1
            raise UserError(f"{where}: unknown class id {index}; the nearest is {last} ({classes[last]})")
        xc, yc, w, h = _numbers(fields[1:], where)
        if max(map(abs, (xc, yc, w, h))) > 2:
            raise UserError(
                f"{where}: {line.strip()!r} is in pixels; divide by the image's size to get fractions"
            )
        x0, y0 = (xc - w / 2) * width, (yc - h / 2) * height
        boxes.append((index, x0, y0, x0 + w * width, y0 + h * height))
    return boxes


def _numbers(texts: Sequence[str | None], where: str) -> list[float]:
    try:
        values = [float(text) for text in texts]
    except (TypeError, ValueError):
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where} is not four numbers: {texts}; fix the file")
    return values
