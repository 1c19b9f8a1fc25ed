"""Training steps and what they keep: IV-tuning, full fine-tuning of the same trunk, and the reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..backbones.block import RECOMPUTE
from ..backbones.stems import PromptStem, SumStem
from ..backbones.trunk import Trunk
from ..tuning import Frozen, Full, IVTuning
from .flops import energy, floor, frozen_trunk
from .memory import peak_bytes, saved_bytes
from .models import build, usual_size
from .options import Options
from .reference import plain
from .report import Found, Row
from .timing import interleaved, ratio, summary

LARGE = (1024, 1024)


def training_step(trunk: Trunk, x: Tensor, options: Options) -> Callable[[], None]:
    """One step on `x`: forward pass, backward pass of the sum of squares, AdamW."""
    optimizer = torch.optim.AdamW([p for p in trunk.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def step() -> None:
        with options.autocast():
            loss = energy(trunk(x))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(options: Options) -> Found:
    """Rows step_*, saved_* and adapter_forward_share, with the counted floor."""
    name = options.trunk or "vitdet_b"
    size = options.size or usual_size(name)
    found = Found(
        f"{options.describe(name, size)}; full: tuner Full, SumStem; IV-tuning: PromptStem, IVTuning; a step "
        "is forward, backward, AdamW on the sum of squares of the outputs"
    )
    bound = floor(name, size, options.depth)
    found.raw["flops"] = bound
    found.facts["floor"] = bound["ratio"]
    _steps(found, options, name, size, bound["ratio"])
    _share(found, options, name, size)
    if size == LARGE:
        found.rows["step_over_reference_1024"] = found.rows["step_over_reference"]
    elif options.large:
        _large(found, options, name)
    else:
        found.rows["step_over_reference_1024"] = Row(note="left out")
    return found


def _iv(options: Options, name: str, recompute: str | None = None) -> Trunk:
    return build(name, PromptStem(), IVTuning(), options.depth, recompute, options.device)


def _steps(found: Found, options: Options, name: str, size: tuple[int, int], bound: float) -> None:
    """Everything at one size, in one set of rounds."""
    x = options.pair(size)
    trunks = {
        "full": build(name, SumStem(), Full(), options.depth, device=options.device),
        "iv": _iv(options, name),
    }
    trunks["reference"] = plain(trunks["iv"])
    modes = [mode for mode in RECOMPUTE if mode]
    trunks |= {f"iv_{mode}": _iv(options, name, mode) for mode in modes}

    saved = {key: _saved(trunk, x, options) for key, trunk in trunks.items()}
    saved["frozen"] = _saved(frozen_trunk(name, options.depth, options.device), x, options)
    found.raw["saved_bytes"] = saved
    found.facts["saved_floor"] = saved["frozen"] / saved["full"]

    steps = {key: training_step(trunk, x, options) for key, trunk in trunks.items()}
    times = interleaved(steps, options.repeats, "step")
    found.raw["step_seconds"] = summary(times)
    peaks = {key: peak_bytes(step) for key, step in steps.items()}
    if None not in peaks.values():
        found.raw["peak_bytes"] = peaks

    aim = f"<= {1.08 * bound:.3f}: 1.08 x {bound:.3f} (counted FLOPs, frozen / full)"
    found.rows["step_over_full"] = Row.of(ratio(times, "iv", "full"), target=aim)
    found.rows["step_over_reference"] = Row.of(ratio(times, "iv", "reference"))
    least, whole = found.facts["saved_floor"], saved["full"] / 1e6
    note = f"floor without adapters {least:.3f}; full keeps {whole:,.0f} MB"
    found.rows["saved_over_full"] = Row(saved["iv"] / saved["full"], note=note)
    for mode in modes:
        found.rows[f"saved_over_full_{mode}"] = Row(saved[f"iv_{mode}"] / saved["full"])
        found.rows[f"step_over_full_{mode}"] = Row.of(ratio(times, f"iv_{mode}", "full"))


def _saved(trunk: Trunk, x: Tensor, options: Options) -> int:
    def run() -> Tensor:
        with options.autocast():
            return energy(trunk(x))

    return saved_bytes(trunk, run)


def _share(found: Found, options: Options, name: str, size: tuple[int, int]) -> None:
    """The adapters' share of a forward pass that keeps its graph: the same stem with and without them."""
    x = options.pair(size)
    bare = build(name, PromptStem(), Frozen(), options.depth, device=options.device)

    def forward(trunk: Trunk) -> Callable[[], object]:
        def run() -> object:
            with options.autocast():
                return trunk(x)

        return run

    runs = {"bare": forward(bare), "iv": forward(_iv(options, name))}
    times = interleaved(runs, options.repeats, "forward")
    found.raw["forward_seconds"] = summary(times)
    middle, low, high = ratio(times, "bare", "iv")
    found.rows["adapter_forward_share"] = Row(1 - middle, (1 - high, 1 - low))


def _large(found: Found, options: Options, name: str) -> None:
    """IV-tuning and the reference at 1024 x 1024 pixels."""
    x = options.pair(LARGE)
    iv = _iv(options, name)
    runs = {"iv": training_step(iv, x, options), "reference": training_step(plain(iv), x, options)}
    times = interleaved(runs, options.repeats, "step at 1024 px")
    found.raw["step_seconds_1024"] = summary(times)
    found.rows["step_over_reference_1024"] = Row.of(ratio(times, "iv", "reference"))
