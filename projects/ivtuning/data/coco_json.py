"""Reads the COCO JSON of a detection set: the one content that training, evaluation and pictures share."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..utils.heap import collector_paused
from . import catalog, oriented
from .faults import faults, name_of, refuse
from .masks import NO_MASK, polygons

logger = logging.getLogger("ivtuning.data")
# A larger share of boxes that cannot be learned means that the whole set was made with other sizes or units.
MOST_UNUSABLE = 0.02


@collector_paused()
def read_coco(
    json_file: str | Path,
    known: Mapping[str, catalog.KnownSet],
    image_root: str | Path | None = None,
    paired: bool = False,
) -> dict:
    """The content of a COCO JSON, checked and in one form.

    In that form, ``iscrowd`` is 0 or 1, and 1 where the JSON says ``"ignore": 1``; ``segmentation`` is there
    only if it can be decoded (a polygon of fewer than three points cannot, but its object keeps its box);
    names of classes have no spaces around them, paths no backslashes, and optional keys are not null.

    A box that is empty, or of which less than half is inside the image, is left out with a warning, and so is
    part of neither training nor evaluation. Other boxes that stick out stay as they are.

    Oriented boxes become detectron2's, see :func:`.oriented.convert`; those whose center is
    outside the image are left out.

    Args:
        known: the sets of this kind, see :func:`.catalog.read_json`.
        image_root: the images' folder unless ``info.image_root`` names it; with one, files must be
            inside, or in the set's own folder.
        paired: require a partner, or the word that there is none, of every image; and annotations.

    Raises:
        UserError: the JSON is missing or has a fault (see :mod:`.faults`), no image or no category, or more
            than 2 % of its boxes are left out.
    """
    lists = ("images", "categories", *(["annotations"] if paired else []))
    content = catalog.read_json(json_file, lists, known)
    roots = () if image_root is None else catalog.roots_of(content, json_file, image_root)
    convention = oriented.convention_of(content, json_file)
    refuse(faults(content, paired=paired, roots=roots), json_file)
    for key in ("images", "categories"):
        if not content[key]:
            raise UserError(f"{json_file} lists no {key}: prepare the set again")
    images = {image["id"]: image for image in content["images"]}
    for image in content["images"]:
        catalog.simplify(image)
    for category in content["categories"]:
        category["name"] = category["name"].strip()
    if annotations := content.get("annotations"):
        maskless = 0
        for box in annotations:
            maskless += _simplify(box)
        if maskless:
            _warn(
                f"{json_file}: objects without a polygon of three points, which have boxes alone: {maskless}"
            )
        oriented.convert(annotations, convention)
        content["annotations"] = _usable(annotations, images, json_file)
    return content


def _simplify(box: dict) -> bool:
    """Bring an annotation to one form; return whether its segmentation outlines nothing."""
    for key in ("area", "modality", "occlusion"):
        if key in box and box[key] is None:
            del box[key]
    if box.pop("ignore", 0):
        box["iscrowd"] = 1
    elif "iscrowd" in box:
        box["iscrowd"] = int(box["iscrowd"] or 0)
    if (mask := box.pop("segmentation", None)) in NO_MASK:
        return False
    if mask := polygons(mask) if isinstance(mask, list) else mask:
        box["segmentation"] = mask
    return not mask


def _usable(annotations: list[dict], images: Mapping[int, dict], json_file: str | Path) -> list[dict]:
    """The annotations whose boxes can be learned and found."""
    boxes = np.array([box["bbox"] for box in annotations], np.float64)
    size_of = {number: (image["width"], image["height"]) for number, image in images.items()}
    sizes = np.array([size_of[box["image_id"]] for box in annotations])
    tilted = oriented.is_oriented(annotations)
    lost = (oriented.inside if tilted else inside)(boxes, sizes) < 0.5
    small = (boxes[:, 2:4] < 1).any(1) & ~lost
    if small.sum() > 0.5 * (~lost).sum():
        first = _described(annotations, images, int(small.argmax()))
        raise UserError(
            f"{json_file}: {int(small.sum())} of {len(boxes)} boxes are under 1 px wide or high, the first "
            f"is {first}: give pixels, not fractions of the image"
        )
    if (number := int(lost.sum())) == 0:
        return annotations
    first = _described(annotations, images, int(lost.argmax()))
    form = "[center x, center y, width, height, angle]" if tilted else "[x, y, width, height]"
    message = (
        f"{json_file}: {number} of {len(boxes)} boxes are empty or outside their image, the first is {first}"
    )
    if lost.mean() > MOST_UNUSABLE:
        raise UserError(
            f"{message}: write {form} in pixels of the image, or remove them "
            "(datasets/check_pairs.py lists them)"
        )
    _warn(f"{message}: they are left out of training and evaluation")
    return [box for box, left_out in zip(annotations, lost.tolist(), strict=True) if not left_out]


def inside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The share of each box, 0..1, that is inside its image; 0 for an empty box.

    Args:
        boxes: (N, 4) x, y, width, height in pixels.
        sizes: (N, 2) width and height of the images in pixels.
    """
    low, extent = boxes[:, :2], boxes[:, 2:]
    kept = np.minimum(low + extent, sizes) - np.maximum(low, 0)
    # Widths and heights apart, because the area of a huge box is no finite number.
    shares = np.divide(kept.clip(0), extent, out=np.zeros_like(extent), where=extent > 0)
    return shares.prod(1)


def _described(annotations: list[dict], images: Mapping[int, dict], i: int) -> str:
    box = annotations[i]
    image = images[box["image_id"]]
    size = f"{image['width']}x{image['height']}"
    return f"{name_of('annotations', i, box, images)}, {box['bbox']} in {size}"


@functools.cache  # a set is read several times in a run
def _warn(message: str) -> None:
    logger.warning("%s", message)
