"""Reads one infrared-visible pair, and refuses what a detector would silently learn nonsense from."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image

from ..errors import UserError
from .modalities import check_modality

# Suffixes of image files, in lower case.
IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# What Pillow's decoders raise on truncated or damaged files.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)
_GRAY_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class BadPair(UserError):
    """A pair that cannot be used; `file_name` is the file at fault."""

    def __init__(self, message: str, file_name: str = ""):
        super().__init__(message)
        self.file_name = file_name


def read_pair(
    dataset_dict: dict, ir_range: Sequence[float] | None = None, absent: str | None = None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read the two images of a dataset dict, EXIF orientation applied as detectron2 does.

    Args:
        dataset_dict: has `file_name` (visible, 8-bit RGB), `ir_file_name` (8-bit with 1 or 3 channels, or
            16-bit with 1 channel) and optionally `height` and `width`, pixels, which must then be true.
        ir_range: raw counts (lo, hi) of a 16-bit infrared image that become 0 and 255;
            None: the 1st and 99th percentile of each image. 8-bit images are left as they are.
        absent: "visible" or "infrared": the image that is not read.

    Returns:
        visible (H,W,3) uint8 RGB and infrared (H,W,3) uint8; gray infrared is replicated. None for `absent`.
        Both are read-only.

    Raises:
        BadPair: a file is missing, unreadable or of the wrong kind, or the sizes disagree.
        UserError: `absent` is no modality.
    """
    path = dataset_dict["file_name"]
    check_modality(absent, f"{path}: missing")
    ir_path = dataset_dict.get("ir_file_name")
    if not ir_path and absent != "infrared":
        raise BadPair(f"{path} has no infrared partner: give the image an ir_file_name in the JSON", path)
    visible = None if absent == "visible" else _visible(path, gray=not ir_path)
    infrared = None if absent == "infrared" else _infrared(ir_path, ir_range)
    if absent is None and visible.shape != infrared.shape:
        raise BadPair(
            f"visible {path} is {_size(visible)} but infrared {ir_path} is {_size(infrared)}: "
            "register the pair to one size",
            path,
        )
    path, image = (ir_path, infrared) if visible is None else (path, visible)
    height, width = image.shape[:2]
    stated = dataset_dict.get("width", width), dataset_dict.get("height", height)
    if stated != (width, height):
        raise BadPair(
            f"{path} is {_size(image)} but its JSON says {stated[0]}x{stated[1]}: "
            "write the true width and height there",
            path,
        )
    return visible, infrared


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def decode(path: str, role: str) -> tuple[Image.Image, int]:
    """The decoded image as stored, and the bits per sample: 16 or 8, and 4 or 2 for gray images.

    Args:
        role: what the image is, for messages.

    Raises:
        BadPair: the file is missing or unreadable.
    """
    try:
        with PathManager.open(path, "rb") as file:
            image = Image.open(file)
            # Pillow silently opens 16-bit RGB as 8-bit RGB, and gray of fewer bits as 8-bit gray; only the
            # decoder's raw mode shows what is in the file.
            raw = " ".join(str(tile[3]) for tile in image.tile)
            image.load()
    except FileNotFoundError:
        raise BadPair(f"{role} {path} is missing: restore it or drop the pair", path) from None
    except UNREADABLE as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise BadPair(f"{role} {path} cannot be read ({why}): fetch it again", path) from error
    marks = {";16": 16, "L;4": 4, "L;2": 2}
    bits = next((bits for mark, bits in marks.items() if mark in raw), 8)
    return image, 16 if image.mode in _GRAY_16_BIT else bits


def kind_of(image: Image.Image, bits: int) -> str:
    """A description of an image's format, such as "4 channels, 8 bits (RGBA)"."""
    channels = len(image.getbands())
    return f"{channels} channel{'s' * (channels > 1)}, {bits} bits ({image.mode})"


def _visible(path: str, gray: bool) -> np.ndarray:
    image, bits = decode(path, "visible image")
    if gray and (image.mode, bits) == ("L", 8):
        # In a pair, gray means swapped modalities; a photograph without partner, as in COCO, is just gray.
        image = image.convert("RGB")
    if (image.mode, bits) != ("RGB", 8):
        hint = "; is it the infrared partner?" if len(image.getbands()) == 1 else ""
        raise BadPair(f"visible image {path} has {kind_of(image, bits)}: save it as 8-bit RGB{hint}", path)
    return np.asarray(_apply_exif_orientation(image))


def _infrared(path: str, ir_range: Sequence[float] | None) -> np.ndarray:
    image, bits = decode(path, "infrared image")
    array = np.asarray(_apply_exif_orientation(image))
    if image.mode in _GRAY_16_BIT:
        array = _to_8_bit(array, ir_range)
    elif image.mode not in ("L", "RGB") or bits > 8:
        kind = kind_of(image, bits)
        raise BadPair(f"infrared image {path} has {kind}: save it as gray, 8 or 16 bits, or 8-bit RGB", path)
    # Gray is replicated as a view, without a copy: the transforms write new pixels anyway.
    return array if array.ndim == 3 else np.broadcast_to(array[:, :, None], (*array.shape, 3))


def _to_8_bit(counts: np.ndarray, ir_range: Sequence[float] | None) -> np.ndarray:
    low, high = np.percentile(counts, (1, 99)) if ir_range is None else ir_range
    # A flat image has low == high: values up to it become black, values above it white.
    scaled = (counts.astype(np.float32) - low) * (255.0 / max(high - low, 1e-6))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels from the file's header, after the rotation that its EXIF data asks for."""
    try:
        with Image.open(path) as image:
            # The base class's method: PNG's own one decodes the whole image to look for EXIF data at its end.
            rotated = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) >= 5
            return image.size[::-1] if rotated else image.size
    except OSError as error:
        raise UserError(f"{path} is not a readable image ({error}): fetch it again") from error
