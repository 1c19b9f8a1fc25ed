"""Growth of a training step's time and memory with the image's pixels and with the trunk's depth."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ... import methods
from ...backbones.trunk import Trunk
from ...utils.files import atomic_write
from ..measures.flops import energy, frozen_trunk
from ..measures.memory import peak_bytes, saved_bytes
from ..measures.timing import interleaved
from ..options import Options
from ..report import Result, Row
from ..subjects.trunks import build, depths, usual_size
from .step import training_step

# Side lengths, relative to the usual one.
SIDES = (0.25, 0.5, 0.75, 1.0, 1.5)
METHODS = {"iv": "IV-tuning", "full": "full fine-tuning", "frozen": "frozen trunk alone"}


def measure(options: Options) -> Result:
    """Rows growth_*: least-squares slopes of log(seconds) and log(bytes) over log(pixels) and log(depth).

    Memory is the allocator's peak on CUDA, and what the forward pass saves for the backward pass on a CPU.
    """
    name = options.trunk or "vitdet_t"
    size = options.size or usual_size(name)
    sizes = [(round(size[0] * part), round(size[1] * part)) for part in SIDES]
    blocks = depths(name, options.depth)
    memory = "the allocator's peak" if torch.cuda.is_available() else "saved for the backward pass"
    result = Result(
        f"{options.describe(name, size)}; pixels: {' '.join(f'{h}x{w}' for h, w in sizes)}; "
        f"depths: {' '.join(map(str, blocks))}; memory: {memory}; a step is that of the part step"
    )
    result.raw["pixels"] = _series(
        options, name, [(h * w, options.depth, (h, w)) for h, w in sizes], "step by pixels"
    )
    result.raw["depth"] = _series(options, name, [(n, n, size) for n in blocks], "step by depth")
    for axis, series in result.raw.items():
        for what in ("step", "memory"):
            result.rows[f"growth_{what}_{axis}"] = _row(series, what)
    if options.plot:
        plot(result.raw, options.plot)
    return result


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of log(y) over log(x)."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _trunk(method: str, name: str, depth: int | None, options: Options) -> Trunk:
    if method == "frozen":
        return frozen_trunk(name, depth, options.device)
    stem, tuner = methods.METHODS["IVTuning" if method == "iv" else "Full"].plugins()
    return build(name, stem, tuner, depth, device=options.device)


def _series(
    options: Options, name: str, points: Sequence[tuple[int, int | None, tuple[int, int]]], label: str
) -> dict[str, Any]:
    """Seconds of every round, and bytes, of all methods at all points (position on the axis, depth, size)."""
    steps, bytes_ = {}, {method: [] for method in METHODS}
    trunks: dict[tuple[str, int | None], Trunk] = {}
    for method in METHODS:
        for x, depth, size in points:
            if (method, depth) not in trunks:
                trunks[method, depth] = _trunk(method, name, depth, options)
            trunk, pair = trunks[method, depth], options.random_pairs(size)
            step = training_step(trunk, pair, options)
            steps[f"{method} {x}"] = step
            bytes_[method].append(peak_bytes(step) or _saved(trunk, pair, options))
    times = interleaved(steps, options.repeats, label)
    axis = [x for x, *_ in points]
    seconds = {method: [times[f"{method} {x}"] for x in axis] for method in METHODS}
    return {"axis": axis, "seconds": seconds, "bytes": bytes_, "exponents": _exponents(axis, seconds, bytes_)}


def _saved(trunk: Trunk, pair: torch.Tensor, options: Options) -> int:
    def run() -> torch.Tensor:
        with options.autocast():
            return energy(trunk(pair))

    return saved_bytes(trunk, run)


def _exponents(axis: list[int], seconds: Mapping, bytes_: Mapping) -> dict[str, dict[str, list[float]]]:
    """Exponents by "step" and "memory", then by method: one per round for times, one for bytes."""
    if len(axis) < 2:
        return {"step": {}, "memory": {}}
    return {
        "step": {m: [exponent(axis, y) for y in zip(*rounds, strict=True)] for m, rounds in seconds.items()},
        "memory": {m: [exponent(axis, y)] for m, y in bytes_.items()},
    }


def _row(series: Mapping[str, Any], what: str) -> Row:
    exponents = series["exponents"][what]
    if not exponents:
        return Row(note="the trunk has one depth only")
    middle = {method: statistics.median(values) for method, values in exponents.items()}
    axis, of_all = series["axis"], series["seconds" if what == "step" else "bytes"]["iv"]
    last = [statistics.median(y) if what == "step" else y for y in of_all[-2:]]
    note = f"full {middle['full']:.2f}, frozen trunk {middle['frozen']:.2f}; "
    note += f"between the last two points {exponent(axis[-2:], last):.2f}"
    spread = (min(exponents["iv"]), max(exponents["iv"])) if what == "step" else None
    return Row(middle["iv"], spread, note=note)


def plot(raw: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Draw time and memory over pixels and depth, both axes logarithmic, into the PNG `path`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(11, 8), dpi=130, layout="constrained")
    axes = figure.subplots(2, len(raw))
    for column, (axis, series) in enumerate(raw.items()):
        seconds = {m: [statistics.median(t) for t in times] for m, times in series["seconds"].items()}
        gigabytes = {m: [b / 1e9 for b in bytes_] for m, bytes_ in series["bytes"].items()}
        for row, (what, values, label) in enumerate(
            (("step", seconds, "seconds a step"), ("memory", gigabytes, "memory, GB"))
        ):
            panel = axes[row][column]
            for method, y in values.items():
                slopes = series["exponents"][what].get(method)
                slope = f" (exponent {statistics.median(slopes):.2f})" if slopes else ""
                panel.loglog(series["axis"], y, marker="o", markersize=4, label=METHODS[method] + slope)
            panel.set(xlabel="blocks" if axis == "depth" else axis, ylabel=label)
            panel.set_xticks(series["axis"], [f"{x:,}" for x in series["axis"]])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
            for format_ticks in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
                format_ticks("{x:g}")
            panel.grid(alpha=0.25, which="both")
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(frameon=False, fontsize=9)
    with atomic_write(path) as temp:
        figure.savefig(temp, format="png")
