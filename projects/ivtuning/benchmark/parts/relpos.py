"""Attention with decomposed relative positions over one large map, against explicit attention."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from ...backbones.attention.relpos import RelPosAttention
from ..measures.memory import saved_bytes
from ..measures.timing import interleaved, ratio, summary
from ..options import Options
from ..report import Result, Row

WIDTH, HEADS = 768, 12  # those of ViT-B


def measure(options: Options) -> Result:
    """Row relpos_saved_ratio, with the ratio of forward and backward times as a fact beside it."""
    side = options.tokens
    torch.manual_seed(0)
    with options.device:
        # Frozen, as in the trunk.
        attention = RelPosAttention(WIDTH, HEADS, use_rel_pos=True, input_size=(side, side)).requires_grad_(
            False
        )
        x = torch.randn(options.batch, side, side, WIDTH, requires_grad=True)
    slow = copy.deepcopy(attention)
    slow.backend = "plain"
    modules = {"ours": attention, "explicit": slow}

    def forward(module: nn.Module) -> torch.Tensor:
        with options.autocast():
            return module(x).float().square().sum()

    def both(module: nn.Module) -> Callable[[], None]:
        return lambda: forward(module).backward()

    saved = {name: saved_bytes(module, lambda m=module: forward(m)) for name, module in modules.items()}
    runs = {name: both(module) for name, module in modules.items()}
    times = interleaved(runs, options.repeats, "attention")
    speed = ratio(times, "ours", "explicit")
    result = Result(f"{side} x {side} tokens, {HEADS} heads, batch {options.batch}, {options.dtype}, frozen")
    result.raw |= {"saved_bytes": saved, "seconds": summary(times)}
    result.facts["relpos_time_ratio"] = speed.median
    result.rows["relpos_saved_ratio"] = Row(
        saved["ours"] / saved["explicit"],
        note=f"forward and backward time {speed.median:.2f} ({speed.low:.2f} to {speed.high:.2f})",
    )
    return result
