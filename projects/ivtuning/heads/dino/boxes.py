"""Boxes in DETR's form: center x, center y, width and height, as fractions of the image."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12  # far below the area of one pixel


def to_corners(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) cx, cy, w, h as x1, y1, x2, y2."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], -1)


def to_centers(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) x1, y1, x2, y2 as cx, cy, w, h."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """log(x / (1 - x)) of `x` clamped to 0..1; numerator and denominator are at least `eps`."""
    return (x.clamp(eps, 1.0) / (1 - x).clamp(eps, 1.0)).log()


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise intersection over union of boxes x1, y1, x2, y2, in 0..1.

    Args:
        a, b: (..., 4), shapes that broadcast. Boxes without area are allowed and give no NaN.

    Returns:
        (...).
    """
    intersection, union, _ = _areas(a, b)
    return intersection / union.clamp(min=TINY)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise generalized IoU (arXiv 1902.09630), in -1..1; arguments as in :func:`iou`."""
    intersection, union, hull = _areas(a, b)
    return intersection / union.clamp(min=TINY) - (hull - union) / hull.clamp(min=TINY)


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of the intersection, of the union, and of the smallest box around both."""

    def area(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Tensor:
        return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)

    a, b = a.unbind(-1), b.unbind(-1)
    larger = [torch.maximum(x, y) for x, y in zip(a, b, strict=True)]
    smaller = [torch.minimum(x, y) for x, y in zip(a, b, strict=True)]
    intersection = area(*larger[:2], *smaller[2:])
    return intersection, area(*a) + area(*b) - intersection, area(*smaller[:2], *larger[2:])
