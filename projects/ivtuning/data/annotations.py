"""Reads box labels in other tools' formats: VOC XML and YOLO text files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from ..errors import UserError, nearest
from ..utils.text import read_lines, whole_number
from ..utils.xml import read_xml

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DIFFICULT = {"": False, "0": False, "false": False, "unspecified": False, "1": True, "true": True}
# Extra numbers that an oriented box of roLabelImg has: center, size and angle in radians.
_ROTATED = ("cx", "cy", "w", "h", "angle")


class Box(NamedTuple):
    """A labeled box in pixels, `x1` and `y1` exclusive.

    Attributes:
        label: class index from 0; None for a class that the user chose to ignore.
        crowd: counts neither as found nor as missed, and is not trained on: an object marked difficult.
        occlusion: 0 for none, 1 for partial, 2 for heavy; None where the labels do not state it.
        modality: "both", "visible" or "infrared", by which image shows it; None where that is unknown.
    """

    label: int | None
    x0: float
    y0: float
    x1: float
    y1: float
    crowd: bool = False
    occlusion: int | None = None
    modality: str | None = None


def check_classes(names: Sequence[str], where: str) -> list[str]:
    """The stripped class names; UserError if one is empty or, whatever its case, there twice."""
    names = [name.strip() for name in names]
    if not all(names):
        raise UserError(f"{where}: class {names.index('') + 1} of {len(names)} has an empty name; remove it")
    folded = [name.lower() for name in names]
    if twice := [name for name in names if folded.count(name.lower()) > 1]:
        raise UserError(f"{where}: class {twice[-1]!r} is there twice; remove one")
    return names


def read_classes(path: Path) -> list[str]:
    """Class names of a YOLO classes.txt: one per line, all with ids that count from 0, or all without.

    Raises:
        UserError: the file is missing or unreadable, has no name, one twice, or ids in another order.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: it names the classes of the YOLO labels, one per line")
    lines = list(read_lines(path))
    numbered = [re.fullmatch(r"([0-9]+):?\s+(\S.*)", line) for _, line in lines]
    if not lines:
        raise UserError(f"{path} names no class: write one per line")
    if not all(numbered):
        return check_classes([line for _, line in lines], str(path))
    for number, (match, (where, line)) in enumerate(zip(numbered, lines, strict=True)):
        if int(match[1]) != number:
            raise UserError(f"{where}: {line!r} has another id than {number}; number the classes from 0")
    return check_classes([match[2] for match in numbered], str(path))


def read_voc(
    path: Path, classes: Sequence[str], size: tuple[int, int] | None = None, ignore: Iterable[str] = ()
) -> list[Box]:
    """Boxes of a VOC XML file.

    An object's place is its ``bndbox``, or the box around its ``polygon`` or ``robndbox``.

    Args:
        classes: names that count, compared without regard to case.
        size: width and height of the image in pixels, which the file's ``size`` must agree with; 0x0 means
            that its writer did not know it. None: not compared.
        ignore: names whose boxes get no label.

    Raises:
        UserError: an unreadable file or one of another kind, another size, an unknown class name, or corners
            that are not four finite numbers in order.
    """
    root = read_xml(path)
    if root.tag != "annotation":
        raise UserError(f"{path} is no VOC file: its root is <{root.tag}>, not <annotation>")
    if size is not None:
        _check_size(root, size, path)
    index: dict[str, int | None] = {name.lower(): i for i, name in enumerate(classes)}
    index.update({name.lower(): None for name in ignore})
    boxes = []
    for item in root.iter("object"):
        name = (item.findtext("name") or "").strip()
        if name.lower() not in index:
            hint = nearest(name, classes)
            raise UserError(f"{path}: unknown class {name!r} (known: {', '.join(classes)}){hint}")
        difficult = (item.findtext("difficult") or "").strip().lower()
        if difficult not in _DIFFICULT:
            raise UserError(f"{path}: a {name} has difficult={difficult!r}: write 0 or 1")
        corners = _corners(item, f"{path}: the box of a {name}")
        boxes.append(Box(index[name.lower()], *corners, _DIFFICULT[difficult]))
    return boxes


def _check_size(root: Element, size: tuple[int, int], path: Path) -> None:
    texts = [(root.findtext(f"size/{key}") or "0").strip() for key in ("width", "height")]
    stated = [whole_number(text) for text in texts]
    if None in stated:
        raise UserError(f"{path}: its size {'x'.join(texts)} is not two whole numbers; fix the file")
    if any(own not in (0, true) for own, true in zip(stated, size, strict=True)):
        raise UserError(
            f"{path} was made on an image of {stated[0]}x{stated[1]}, but its image is {size[0]}x{size[1]}: "
            "take labels and images of one release, or scale the boxes and correct the size"
        )


