"""Inference: IV-tuning on pairs against the frozen trunk alone on visible images."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..backbones.stems import PromptStem, VisibleOnly
from ..backbones.trunk import Trunk
from ..tuning import Frozen, IVTuning
from .models import build, usual_size
from .options import Options
from .report import Found, Row
from .timing import interleaved, ratio, summary


def measure(options: Options) -> Found:
    """Row infer_over_trunk. Stem and adapters are all IV-tuning adds, a second patch embedding included."""
    name = options.trunk or "vitdet_b"
    size = options.size or usual_size(name)
    x = options.pair(size)

    def forward(trunk: Trunk) -> Callable[[], None]:
        trunk.eval()

        def run() -> None:
            with torch.no_grad(), options.autocast():
                trunk(x)

        return run

    runs = {
        "iv": forward(build(name, PromptStem(), IVTuning(), options.depth, device=options.device)),
        "trunk": forward(build(name, VisibleOnly(), Frozen(), options.depth, device=options.device)),
    }
    times = interleaved(runs, options.repeats, "inference")
    found = Found(f"{options.describe(name, size)}, eval mode")
    found.raw["seconds"] = summary(times)
    found.rows["infer_over_trunk"] = Row.of(ratio(times, "iv", "trunk"))
    return found
