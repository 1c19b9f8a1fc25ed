"""Checks of images that are given in memory, as arrays, instead of as files."""

from __future__ import annotations

import numpy as np

from .image_files import MAX_ASPECT, BadPair


def check_visible(array: np.ndarray, name: str, gray: bool = False) -> np.ndarray:
    """`array` as read-only (H, W, 3) uint8 RGB; BadPair if it is anything else.

    Args:
        name: what messages call it, after "visible".
        gray: also accept (H, W) or (H, W, 1) uint8, and return it as (H, W).
    """
    array = _contiguous(array, f"visible {name}")
    if array.dtype == np.uint8 and (array.ndim == 3 or gray):
        return array
    hint = ""
    if array.ndim == 2:
        hint = "; is it the infrared partner?"
        if array.dtype == np.uint8:
            hint += " If the visible camera is gray, set data.gray_visible=true"
    elif array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        hint = ", here (255 * image).round().astype('uint8')"
    raise BadPair(f"visible {name} is {_kind(array)}: give (H, W, 3) uint8 RGB{hint}", name)


def check_infrared(array: np.ndarray, name: str) -> np.ndarray:
    """`array` as read-only (H, W, 3) uint8 or (H, W) of 8 bits or more; BadPair if it is anything else."""
    array = _contiguous(array, f"infrared {name}")
    if array.dtype == np.uint8 or (array.ndim == 2 and _is_deep(array)):
        return array
    raise BadPair(
        f"infrared {name} is {_kind(array)}: give (H, W) of uint8, uint16 or float, or (H, W, 3) uint8", name
    )


def check_photograph(array: np.ndarray, name: str) -> np.ndarray:
    """`array` as read-only (H, W, 3) uint8 RGB, or (H, W) gray of 8 bits or more; BadPair otherwise."""
    array = _contiguous(array, name)
    if array.dtype == np.uint8 or (array.ndim == 2 and _is_deep(array)):
        return array
    raise BadPair(f"{name} is {_kind(array)}: give (H, W, 3) uint8 RGB, or (H, W) gray", name)


def _contiguous(array: np.ndarray, name: str) -> np.ndarray:
    """A read-only view, (H, W, 3) or (H, W), or a copy where channels or rows are not stored in order."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise BadPair(f"{name} is {_kind(array)}: give (H, W, 3), or (H, W) for gray", name)
    height, width = array.shape[:2]
    if not height or not width:
        raise BadPair(f"{name} is {_kind(array)}: it has no pixel", name)
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise BadPair(f"{name} is {width}x{height}, a strip of more than {MAX_ASPECT}:1: cut it up", name)
    array = np.ascontiguousarray(array).view()
    array.flags.writeable = False  # the caller's own array stays writeable
    return array


def _is_deep(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype in (np.uint16, np.int32)


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {tuple(array.shape)}"
