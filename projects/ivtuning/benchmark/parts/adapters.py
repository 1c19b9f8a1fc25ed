"""Saving and loading an adapter's backbone group, against the whole model's checkpoint."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ...checkpoint import load_adapter, save_adapter
from ...checkpoint.checkpointer import Checkpointer
from ...tuning import IVTuning
from ...tuning.stems import PromptStem
from ..measures.timing import interleaved, ratio, summary
from ..options import Options
from ..report import Result, Row
from ..subjects.trunks import build


def measure(options: Options) -> Result:
    """Row adapter_io_ratio: seconds to save and load. The ratio of bytes is a fact beside it."""
    name = options.trunk or "vit_l"
    trunk = build(name, PromptStem(), IVTuning(), options.depth)
    with tempfile.TemporaryDirectory() as folder:
        adapter, checkpoint = Path(folder, "adapter.safetensors"), Path(folder, "whole.pth")
        checkpointer = Checkpointer(trunk, folder)

        def adapter_file() -> None:
            save_adapter(trunk, adapter, groups=["backbone"])
            load_adapter(trunk, adapter)

        def checkpoint_file() -> None:
            checkpointer.save_model("whole")
            checkpointer.load(str(checkpoint), checkpointables=[])

        runs = {"adapter": adapter_file, "checkpoint": checkpoint_file}
        times = interleaved(runs, options.repeats, "adapter files")
        size = {"adapter": adapter.stat().st_size, "checkpoint": checkpoint.stat().st_size}
    result = Result(
        f"{options.trunk_label(name)}, fp32, save and load; the checkpoint has the trunk's weights alone, "
        "without an optimizer's state"
    )
    result.raw |= {"seconds": summary(times), "bytes": size}
    result.facts["adapter_bytes_ratio"] = size["adapter"] / size["checkpoint"]
    result.rows["adapter_io_ratio"] = Row.of(
        ratio(times, "adapter", "checkpoint"),
        note=f"{size['adapter'] / 1e6:.1f} MB of {size['checkpoint'] / 1e6:,.0f} MB",
    )
    return result
