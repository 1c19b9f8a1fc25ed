"""Reads the label maps of segmentation releases, in all the forms that can be understood without doubt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import UserError
from ..datasets.segmentation_layouts import RGB, SegmentationSet
from ..image_files import decode, kind_of, stored_size
from ..labels import IGNORE, read_labels


def read_values(path: Path, size: tuple[int, int], layout: SegmentationSet) -> tuple[np.ndarray, bool]:
    """The values of a label map, and whether its file can be used as it is.

    Files are read strictly, see :func:`..labels.read_labels`. Three other forms are understood as well, and
    need a copy as an index map: class colors (RGB, or a palette of class colors alone in another order),
    indices in three equal channels, and indices in gray of 2 or 4 bits. A set of masks has them alone.

    Args:
        size: width and height that the label map must have, pixels.

    Returns:
        (H, W) uint8: values of classes, ignored values, and 255; and True if no copy is needed.

    Raises:
        UserError: an unreadable file, another size, or values or colors that are no class.
    """
    if (own := stored_size(path)) != size:
        raise UserError(f"{path} is {own[0]}x{own[1]} but its image {size[0]}x{size[1]}: fetch both again")
    if layout.masks:
        return _mask(path), False
    known = (*layout.values, *layout.ignored)
    record = {"sem_seg_file_name": str(path), "label_ids": {value: value for value in known}}
    image, bits = decode(str(path), "label map")
    colors = dict(zip(layout.classes.values(), layout.values, strict=True))
    message = f"label map {path} has indices that its palette lacks: fetch it again"
    if not _permutes_colors(image, colors):
        try:
            return read_labels(record), True
        except UserError as error:
            message = str(error)
    for values in _other_readings(image, bits, colors):
        if np.isin(values, (*known, IGNORE)).all():
            return values.astype(np.uint8), False
    if image.mode == "L":
        shades = Image.new("RGB", (len(colors), 1))
        shades.putdata(list(colors))
        if np.isin(np.asarray(image), np.asarray(shades.convert("L"))).all():
            message += (
                "; they look like gray shades of the class colors, from which the classes cannot be recovered"
            )
    raise UserError(message)


def _mask(path: Path) -> np.ndarray:
    """(H, W) uint8 of 0 and 1 from a gray image of any kind, also one that JPEG compression has blurred.

    PySODMetrics takes the same values, those above 128, for the object.
    """
    image, bits = decode(str(path), "mask")
    if bits > 8 or image.mode == "F":
        raise UserError(f"mask {path} has {kind_of(image, bits)}: save it as 8-bit gray")
    rgb = np.asarray(image.convert("RGB"))
    if np.ptp(rgb, axis=2).max() > 32:
        raise UserError(f"mask {path} has colors: are the folders of images and masks swapped?")
    return (rgb[..., 0] > 128).astype(np.uint8)


def _permutes_colors(image: Image.Image, colors: dict[RGB, int]) -> bool:
    """Whether a palette has class colors alone, and the color of an index in use is another class's."""
    if image.mode != "P":
        return False
    flat = image.getpalette()
    entries = [tuple(flat[i : i + 3]) for i in range(0, len(flat), 3)]
    used = [index for index in np.unique(np.asarray(image)) if index < len(entries)]
    return all(e in colors for e in entries) and any(colors[entries[i]] != i for i in used)


def _other_readings(image: Image.Image, bits: int, colors: dict[RGB, int]) -> Iterator[np.ndarray]:
    """What an image that is no plain index map may mean: (H, W) values, -1 for pixels without one."""
    if image.mode == "L" and bits < 8:  # decoders scale 2 and 4 bits to 0..255
        yield np.asarray(image) // (255 // (2**bits - 1))
    if image.mode in ("RGB", "RGBA", "P"):
        rgb = np.asarray(image.convert("RGB"))
        codes, inverse = np.unique(rgb.astype(np.int32) @ (65536, 256, 1), return_inverse=True)
        values = [colors.get((c >> 16, c >> 8 & 255, c & 255), -1) for c in codes.tolist()]
        yield np.array(values)[inverse].reshape(rgb.shape[:2])
        if image.mode != "P" and not np.ptp(rgb, axis=2).any():
            yield rgb[..., 0]
