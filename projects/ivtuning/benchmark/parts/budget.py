"""Launches, bytes and FLOPs of a training step, counted from shapes, and their least time on a card."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ...backbones.swin import shift_mask
from ...backbones.trunk import Trunk
from ...methods import METHODS
from ...tuning import IVTuning
from ..measures.cards import Card, find_card
from ..measures.flops import energy
from ..measures.operators import GROUPS, OperatorCounter, Work
from ..options import Options
from ..report import Listing, Result
from ..subjects.reference import plain
from ..subjects.trunks import build, usual_size

HEAD = ["group", "launches", "GB moved", "TFLOPs", "ms for bytes", "ms for FLOPs", "least ms"]


def measure(options: Options) -> Result:
    """Tables of full fine-tuning and of `options.methods`; there are no rows.

    Nothing is computed, so that any machine will do.

    Raises:
        UserError: no such trunk, card or method, or one that trains nothing.
    """
    name = options.trunk or "vitdet_b"
    size = options.size or usual_size(name)
    card = find_card(options.card)
    methods = dict.fromkeys(["Full", *options.trained_methods()])
    budgets = {method: budget(options, name, method, size) for method in methods}
    result = Result(
        timed=False,
        conditions=f"{options.describe(name, size)}, counted; {card.title}: {card.bandwidth / 1e12:g} TB/s, "
        f"{getattr(card, options.dtype) / 1e12:g} TFLOP/s in {options.dtype}; a step is forward, backward "
        "and fused AdamW; attention is with its projections, sites are all that the method and its stem add",
    )
    result.listings.append(_together(budgets, card, options.dtype))
    for method, groups in budgets.items():
        result.listings.append(_groups(method, groups, card, options.dtype))
    result.raw |= {method: {g: vars(w) for g, w in groups.items()} for method, groups in budgets.items()}
    return result


def budget(options: Options, name: str, method: str, size: tuple[int, int]) -> dict[str, Work]:
    """The work of one training step by group, and "optimizer".

    Launches and bytes are those of the kernels that CUDA runs; FLOPs those of the plain definitions, without
    what is computed again.
    """

    def make() -> Trunk:
        return build(name, *METHODS[method].plugins(), options.depth, device="meta")

    trunk = make()
    # Not "auto", which asks what is fastest on this machine's CPU.
    trunk.set_attn_backend("triton" if "triton" in trunk.blocks[0].attn_backends else "fused")
    if isinstance(trunk.tuner, IVTuning):
        trunk.tuner.set_backend("triton")
    trained = [p for p in trunk.parameters() if p.requires_grad]
    work = _step(trunk, options, size)
    flops = _step(plain(make()), dataclasses.replace(options, dtype="fp32"), size)  # the same in any type
    groups = {g: Work(work[g].launches, work[g].moved, flops[g].flops) for g in GROUPS}
    # Weight, gradient and two moments are read, all but the gradient written.
    return groups | {"optimizer": Work(1, 7 * sum(p.nbytes for p in trained))}


def _step(trunk: Trunk, options: Options, size: tuple[int, int]) -> Mapping[str, Work]:
    """Forward and backward pass.

    Autocast, which the meta device lacks, is that of a CPU's fake tensors, with the layer norms of CUDA's.
    """
    half = options.dtype == "bf16"
    shift_mask.cache_clear()  # a fake mask is of use in its own pass alone
    with FakeTensorMode() if half else contextlib.nullcontext():
        device = "cpu" if half else "meta"
        if half:
            _replace_tensors(trunk, lambda x: torch.empty(x.shape, dtype=x.dtype, device=device))
            _widen_norms(trunk)
        x = torch.empty(options.batch, 6, *size, device=device)
        with OperatorCounter(trunk) as counter:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                outputs = trunk(x)
            energy(outputs).backward()
    shift_mask.cache_clear()
    return counter.work


def _widen_norms(trunk: Trunk) -> None:
    """Have plain layer norms compute in float32, as under CUDA's autocast; a CPU's leaves them in bf16."""
    for module in trunk.modules():
        if type(module) is nn.LayerNorm:  # the norm of the trunks' blocks keeps its input's type
            module.register_forward_pre_hook(lambda _, args: (args[0].float(),))


def _replace_tensors(module: nn.Module, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Put ``make(tensor)`` in the place of all parameters and buffers."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(make(p), requires_grad=p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = make(b)


def _line(name: str, work: Work, card: Card, dtype: str) -> list[str]:
    by_bytes, by_flops = card.seconds(0, work.moved, dtype), card.seconds(work.flops, 0, dtype)
    least = card.seconds(work.flops, work.moved, dtype)
    times = [f"{1e3 * t:,.2f}" for t in (by_bytes, by_flops, least)]
    return [name, f"{work.launches:,}", f"{work.moved / 1e9:,.2f}", f"{work.flops / 1e12:,.2f}", *times]


def _groups(method: str, groups: Mapping[str, Work], card: Card, dtype: str) -> Listing:
    return Listing(HEAD, [_line(g, work, card, dtype) for g, work in groups.items()], method)


def _together(budgets: Mapping[str, Mapping[str, Work]], card: Card, dtype: str) -> Listing:
    """The sums of all methods; the least time is the sum of the groups', each bound by its own resource."""
    lines = []
    for method, groups in budgets.items():
        *line, _ = _line(method, sum(groups.values(), Work()), card, dtype)
        least = sum(card.seconds(work.flops, work.moved, dtype) for work in groups.values())
        lines.append([*line, f"{1e3 * least:,.2f}"])
    return Listing(["method", *HEAD[1:]], lines)
