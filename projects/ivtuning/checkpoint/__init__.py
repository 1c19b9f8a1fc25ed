"""Weights: other projects' files, our own checkpoints, and adapter files."""

from __future__ import annotations

import os

from torch import nn

from ..backbones.trunk import find_trunk
from ..errors import UserError
from .adapter import adapter_tensors, load_adapter, save_adapter
from .pretrained import LoadReport, load_pretrained

__all__ = ["LoadReport", "load_adapter", "load_pretrained", "load_weights", "save_adapter"]


def load_weights(
    model: nn.Module, path: str | os.PathLike, adapter: str | os.PathLike | None = None, strict: bool = True
) -> LoadReport:
    """Fill `model` from base weights or a whole checkpoint at `path`, then put an adapter file on top.

    Args:
        strict: demand that the two together fill the whole model, as evaluation needs it; False to start a
            training run.

    Raises:
        UserError: see :func:`load_pretrained` and :func:`load_adapter`.
    """
    report = load_pretrained(model, path, strict=strict and adapter is None)
    if adapter is None:
        return report
    groups = load_adapter(model, adapter)["groups"]
    place = find_trunk(model)[0]
    own = adapter_tensors(model)
    own["backbone"] = {f"{place}.{n}" if place else n for n in own["backbone"]}
    filled = {n for group in groups for n in own[group]}
    report.fresh = [n for n in report.fresh if n not in filled]
    if strict and report.fresh:
        some = ", ".join(report.fresh[:3])
        raise UserError(
            f"{adapter}: holds only the group {groups[0]!r}, and {path} lacks the rest: {len(report.fresh)} "
            f"tensors of the model stay random ({some}, ...); export both groups"
        )
    return report