def _corners(item: Element, where: str) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) of an object, from the first form of its place that it has."""
    box, polygon, rotated = (item.find(key) for key in ("bndbox", "polygon", "robndbox"))
    if box is not None and (box.find("xmin") is not None or polygon is rotated is None):
        points = points_of(box)
        if not points:
            x0, y0, x1, y1 = numbers_of([box.findtext(key) for key in _CORNERS], where)
            if x1 < x0 or y1 < y0:
                raise UserError(
                    f"{where} has corners ({x0:g}, {y0:g}) and ({x1:g}, {y1:g}), which are "
                    "not in order: write xmin, ymin, xmax, ymax, not width and height"
                )
            return x0, y0, x1, y1
    elif polygon is not None:
        points = points_of(polygon)
    elif rotated is not None:
        cx, cy, w, h, angle = numbers_of([rotated.findtext(key) for key in _ROTATED], where)
        if w < 0 or h < 0:
            raise UserError(f"{where} has a negative size {w:g}x{h:g}; fix the file")
        wide = abs(w * math.cos(angle)) + abs(h * math.sin(angle))
        tall = abs(w * math.sin(angle)) + abs(h * math.cos(angle))
        return cx - wide / 2, cy - tall / 2, cx + wide / 2, cy + tall / 2
    else:
        raise UserError(f"{where} has no bndbox, polygon or robndbox; fix the file, or remove the object")
    return _box_around(numbers_of(points, where), where)


def points_of(polygon: Element) -> list[str | None]:
    """Texts x, y, x, y ... of ``<x1> <y1> <x2> ...`` or of ``<pt><x><y></pt> ...``; else none."""
    if polygon.find("pt") is not None:
        return [pt.findtext(key) for pt in polygon.iter("pt") for key in ("x", "y")]
    ids = [child.tag[1:] for child in polygon if re.fullmatch(r"x[0-9]+", child.tag)]
    return [polygon.findtext(axis + number) for number in ids for axis in ("x", "y")]


def _box_around(values: Sequence[float], where: str) -> tuple[float, float, float, float]:
    """The box around a polygon x, y, x, y ..."""
    if len(values) < 6 or len(values) % 2:
        raise UserError(f"{where} is a polygon of {len(values)} numbers: give x and y of 3 or more points")
    xs, ys = values[::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def read_yolo(path: Path, classes: Sequence[str], size: tuple[int, int]) -> list[Box]:
    """Boxes of a YOLO text file, whose lines are ``class xc yc w h`` in fractions of the image.

    Polygons, ``class x1 y1 x2 y2 ...`` of 3 or more points, become the boxes around them.

    Args:
        size: width and height of the image in pixels.

    Raises:
        UserError: a line of another form, an unknown class id, negative sizes, or coordinates in pixels.
    """
    width, height = size
    boxes = []
    for where, line in read_lines(path):
        first, *rest = line.split()
        index = whole_number(first)
        if index is None or (len(rest) != 4 and (len(rest) < 6 or len(rest) % 2)):
            confidence = "; a confidence is for predictions: remove it from labels" if len(rest) == 5 else ""
            raise UserError(f"{where}: expected `class xc yc w h`, got {_cut(line)}{confidence}")
        if not 0 <= index < len(classes):
            last = len(classes) - 1
            raise UserError(f"{where}: unknown class id {index}; the nearest is {last} ({classes[last]})")
        values = numbers_of(rest, where)
        if max(map(abs, values)) > 2:
            raise UserError(
                f"{where}: {_cut(line)} is in pixels; divide by the image's size to get fractions"
            )
        if len(values) > 4 and max(values) > 1.5:  # no corner reaches so far out, but key points have a 2
            raise UserError(f"{where}: {_cut(line)} is no polygon in the image; key points are not read")
        if len(values) == 4:
            xc, yc, w, h = values
            if w < 0 or h < 0:
                raise UserError(f"{where}: {_cut(line)} has a negative size; write `class xc yc w h`")
            x0, y0 = (xc - w / 2) * width, (yc - h / 2) * height
            corners = x0, y0, x0 + w * width, y0 + h * height
        else:
            x0, y0, x1, y1 = _box_around(values, where)
            corners = x0 * width, y0 * height, x1 * width, y1 * height
        boxes.append(Box(index, *corners))
    return boxes


def _cut(line: str) -> str:
    return repr(line if len(line) <= 60 else f"{line[:57]}...")


def numbers_of(texts: Sequence[str | None], where: str) -> list[float]:
    """The finite numbers that `texts` are; UserError, which begins with `where`, if one is none."""
    try:
        values = [float(text) for text in texts]
    except (TypeError, ValueError):
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        count = "four" if len(texts) == 4 else str(len(texts))
        shown = ", ".join(map(str, texts[:8])) + (", ..." if len(texts) > 8 else "")
        raise UserError(f"{where} is not {count} numbers: {shown}; fix the file")
    return values
