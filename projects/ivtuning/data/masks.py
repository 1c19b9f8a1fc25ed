"""Checks masks of COCO files. pycocotools checks nothing: a run-length code of a wrong size crashes it."""

from __future__ import annotations

import math

import numpy as np

# What tools write for an object without a mask.
NO_MASK = (None, [], {}, "")


def mask_fault(segmentation: object, height: int, width: int) -> str | None:
    """What is wrong with a segmentation: polygons, or a run-length code; None if it can be decoded.

    Polygons of fewer than three points, or of an odd count of numbers, are no fault: see :func:`polygons`.

    Args:
        height, width: of the image, in pixels; whole numbers.
    """
    if isinstance(segmentation, dict):
        return _code_fault(segmentation, height, width)
    if not isinstance(segmentation, list):
        return f"{type(segmentation).__name__}, neither polygons nor a run-length code"
    # Points may lie outside, but pycocotools' memory grows with the length of the outline.
    limit = 2 * max(height, width)
    for points in nested(segmentation):
        if not isinstance(points, list) or not _are_finite(points):
            return "a polygon is no list of finite numbers [x1, y1, x2, y2, ...]"
        if points and not -limit <= min(points) <= max(points) <= limit:
            return f"a polygon is far outside its image of {width}x{height}"
    return None


def polygons(segmentation: list) -> list[list[float]]:
    """The polygons that outline something: three or more points, each of two numbers."""
    return [points for points in nested(segmentation) if len(points) % 2 == 0 and len(points) >= 6]


def nested(segmentation: list) -> list:
    """`segmentation` as a list of polygons; some tools write a single one without the outer list."""
    return segmentation if not segmentation or isinstance(segmentation[0], list) else [segmentation]


def _are_finite(numbers: list) -> bool:
    try:
        return math.isfinite(sum(numbers))  # a sum is not finite where one of its parts is not
    except (TypeError, OverflowError):
        return False


def _code_fault(code: dict, height: int, width: int) -> str | None:
    size, counts = code.get("size"), code.get("counts")
    if size != [height, width]:
        return f"the run-length code's size is {size!r:.60}, but [height, width] is [{height}, {width}]"
    if isinstance(counts, str):
        counts = _decompress(counts)
    elif not (isinstance(counts, list) and all(type(count) is int for count in counts)):
        counts = None
    if counts is None:
        return "the run-length code's counts are neither whole numbers nor a compressed string"
    if min(counts, default=0) < 0 or (total := sum(counts)) != height * width:
        shown = "one is negative" if min(counts, default=0) < 0 else f"they add up to {total}"
        return f"the run-length code's counts must cover {height * width} pixels, but {shown}"
    return None


def _decompress(text: str) -> list[int] | None:
    """The run lengths of COCO's compressed strings, None if `text` is no such string.

    Each character carries five bits of a number, and one bit that says whether more follow; from the fourth
    number on, a number is the difference from the last but one.
    """
    try:
        bits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not bits.size or bits.min() < 0 or bits.max() > 63 or bits[-1] & 32:
        return None
    ends = np.flatnonzero(~bits & 32)
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits are more than any image has pixels
        return None
    shifts = 5 * (np.arange(bits.size) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((bits & 31) << shifts, starts)
    numbers -= np.where(bits[ends] & 16, 1 << 5 * lengths, 0)
    for first in (1, 2):
        numbers[first::2] = numbers[first::2].cumsum()
    return numbers.tolist()
