"""Saving and loading an adapter's backbone group against the whole model's checkpoint."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ...backbones.stems import PromptStem
from ...checkpoint import load_adapter, save_adapter
from ...checkpoint.checkpointer import Checkpointer
from ...tuning import IVTuning
from ..measures.timing import interleaved, ratio, summary
from ..options import Options
from ..report import Found, Row
from ..subjects.trunks import build


def measure(options: Options) -> Found:
    """Row adapter_io_ratio, in seconds to save and load; the ratio of bytes is beside it."""
    name = options.trunk or "vit_l"
    trunk = build(name, PromptStem(), IVTuning(), options.depth)
    with tempfile.TemporaryDirectory() as folder:
        adapter, whole = Path(folder, "adapter.safetensors"), Path(folder, "whole.pth")
        checkpointer = Checkpointer(trunk, folder)

        def small() -> None:
            save_adapter(trunk, adapter, groups=["backbone"])
            load_adapter(trunk, adapter)

        def large() -> None:
            checkpointer.save_model("whole")
            checkpointer.load(str(whole), checkpointables=[])

        times = interleaved({"adapter": small, "checkpoint": large}, options.repeats, "adapter files")
        size = {"adapter": adapter.stat().st_size, "checkpoint": whole.stat().st_size}
    found = Found(
        f"{options.called(name)}, fp32, save and load; the checkpoint is the trunk's weights alone, "
        "without an optimizer's state"
    )
    found.raw |= {"seconds": summary(times), "bytes": size}
    found.facts["adapter_bytes_ratio"] = size["adapter"] / size["checkpoint"]
    found.rows["adapter_io_ratio"] = Row.of(
        ratio(times, "adapter", "checkpoint"),
        note=f"{size['adapter'] / 1e6:.1f} MB of {size['checkpoint'] / 1e6:,.0f} MB",
    )
    return found
