"""Filling a model for training or evaluation: base weights or a whole checkpoint, and an adapter on top."""

from __future__ import annotations

import logging
import os
from typing import Any

from torch import nn

from ..backbones.trunk import TrunkPlace, find_trunk
from ..errors import UserError
from ..hub.names import split_kind
from .adapter import adapter_tensors, load_adapter
from .conversion import FAMILIES, read_converted
from .pretrained import fill, load_pretrained
from .report import LoadReport, brief, count, first

logger = logging.getLogger("ivtuning")


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    adapter: str | os.PathLike | None = None,
    strict: bool = True,
    place: TrunkPlace | None = None,
    cfg_model: Any = None,
) -> LoadReport:
    """Fill `model` from base weights or a whole checkpoint at `path`, then from an adapter file.

    Args:
        path: "KIND+NAME" converts a detector of another project, see :mod:`.conversion`.
        strict: demand that the two together fill the whole model, as evaluation needs it; False to start a
            training run.
        place: the model's trunk, where the caller knows it.
        cfg_model: the node of a LazyConfig that `model` was built from; needed to convert.

    Raises:
        UserError: see :func:`.pretrained.load_pretrained`, :func:`.conversion.convert` and
            :func:`.adapter.load_adapter`.
    """
    place = place or find_trunk(model)
    alone = strict and adapter is None
    kind = split_kind(path)[0]
    if kind is None:
        report = load_pretrained(model, path, strict=alone, place=place)
    elif cfg_model is None:
        raise UserError(
            f"{path}: only a run or its evaluation converts: convert it with `make convert` first"
        )
    else:
        state, conversion = read_converted(str(path), FAMILIES[kind], FAMILIES, cfg_model)
        logger.info("%s", conversion)
        report = fill(model, place, state, path, strict=alone)
    logger.info("weights: %s", report.line())
    if adapter is None:
        return report
    header = load_adapter(model, adapter, place=place)
    groups = header["groups"]
    own = adapter_tensors(model, place)
    prefixes = {"backbone": place.prefix, "task": ""}
    filled = {prefixes[group] + name for group in groups for name in own[group]}
    report.fresh = [n for n in report.fresh if n not in filled]
    logger.info(
        "adapter: %s (%s, %s) from %s; as initialized: %s",
        count(filled, "tensor"),
        header["tuner"]["name"],
        " and ".join(groups),
        adapter,
        f"{len(report.fresh)}, {brief(report.fresh)}" if report.fresh else "none",
    )
    if strict and report.fresh:
        raise UserError(
            f"{adapter}: holds only the group {groups[0]!r}, and {path} lacks the rest: "
            f"{count(report.fresh, 'tensor')} of the model would be random ({first(report.fresh)}); export "
            "both groups"
        )
    return report
