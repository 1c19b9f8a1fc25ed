"""Reads oriented labels of releases, and makes the COCO JSON of their boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...errors import UserError, nearest
from ...oriented.boxes import from_polygons
from ...oriented.overlap import pairwise_iou
from ...utils.text import read_lines
from ...utils.xml import read_xml
from ..annotations import numbers_of, points_of
from ..oriented import corner_fault
from .coco import check_dropped
from .merging import merged


class OrientedBox(NamedTuple):
    """A labeled box.

    Attributes:
        label: class index from 0.
        corners: (4, 2) float64 in pixels, in order around the box.
        crowd: counts neither as found nor as missed, and is not trained on: an object marked difficult.
    """

    label: int
    corners: np.ndarray
    crowd: bool = False


def read_polygons(path: Path, classes: Mapping[str, int | None]) -> list[OrientedBox]:
    """The boxes of a VOC XML file whose objects have a ``polygon`` of four points, or a ``bndbox``.

    Args:
        classes: index by name in lower case; None leaves a name out.

    Raises:
        UserError: an unreadable file, an unknown class, or an object without four points.
    """
    boxes = []
    for item in read_xml(path).iter("object"):
        name = (item.findtext("name") or "").strip()
        if name.lower() not in classes:
            known = [key for key, index in classes.items() if index is not None]
            raise UserError(
                f"{path}: unknown class {name!r} (known: {', '.join(known)}){nearest(name, known)}"
            )
        if (label := classes[name.lower()]) is None:
            continue
        where = f"{path}: the box of a {name}"
        polygon, upright = item.find("polygon"), item.find("bndbox")
        if polygon is not None:
            values = numbers_of(points_of(polygon), where)
        elif upright is not None:
            keys = ("xmin", "ymin", "xmax", "ymin", "xmax", "ymax", "xmin", "ymax")
            values = numbers_of([upright.findtext(key) for key in keys], where)
        else:
            raise UserError(f"{where} has no polygon or bndbox; fix the file, or remove the object")
        if len(values) != 8:
            raise UserError(f"{where} has {len(values) / 2:g} points, not four; fix the file")
        difficult = (item.findtext("difficult") or "").strip().lower() in ("1", "true")
        boxes.append(OrientedBox(label, np.array(values).reshape(4, 2), difficult))
    return boxes


def read_dota(path: Path, classes: Sequence[str]) -> list[OrientedBox]:
    """The boxes of a text file of DOTA, whose lines are ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``.

    Lines such as ``gsd:0.15`` at its head are passed over.

    Raises:
        UserError: a line of another form, or an unknown class.
    """
    known = {name.lower(): i for i, name in enumerate(classes)}
    boxes = []
    for where, line in read_lines(path):
        if line.lower().startswith(("imagesource:", "gsd:")):
            continue
        parts = line.split()
        if len(parts) not in (9, 10):
            raise UserError(f"{where}: expected `x1 y1 ... x4 y4 class difficult`, got {line[:60]!r}")
        if parts[8].lower() not in known:
            raise UserError(
                f"{where}: unknown class {parts[8]!r} (known: {', '.join(classes)})"
                f"{nearest(parts[8], classes)}"
            )
        corners = np.array(numbers_of(parts[:8], where)).reshape(4, 2)
        boxes.append(OrientedBox(known[parts[8].lower()], corners, parts[9:] in (["1"], ["2"])))
    return boxes


def usable(
    boxes: Iterable[OrientedBox], size: tuple[int, int], dropped: Dropped, path: Path
) -> list[tuple[OrientedBox, np.ndarray]]:
    """Those of `boxes` that can be learned, each with its (5,) form; the others are counted.

    Args:
        size: width and height of the image in pixels, which must hold a box's center.
        path: the label file, for messages.
    """
    kept = []
    for box in boxes:
        values = from_polygons(box.corners[None])[0]
        if corner_fault(box.corners):
            reason = "crosses itself, or has fewer than four different corners"
        elif values[2:4].min() < 1:
            reason = "under 1 px wide or high"
        elif (values[:2] < 0).any() or (values[:2] > size).any():
            reason = "center outside the image"
        else:
            reason = ""
            kept.append((box, values))
        dropped.add(box.label, reason, path)
    return kept


class Dropped:
    """Counts boxes by class, those that cannot be used by reason, and remembers an example of each class."""

    def __init__(self) -> None:
        self.totals, self.lost, self.reasons, self.examples = Counter(), Counter(), Counter(), {}

    def add(self, label: int, reason: str, path: Path) -> None:
        """Count a box, which can be used if `reason` is ""."""
        self.totals[label] += 1
        if reason:
            self.lost[label] += 1
            self.reasons[f"boxes skipped: {reason}"] += 1
            self.examples.setdefault(label, f"{path} has one ({reason})")

    def check(self, classes: Sequence[str], part: str) -> Counter:
        """The counts by reason; UserError if over 2 % of the boxes, or all of a class, cannot be used."""
        check_dropped(self.totals, self.lost, self.examples, classes, part)
        return self.reasons


def objects_of(
    visible: Sequence[tuple[OrientedBox, np.ndarray]], infrared: Sequence[tuple[OrientedBox, np.ndarray]]
) -> list[tuple[OrientedBox, np.ndarray, str]]:
    """The objects of both labels with their modality, see :func:`.merging.merged`; they have one class."""
    overlaps = torch.zeros(len(infrared), len(visible))
    if visible and infrared:
        overlaps = pairwise_iou(
            *(torch.from_numpy(np.stack([v for _, v in side])) for side in (infrared, visible))
        )
        same = torch.tensor([[a.label == b.label for b, _ in visible] for a, _ in infrared])
        overlaps = torch.where(same, overlaps, 0.0)
    objects = merged(visible, infrared, overlaps.numpy())
    return [(box, values, modality) for (box, values), modality in objects]


def annotation(number: int, image: int, box: OrientedBox, values: np.ndarray, **more: object) -> dict:
    """An annotation of a COCO JSON, whose bbox is [center x, center y, width, height, angle]."""
    return {
        "id": number,
        "image_id": image,
        "category_id": box.label + 1,
        "bbox": [round(float(v), 3) for v in values],
        "area": round(float(values[2] * values[3]), 2),
        "iscrowd": int(box.crowd),
        **more,
    }
