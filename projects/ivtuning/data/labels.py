"""Label maps of semantic segmentation: reading files, mapping their values to train ids, counting pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tabulate import tabulate

from ..errors import UserError
from .image_files import BadPair, decode, kind_of

IGNORE = 255  # the train id, and the value in files, of pixels that neither loss nor metrics count
MAX_CLASSES = 254
UNUSED = 254  # never a train id: marks unknown values, and pixels that a transform made up


def read_labels(record: dict) -> np.ndarray:
    """Read the label map of a dataset dict.

    The file is a lossless image of one channel: gray of 8 or 16 bits, or a palette image, whose indices are
    the values. Its EXIF orientation is not applied.

    Args:
        record: has `sem_seg_file_name`, `label_ids` ({value in the file: train id 0..253, or 255 to ignore
            it}; the value 255 is always ignored), and optionally `height` and `width` of the image in
            pixels, which the label map must have as well.

    Returns:
        (H, W) uint8: train ids, and 255 where a pixel is ignored.

    Raises:
        BadPair: the file is missing, unreadable, of another kind or another size.
        UserError: it holds a value that `label_ids` does not know.
    """
    path = record["sem_seg_file_name"]
    image, bits = decode(path, "label map")
    # Decoders scale gray of 1, 2 and 4 bits to 0..255, so the values would no longer be class indices.
    if len(image.getbands()) > 1 or image.mode in ("1", "F") or bits < 8:
        raise BadPair(
            f"label map {path} has {kind_of(image, bits)}, not one class index a pixel: convert its colors "
            "to indices and save them as 8-bit gray PNG",
            path,
        )
    if image.format == "JPEG":
        raise BadPair(f"label map {path} is a JPEG, whose compression mixes classes: fetch it as PNG", path)
    width, height = image.size
    stated = record.get("width", width), record.get("height", height)
    if stated != (width, height):
        name = record.get("file_name")
        raise BadPair(
            f"label map {path} is {width}x{height} but its image {name} is {stated[0]}x{stated[1]}: "
            "the two must have one size",
            path,
        )
    values, known = np.asarray(image).astype(np.int32), record["label_ids"]
    last = max(IGNORE, *known) + 1
    table = np.full(last + 1, UNUSED, np.uint8)
    table[list(known)] = list(known.values())
    table[IGNORE] = IGNORE
    labels = table[values.clip(-1, last)]  # values out of range get the table's last entry, UNUSED
    if (unknown := labels == UNUSED).any():
        strangers = np.unique(values[unknown])
        some = ", ".join(map(str, strangers[:5])) + (", ..." if len(strangers) > 5 else "")
        raise UserError(
            f"label map {path} has {int(unknown.sum())} pixels of value {some}, which the set does not know "
            f"(it has {len(known)} values from {min(known)} to {max(known)}, and {IGNORE}): fix the file, "
            "or prepare the set again"
        )
    return labels


def class_table(classes: Sequence[str], pixels: Mapping[str, np.ndarray]) -> str:
    """A table of each class's share of all pixels and the number of images that show it.

    Args:
        pixels: part -> (N, K + 1) pixel counts of each class in each image, ignored pixels last. Each part
            gets two columns.
    """
    rows = [*classes, "ignored"] if any(p[:, -1].any() for p in pixels.values()) else classes
    shares = {part: 100 * p.sum(0) / max(1, p.sum()) for part, p in pixels.items()}
    shown = {part: (p > 0).sum(0) for part, p in pixels.items()}
    table = [
        [name, *(value for part in pixels for value in (f"{shares[part][i]:.3f}", shown[part][i]))]
        for i, name in enumerate(rows)
    ]
    headers = ["class", *(head for part in pixels for head in (f"{part} %", f"{part} images"))]
    return tabulate(table, headers, disable_numparse=True, colalign=["left"] + ["right"] * (len(headers) - 1))
