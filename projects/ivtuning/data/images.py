"""Reads pairs and photographs, and refuses what a model would silently learn nonsense from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from .image_files import DEEP_GRAY, BadPair, decode, kind_of, open_image, shown_size, turned
from .modalities import PIXEL_KEYS, check_modality
from .pixels import check_infrared, check_photograph, check_visible


def check_ir_range(ir_range: Sequence[float] | None) -> tuple[float, float] | None:
    """`ir_range` as two numbers, or None; UserError unless they are finite and increase."""
    if ir_range is None:
        return None
    try:
        low, high = (float(value) for value in ir_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        given = ir_range if isinstance(ir_range, (str, int, float)) else list(ir_range)
        raise UserError(f"ir_range={given}: give two increasing raw counts, such as (0, 16383)")
    return low, high


def read_pair(
    dataset_dict: dict,
    ir_range: Sequence[float] | None = None,
    absent: str | None = None,
    gray_visible: bool = False,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read the two images of a dataset dict, turned as their EXIF orientation says.

    Args:
        dataset_dict: has `file_name` (visible, 8-bit RGB), `ir_file_name` (8-bit with 1 or 3 channels, or
            16-bit or floating-point with 1 channel) and optionally `height` and `width`, pixels, which must
            then be true. `pixels` and `ir_pixels` are arrays of the same kinds, (H,W,3) or (H,W), which take
            the place of the files; messages still name these.
        ir_range: values (lo, hi) of a 16-bit infrared image in raw counts, or of a floating-point one in its
            unit, that become 0 and 255; None: the 1st and 99th percentile of each image. 8-bit images are
            left as they are.
        absent: "visible" or "infrared": the image that is not read.
        gray_visible: accept visible images of 1 channel, 8 bits, of a camera without color.

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
    # In a pair, gray means swapped modalities; a photograph without partner, as in COCO, is just gray.
    gray = gray_visible or not ir_path
    pixels, ir_pixels = (dataset_dict.get(key) for key in PIXEL_KEYS)
    visible = None if absent == "visible" else _visible(path, gray, pixels)
    infrared = None if absent == "infrared" else _infrared(ir_path, ir_range, ir_pixels)
    if absent is None and visible.shape != infrared.shape:
        raise BadPair(
            f"visible {path} is {_size(visible)} but infrared {ir_path} is {_size(infrared)}: "
            "align them with datasets/align_pairs.py",
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


def inspect_pair(visible: Path, infrared: Path, gray_visible: bool = False) -> tuple[int, int]:
    """Check from the headers that two files would be read as a pair; returns their (width, height) in pixels.

    Raises:
        BadPair: see :func:`read_pair`.
    """
    with open_image(visible, "visible image") as (image, bits):
        size = shown_size(image)
        _check_visible(image, bits, str(visible), gray_visible)
    if (other := inspect_infrared(infrared)) != size:
        sizes = "{}x{} and {}x{}".format(*size, *other)
        raise BadPair(
            f"{visible} and {infrared} differ in size ({sizes}): align them with datasets/align_pairs.py",
            str(visible),
        )
    return size


def inspect_infrared(path: Path) -> tuple[int, int]:
    """Check from its header that a file would be read as infrared; returns its (width, height) in pixels."""
    with open_image(path, "infrared image") as (image, bits):
        size = shown_size(image)
        _check_infrared(image, bits, str(path))
    return size


def read_photograph(
    path: str, ir_range: Sequence[float] | None = None, pixels: np.ndarray | None = None
) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image of any kind, for classification, turned as its EXIF orientation says.

    Gray, palette, CMYK and alpha images are converted. Gray of 16 bits or in floating point is scaled to
    8 bits by `ir_range`, as in :func:`read_pair`. `pixels`, (H, W, 3) or (H, W), take the place of the file.

    Raises:
        BadPair: the file is missing or unreadable, or its colors have 16 bits.
    """
    if pixels is not None:
        array = check_photograph(pixels, path)
        array = array if array.dtype == np.uint8 else _to_8_bit(array, ir_range, path)
        return array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2)
    image, bits = decode(path, "image")
    if image.mode in DEEP_GRAY:
        array = _to_8_bit(np.asarray(turned(image)), ir_range, path)
        return np.repeat(array[:, :, None], 3, axis=2)
    if bits > 8:
        raise BadPair(f"image {path} has {kind_of(image, bits)}: save it as 8-bit RGB", path)
    return np.asarray(turned(image).convert("RGB"))


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def _visible(path: str, gray: bool, pixels: np.ndarray | None = None) -> np.ndarray:
    if pixels is not None:
        array = check_visible(pixels, path, gray)
        return array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2)
    with open_image(path, "visible image") as (image, bits):
        _check_visible(image, bits, path, gray)
        image.load()
    return np.asarray(turned(image if image.mode == "RGB" else image.convert("RGB")))


def _infrared(path: str, ir_range: Sequence[float] | None, pixels: np.ndarray | None = None) -> np.ndarray:
    if pixels is None:
        with open_image(path, "infrared image") as (image, bits):
            _check_infrared(image, bits, path)
            image.load()
        array = np.asarray(turned(image))
    else:
        array = check_infrared(pixels, path)
    if array.dtype != np.uint8:
        array = _to_8_bit(array, ir_range, path)
    # Gray is replicated as a view, without a copy: the transforms write new pixels anyway.
    return array if array.ndim == 3 else np.broadcast_to(array[:, :, None], (*array.shape, 3))


def _check_visible(image: Image.Image, bits: int, path: str, gray: bool) -> None:
    """Raise BadPair unless an image is visible, as its header shows; gray only if `gray`."""
    role = f"visible image {path}"
    _check_single(image, role, path)
    if bits == 8 and image.mode in ("RGB", *("L" * gray)):
        return
    hint = ""
    if image.mode in ("L", *DEEP_GRAY):
        hint = "; is it the infrared partner?"
        if bits == 8:
            hint += " If the visible camera is gray, set data.gray_visible=true (scripts: --gray-visible)"
    raise BadPair(f"{role} has {kind_of(image, bits)}: save it as 8-bit RGB{hint}", path)


def _check_infrared(image: Image.Image, bits: int, path: str) -> None:
    role = f"infrared image {path}"
    _check_single(image, role, path)
    if image.mode in DEEP_GRAY or (bits <= 8 and image.mode in ("L", "RGB")):
        return
    kind = kind_of(image, bits)
    raise BadPair(f"{role} has {kind}: save it as gray, 8 or 16 bits or float, or 8-bit RGB", path)


def _check_single(image: Image.Image, role: str, path: str) -> None:
    """Raise BadPair for a file with several images. Further ones of another size are previews."""
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format == "MPO":
        return
    if image.format == "TIFF":
        size = image.size
        image.seek(1)
        second = image.size
        image.seek(0)
        if second != size:
            return
    raise BadPair(f"{role} holds {frames} images: save the one that you want as a file of its own", path)


def _to_8_bit(values: np.ndarray, ir_range: Sequence[float] | None, path: str) -> np.ndarray:
    if values.dtype.kind == "f" and (broken := int((~np.isfinite(values)).sum())):
        raise BadPair(
            f"image {path}: {broken} of its pixels are not finite numbers; fill them, for example with the "
            "nearest measured value",
            path,
        )
    low, high = np.percentile(values, (1, 99)) if ir_range is None else ir_range
    # A flat image has low == high: values up to it become black, values above it white.
    scaled = (values.astype(np.float32) - low) * (255.0 / (high - low if high > low else 1e-6))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)
