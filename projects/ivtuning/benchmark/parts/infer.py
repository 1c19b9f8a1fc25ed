"""Inference: IV-tuning on pairs, against the frozen trunk alone on visible images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ...tuning import Frozen, IVTuning, Tuner
from ...tuning.stems import PromptStem, Stem, VisibleOnly
from ..measures.memory import fitting
from ..measures.timing import interleaved, summary
from ..options import Options
from ..report import Result, Row, absolute
from ..subjects.trunks import build, usual_size


def measure(options: Options) -> Result:
    """Row infer_over_trunk: the cost of all that IV-tuning adds, its second patch embedding included."""
    name = options.trunk or "vitdet_b"
    size = options.size or usual_size(name)
    x = options.random_pairs(size)

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
    result = Result(f"{options.describe(name, size)}, eval mode")
    result.raw["seconds"] = summary(times)
    result.rows["infer_over_trunk"] = Row.between(times, "iv", "trunk")
    result.listings.append(absolute(makers, times, options.batch, "ms"))
    return result
