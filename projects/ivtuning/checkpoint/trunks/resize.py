"""Resizing of pretrained tensors whose shape depends on the image's or the window's size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ...utils.tensors import FLOATS
from .swin import TABLE


def is_table(name: str) -> bool:
    """Whether `name` belongs to a decomposed relative position table (ViTDet, SAM)."""
    return name.endswith((".rel_pos_h", ".rel_pos_w"))


def fit(name: str, tensor: Tensor, target: Tensor) -> tuple[Tensor, str]:
    """`tensor`, resized to `target`'s shape if `name` is a table of positions, and a note of what changed.

    Raises:
        UserError: the positions do not form a square grid.
    """
    if tensor.dtype not in FLOATS or not tensor.numel():
        return tensor, ""
    if name == "pos_embed" and tensor.dim() in (3, 4) and tensor.shape != target.shape:
        return _fit_positions(tensor.float(), target)
    if is_table(name) and tensor.shape[1:] == target.shape[1:] and len(tensor) != len(target):
        resized = F.interpolate(tensor.float().T[None], size=len(target), mode="linear")[0].T
        return resized, f"{len(tensor)} -> {len(target)}"
    if name.endswith(TABLE) and tensor.shape[1:] == target.shape[1:] and len(tensor) != len(target):
        return _fit_window(tensor.float(), target)
    return tensor, ""


def _fit_window(tensor: Tensor, target: Tensor) -> tuple[Tensor, str]:
    """Swin's bias table ((2 w - 1)**2, heads) -> `target`'s window, bicubic as in the official code."""
    old, new = math.isqrt(len(tensor)), math.isqrt(len(target))
    if old * old != len(tensor):
        return tensor, ""
    grid = tensor.T.unflatten(1, (old, old))[None]
    resized = F.interpolate(grid, size=(new, new), mode="bicubic")[0].flatten(1).T
    return resized, f"window {(old + 1) // 2} -> {(new + 1) // 2}"


def _fit_positions(tensor: Tensor, target: Tensor) -> tuple[Tensor, str]:
    """Position embedding (1, [1 +] H * W, C) or (1, H, W, C) -> `target`'s grid and slot."""
    if tensor.dim() == 4:
        slot, grid = tensor[:, :0, 0], tensor
    else:
        slot, grid = _grid(tensor)
    own_slot, own_grid = _grid(target)
    how = []
    if grid.shape[1:3] != own_grid.shape[1:3]:
        how.append("{}x{} -> {}x{}".format(*grid.shape[1:3], *own_grid.shape[1:3]))
        size = own_grid.shape[1:3]
        grid = F.interpolate(grid.permute(0, 3, 1, 2), size=size, mode="bicubic").permute(0, 2, 3, 1)
    if slot.shape[1] != own_slot.shape[1]:
        how.append("cls slot dropped" if slot.shape[1] else "cls slot added, zero")
        slot = slot[:, :0] if slot.shape[1] else torch.zeros_like(grid[:, 0, :1])
    return torch.cat([slot, grid.flatten(1, 2)], 1), ", ".join(how)


def _grid(positions: Tensor) -> tuple[Tensor, Tensor]:
    """(1, N, C) -> cls slot (1, 0 or 1, C) and square grid (1, s, s, C)."""
    side = math.isqrt(positions.shape[1])
    extra = positions.shape[1] - side * side
    if extra > 1:
        raise UserError(
            f"pos_embed has {positions.shape[1]} entries: not a square grid with at most one cls slot "
            "(oblong grids, distillation and register tokens are not supported)"
        )
    return positions[:, :extra], positions[:, extra:].unflatten(1, (side, side))
