"""Inference: IV-tuning on pairs against the frozen trunk alone on visible images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ...backbones.stems import PromptStem, Stem, VisibleOnly
from ...tuning import Frozen, IVTuning, Tuner
from ..measures.out_of_memory import fitting
from ..measures.timing import interleaved, summary
from ..options import Options
from ..report import Found, Row, absolute
from ..subjects.trunks import build, usual_size


def measure(options: Options) -> Found:
    """Row infer_over_trunk. Stem and adapters are all IV-tuning adds, a second patch embedding included."""
    name = options.trunk or "vitdet_b"
    size = options.size or usual_size(name)
    x = options.pair(size)

    def forward(stem: Stem, tuner: Tuner) -> Callable[[], None]:
        trunk = build(name, stem, tuner, options.depth, device=options.device).eval()

        def run() -> None:
            with torch.no_grad(), options.autocast():
                trunk(x)

        return run

    makers = {
        "iv": partial(forward, PromptStem(), IVTuning()),
        "trunk": partial(forward, VisibleOnly(), Frozen()),
    }
    times = interleaved(fitting(makers), options.repeats, "inference", options.warmup, may_not_fit=True)
    found = Found(f"{options.describe(name, size)}, eval mode")
    found.raw["seconds"] = summary(times)
    found.rows["infer_over_trunk"] = Row.between(times, "iv", "trunk")
    found.listings.append(absolute(makers, times, options.batch, "ms"))
    return found
