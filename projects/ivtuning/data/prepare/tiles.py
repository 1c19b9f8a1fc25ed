"""Cuts large images with oriented boxes into tiles, and puts the detections in tiles together again."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ...errors import UserError
from ...oriented.nms import nms
from ...oriented.overlap import intersection

# An object is learned in tiles that hold at least this share of it; with less, it is crowd in them.
WHOLE = 0.7


def check_tiling(size: int, overlap: int) -> None:
    """Raise UserError unless tiles of `size` px can overlap by `overlap` px."""
    if size < 1 or not 0 <= overlap < size:
        raise UserError(
            f"--size {size} --overlap {overlap}: give a size in pixels and a smaller overlap from 0"
        )


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles of `size` px begin along an edge of `length` px; the last ends with the image.

    An image that is smaller than a tile has one, which is the image.
    """
    check_tiling(size, overlap)
    number = max(1, math.ceil((length - overlap) / (size - overlap)))
    return [min(i * (size - overlap), max(0, length - size)) for i in range(number)]


def in_tile(boxes: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """The share (N,), 0..1, of each of boxes (N, 5) that lies in a tile with its top left corner at x, y."""
    if not len(boxes):
        return np.zeros(0)
    given = torch.from_numpy(boxes)
    tile = torch.tensor([x + width / 2, y + height / 2, width, height, 0.0], dtype=torch.float64)
    shared = intersection(given, tile.expand_as(given)).numpy()
    return shared / np.maximum(boxes[:, 2] * boxes[:, 3], 1e-12)


def merge(
    results: Sequence[dict], tiles: dict, wholes: Mapping[str, int], iou_threshold: float
) -> list[dict]:
    """Detections in whole images from those in tiles: moved to their places, one of each group that overlaps.

    Args:
        results: in the form of COCO's results, with oriented boxes.
        tiles: the tiles' JSON. The "tile" of its images says of which whole image they are, and where.
        wholes: image id by the name of the whole image.
        iou_threshold: detections of one class with a higher IoU are one, see :func:`...oriented.nms.nms`.

    Raises:
        UserError: a result that is no oriented box, of no tile, or of no class of the JSON.
    """
    places = {tile["id"]: tile.get("tile") for tile in tiles["images"]}
    categories = [category["id"] for category in tiles["categories"]]
    found = defaultdict(list)
    for number, result in enumerate(results):
        box = result.get("bbox") if isinstance(result, dict) else None
        numbers = [*box, result.get("score")] if isinstance(box, list) else []
        if len(numbers) != 6 or not all(type(v) in (int, float) for v in numbers):
            raise UserError(
                f"result {number} has no bbox of five numbers and a score: predict with a detector of "
                "oriented boxes"
            )
        image, category = result.get("image_id"), result.get("category_id")
        if not (place := places.get(image) if isinstance(image, int) else None):
            raise UserError(f"result {number} is of image {image!r}, which is no tile of the JSON")
        if category not in categories:
            raise UserError(f"result {number} has the category {category!r}, which the JSON lacks")
        if place["image"] not in wholes:
            raise UserError(f"the tiles are of {place['image']}, which the JSON of whole images lacks")
        moved = [box[0] + place["x"], box[1] + place["y"], *box[2:]]
        found[place["image"]].append(result | {"image_id": wholes[place["image"]], "bbox": moved})
    merged = []
    for some in found.values():
        boxes = torch.tensor([r["bbox"] for r in some], dtype=torch.float64)
        scores = torch.tensor([r["score"] for r in some], dtype=torch.float64)
        classes = torch.tensor([r["category_id"] for r in some])
        merged += [some[i] for i in nms(boxes, scores, iou_threshold, classes).tolist()]
    return merged
