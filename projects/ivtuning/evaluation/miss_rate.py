"""Log-average miss rate of pedestrian detectors, by the protocol of KAIST and of Caltech's toolbox.

The miss rate MR^-2 is the geometric mean of the shares of objects that are missed where the detector makes
0.01 to 1 false positives per image. Objects that a subset leaves out, and crowd regions, are ignored: they
need not be found, and detections of which at least half lies in one of them are no false positives.

Images count whether or not they have detections or objects, as in the toolbox. (KAIST's Python code leaves
out the objects of images without any detection.)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_util

from ..data.modalities import TIMES

IOU = 0.5
# Nine numbers of false positives per image, equally spaced in logarithm.
FALSE_POSITIVES = 10.0 ** np.arange(-2, 0.25, 0.25)
# Objects that come closer than this to the image's border are ignored, in pixels.
BORDER = 5
LEAST = 1e-10  # the toolbox's least miss rate, which has a logarithm
NONE, PARTIAL, HEAVY = OCCLUSIONS = (0, 1, 2)  # an annotation's `occlusion`
NOTHING, IGNORED = -1, -2  # what a detection is matched to instead of an object


class Subset(NamedTuple):
    """Which objects count: heights of their boxes in pixels, both ends included, and degrees of occlusion."""

    low: float
    high: float
    occlusions: tuple[int, ...]


# KAIST's subsets. The first is called MR, the others MR-<name>.
REASONABLE, ALL = "reasonable", "all"
SUBSETS = {
    REASONABLE: Subset(55, math.inf, (NONE, PARTIAL)),
    ALL: Subset(20, math.inf, OCCLUSIONS),
    "near": Subset(115, math.inf, (NONE,)),
    "medium": Subset(45, 115, (NONE,)),
    "far": Subset(1, 45, (NONE,)),
    "unoccluded": Subset(1, math.inf, (NONE,)),
    "partially-occluded": Subset(1, math.inf, (PARTIAL,)),
    "heavily-occluded": Subset(1, math.inf, (HEAVY,)),
}
_OCCLUDED = ("unoccluded", "partially-occluded", "heavily-occluded")


class _ImageBoxes(NamedTuple):
    """Detections of one class in an image, the highest score first, and the objects that they may be of.

    Attributes:
        scores: (D,) float64.
        iou: (D, G) IoUs in 0..1.
        inside: (D, G) the share of a detection inside an object, 0..1.
        heights, occlusions: (G,) of the objects.
        ignored: (G,) bool, crowd regions and objects at the border.
        time: "day", "night" or None.
    """

    scores: np.ndarray
    iou: np.ndarray
    inside: np.ndarray
    heights: np.ndarray
    occlusions: np.ndarray
    ignored: np.ndarray
    time: str | None


def metric_names(images: Sequence[Mapping], truth: Sequence[Mapping]) -> list[str]:
    """Names of the figures of :func:`miss_rates` for these images and objects."""
    times = TIMES if any(image.get("time") in TIMES for image in images) else ()
    named = [name for name in SUBSETS if name not in _OCCLUDED or any("occlusion" in a for a in truth)]
    names = []
    for subset in named:
        name = "MR" if subset == REASONABLE else f"MR-{subset}"
        names += [name, *(f"{name}-{time}" for time in times if subset in (REASONABLE, ALL))]
    return names


def miss_rates(
    images: Sequence[Mapping], truth: Sequence[Mapping], detections: Sequence[Mapping]
) -> dict[str, float]:
    """Log-average miss rates on 0..100; lower is better. NaN where a subset has no object.

    Args:
        images: with "id", "width", "height" and perhaps "time".
        truth: with "image_id", "category_id", "bbox" (x, y, width, height in pixels), and perhaps "iscrowd"
            and "occlusion" (0: none, 1: partial, 2: heavy; without the key: none).
        detections: with "image_id", "category_id", "bbox" and "score".

    Returns:
        ``MR`` (height from 55 px, occluded partially at most), ``MR-all`` (height from 20 px), both also
        ``-day`` and ``-night`` where images state it; by height ``MR-near``, ``-medium`` and ``-far``; by
        occlusion ``MR-unoccluded``, ``-partially-occluded`` and ``-heavily-occluded`` where annotations state
        it. With several classes, the mean of those that have an object.
    """
    by_class = _collect(images, truth, detections)
    figures = {}
    for name in metric_names(images, truth):
        base, _, time = name.rpartition("-")
        base, time = (base, time) if time in TIMES else (name, None)
        subset = SUBSETS[base.removeprefix("MR").removeprefix("-") or REASONABLE]
        number = sum(time in (None, image.get("time")) for image in images)
        rates = []
        for boxes in by_class.values():
            chosen = [image for image in boxes if time in (None, image.time)]
            rates.append(log_average(*_curve(chosen, subset), number))
        rates = [rate for rate in rates if not math.isnan(rate)]
        figures[name] = 100 * sum(rates) / len(rates) if rates else math.nan
    return figures


def log_average(scores: np.ndarray, found: np.ndarray, objects: int, images: int) -> float:
    """The geometric mean of the miss rates at :data:`FALSE_POSITIVES`, 0..1; NaN without an object.

    Args:
        scores: (N,) of the detections that count, in the order of the images; equal ones stay in it.
        found: (N,) bool, whether a detection found an object.
        objects: how many there are to find.
        images: in which the detections were made.
    """
    if not objects:
        return math.nan
    found = found[np.argsort(-scores, kind="stable")]
    hits, alarms = np.cumsum(found), np.cumsum(~found) / images
    # Detections up to the last one at which there are at most so many false positives.
    last = np.searchsorted(alarms, FALSE_POSITIVES, side="right")
    recall = np.append(0, hits)[last] / objects
    return float(np.exp(np.log(np.maximum(LEAST, 1 - recall)).mean()))


def _collect(
    images: Sequence[Mapping], truth: Sequence[Mapping], detections: Sequence[Mapping]
) -> dict[int, list[_ImageBoxes]]:
    """The boxes of each class, image by image."""
    boxes: dict[tuple, tuple[list, list]] = defaultdict(lambda: ([], []))
    for number, part in enumerate((truth, detections)):
        for box in part:
            boxes[box["image_id"], box["category_id"]][number].append(box)
    classes: dict[int, list[_ImageBoxes]] = {label: [] for label in sorted({label for _, label in boxes})}
    for image in images:
        for label, collected in classes.items():
            if (image["id"], label) in boxes:
                collected.append(_image_boxes(image, *boxes[image["id"], label]))
    return classes


def _image_boxes(image: Mapping, objects: Sequence[Mapping], detections: Sequence[Mapping]) -> _ImageBoxes:
    detections = sorted(detections, key=lambda d: -d["score"])  # which keeps the order of equal ones
    found = np.array([d["bbox"] for d in detections], np.float64).reshape(-1, 4)
    true = np.array([o["bbox"] for o in objects], np.float64).reshape(-1, 4)
    iou, inside = np.zeros((2, len(found), len(true)))
    if iou.size:
        iou = np.asarray(mask_util.iou(found, true, np.zeros(len(true), np.uint8)))
        inside = np.asarray(mask_util.iou(found, true, np.ones(len(true), np.uint8)))
    ends = true[:, :2] + true[:, 2:]
    border = (true[:, :2] < BORDER).any(1)
    border |= (ends > (image["width"] - BORDER, image["height"] - BORDER)).any(1)
    return _ImageBoxes(
        np.array([d["score"] for d in detections], np.float64),
        iou,
        inside,
        true[:, 3],
        np.array([o.get("occlusion", NONE) for o in objects], np.int64),
        border | np.array([bool(o.get("iscrowd")) for o in objects], bool),
        image.get("time"),
    )


def _curve(images: Sequence[_ImageBoxes], subset: Subset) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores of the detections that count, whether each found an object, and the number of objects."""
    scores, found, objects = [np.zeros(0)], [np.zeros(0, bool)], 0
    for image in images:
        ignored = image.ignored | (image.heights < subset.low) | (image.heights > subset.high)
        ignored |= ~np.isin(image.occlusions, subset.occlusions)
        matched = _match(image, ignored)
        counted = matched != IGNORED
        scores.append(image.scores[counted])
        found.append(matched[counted] != NOTHING)
        objects += int((~ignored).sum())
    return np.concatenate(scores), np.concatenate(found), objects


def _match(image: _ImageBoxes, ignored: np.ndarray) -> np.ndarray:
    """(D,) int64: the object that a detection found, or NOTHING or IGNORED.

    Each detection, the highest score first, takes the free object that it overlaps most, of equal ones the
    last. Ignored objects take any number of those that are left.
    """
    matched = np.full(len(image.scores), NOTHING)
    if not image.iou.size:
        return matched
    free = ~ignored
    fits, hidden = image.iou >= IOU, (image.inside[:, ignored] >= IOU).any(1)
    for d in np.flatnonzero(fits[:, free].any(1) | hidden):
        overlaps = np.where(free & fits[d], image.iou[d], -1.0)
        best = len(overlaps) - 1 - int(np.argmax(overlaps[::-1]))
        if overlaps[best] >= 0:
            matched[d], free[best] = best, False
        elif hidden[d]:
            matched[d] = IGNORED
    return matched
