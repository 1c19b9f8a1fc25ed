"""What a file says about itself: enough to prepare images and to read the outputs without the config."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..backbones.trunk import find_trunk
from ..checkpoint.adapter import fingerprint
from ..heads.classification import ImageClassifier
from ..heads.segmentation.segmentor import PairedSemanticSegmentor
from ..hub.names import base_name, config_name
from .graph import ExportedModel, Padding
from .options import Options
from .writing import OPSET

PREPROCESSING = (
    "RGB, uint8, (batch, 3, height, width), visible and infrared in one frame; infrared of one channel is "
    "repeated three times; the graph normalizes and pads"
)


def describe(
    model: nn.Module,
    graph: ExportedModel,
    options: Options,
    *,
    config: str = "",
    overrides: Sequence[str] = (),
    classes: Sequence[str] = (),
    adapter: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """The metadata of a file: texts, numbers and lists by name; docs/deploy.md lists them.

    Args:
        model: as it was loaded, before anything is merged into its base.
        config, overrides: what builds the model.
        classes: names by class id.
        adapter: the adapter's file, of which the name is noted.
    """
    padding = Padding(model, options)
    width, height = options.size[1], options.size[0]
    facts: dict[str, Any] = {
        "task": _task(model),
        "stage": options.stage or "predictions",
        "config": config_name(config),
        "overrides": list(overrides),
        "classes": list(classes),
        "size": f"{width}x{height}",
        "batch": options.batch,
        "dynamic": sorted(options.dynamic),
        "precision": options.precision,
        "fill_missing": getattr(model, "fill_missing", "error"),
        "pixel_mean": graph.pixel_mean.flatten().tolist(),
        "pixel_std": graph.pixel_std.flatten().tolist(),
        "preprocessing": PREPROCESSING,
        "base_fingerprint": fingerprint(find_trunk(model).trunk),
        "adapter": base_name(adapter) if adapter else "",
        "opset": OPSET,
        "ivtuning": __version__,
        "torch": torch.__version__,
    }
    if getattr(model, "pad_value", None) is not None:
        facts["pad_value"] = model.pad_value
    if padding.square and padding.dynamic:
        facts["largest_side"] = padding.square
    return facts


def _task(model: nn.Module) -> str:
    if isinstance(model, ImageClassifier):
        return "classification"
    return "segmentation" if isinstance(model, PairedSemanticSegmentor) else "detection"
