"""Sine embeddings of positions on a map, and of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _sine_embedding(angle: Tensor, count: int, temperature: float) -> Tensor:
    """(...) angles -> (..., count): sine and cosine in turn, at decreasing frequencies."""
    exponent = torch.arange(count, device=angle.device).div(2, rounding_mode="floor") * (2 / count)
    angle = angle[..., None] / temperature ** exponent.to(angle.dtype)
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)


def map_positions(padding_mask: Tensor, dim: int, temperature: float = 20.0) -> Tensor:
    """Embeddings of all positions on a map; the part of the map without padding spans 0..2 pi.

    Args:
        padding_mask: (B, H, W) bool, True where the map is padding.
        dim: channels, a multiple of 4; the first half embeds y, the second x.
        temperature: ratio of the highest to the lowest frequency.

    Returns:
        (B, H * W, dim) float32.
    """
    y, x = ((~padding_mask).cumsum(axis, dtype=torch.float32) for axis in (1, 2))
    y = y / (y[:, -1:] + 1e-6) * (2 * math.pi)
    x = x / (x[:, :, -1:] + 1e-6) * (2 * math.pi)
    return torch.cat([_sine_embedding(v, dim // 2, temperature) for v in (y, x)], -1).flatten(1, 2)


def box_positions(boxes: Tensor, dim: int) -> Tensor:
    """Embeddings of boxes (DAB-DETR, arXiv 2201.12329, section 4.2) with a temperature of 10,000.

    Args:
        boxes: (..., 4) cx, cy, w, h in 0..1.
        dim: channels, a multiple of 4; each coordinate gets `dim` / 2.

    Returns:
        (..., 2 * dim), in the order y, x, w, h.
    """
    order = boxes[..., [1, 0, 2, 3]] * (2 * math.pi)
    return _sine_embedding(order, dim // 2, 10000.0).flatten(-2)
