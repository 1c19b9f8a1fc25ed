"""Dataset dicts of images that a caller gives: arrays, paths, dataset dicts, or lists of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..data.modalities import FILE_KEYS, MODALITIES, PIXEL_KEYS
from ..errors import UserError

Image: TypeAlias = np.ndarray | str | os.PathLike
Images: TypeAlias = Image | Mapping[str, Any] | Sequence[Any] | None


def is_batch(images: Images) -> bool:
    """Whether these are several images rather than one."""
    return isinstance(images, (list, tuple))


def records_of(visible: Any, infrared: Any = None) -> list[dict]:
    """The dataset dicts of one pair, or of as many as the lists are long.

    Args:
        visible, infrared: each an array, a path, None where the image is missing, or a list of these;
            `visible` may also be a dataset dict of a registered set, or a list of such dicts, without
            `infrared`.

    Raises:
        UserError: something else, lists of different lengths, or a pair without any image.
    """
    if not is_batch(visible) and not is_batch(infrared):
        return [_record(visible, infrared, "")]
    many: list[Any] = [list(images) if is_batch(images) else images for images in (visible, infrared)]
    count = max(len(images) for images in many if isinstance(images, list))
    columns = [[None] * count if images is None else images for images in many]
    for images, modality in zip(columns, MODALITIES, strict=True):
        if not isinstance(images, list):
            raise UserError(f"{modality} is one image, but the other a list of {count}: give two lists")
    if len(columns[0]) != len(columns[1]):
        sizes = " and ".join(f"{len(c)} {m}" for c, m in zip(columns, MODALITIES, strict=True))
        raise UserError(f"the lists have {sizes} images: give as many of both, None for a missing one")
    return [_record(v, i, f" {k}") for k, (v, i) in enumerate(zip(*columns, strict=True), 1)]


def _record(visible: Any, infrared: Any, number: str) -> dict:
    """The dataset dict of one pair; `number` tells it from others in messages."""
    if isinstance(visible, Mapping):
        if infrared is not None:
            raise UserError("a dataset dict names both images: give it alone")
        if not isinstance(visible.get(FILE_KEYS[0]), str):
            raise UserError(f"the dataset dict{number} has no {FILE_KEYS[0]!r}: give one of a registered set")
        return dict(visible)
    record: dict[str, Any] = {}
    for modality, given, file, pixels in zip(
        MODALITIES, (visible, infrared), FILE_KEYS, PIXEL_KEYS, strict=True
    ):
        if isinstance(given, np.ndarray):
            record |= {file: f"array{number}", pixels: given}
        elif isinstance(given, (str, os.PathLike)):
            record[file] = os.fspath(given)
        elif given is not None:
            raise UserError(
                f"{modality} image{number} is a {type(given).__name__}: give a numpy array, a path, or a "
                "list of them"
            )
    missing = [m for m, file in zip(MODALITIES, FILE_KEYS, strict=True) if file not in record]
    if len(missing) == 2:
        raise UserError(f"the pair{number} has neither a visible nor an infrared image: give one of them")
    if missing:
        record["missing"] = missing[0]
        # A dataset dict has this key in any case; messages call the pair by it.
        record.setdefault(FILE_KEYS[0], record.get(FILE_KEYS[1]))
    return record
