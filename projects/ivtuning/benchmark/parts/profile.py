"""The kernels of a training step that take longest, with IV-tuning and with full fine-tuning."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from ...methods import METHODS
from ...tuning import Tuner
from ...tuning.stems import Stem
from ..measures.memory import fitting
from ..measures.timing import Times, interleaved, wait
from ..options import Options
from ..report import Listing, Result
from ..subjects.trunks import build, usual_size
from .step import training_step

STEPS, SHOWN, WIDTH = 2, 10, 80


def measure(options: Options) -> Result:
    """Tables of the longest kernels (on a CPU: operators) and their sums; there are no rows."""
    name = options.trunk or "vitdet_b"
    size = options.size or usual_size(name)
    x = options.random_pairs(size)

    def step(stem: Stem, tuner: Tuner) -> Callable[[], None]:
        trunk = build(name, stem, tuner, options.depth, device=options.device)
        return training_step(trunk, x, options)

    makers = {
        "IV-tuning": partial(step, *METHODS["IVTuning"].plugins()),
        "full fine-tuning": partial(step, *METHODS["Full"].plugins()),
    }
    steps = fitting(makers)
    times = interleaved(steps, options.repeats, "step", options.warmup, may_not_fit=True)
    profiles = fitting({method: partial(kernels, run) for method, run in steps.items()})
    result = Result(f"{options.describe(name, size)}; a step is that of the part step, profiled over {STEPS}")
    what = "kernel" if options.device.type == "cuda" else "operator"
    result.listings.append(_sums(makers, times, profiles, what))
    for method, rows in profiles.items():
        result.raw[method] = {
            "kernels": rows,
            "step_seconds": statistics.median(times[method]),
            **_totals(rows),
        }
        result.listings.append(_top(method, rows, what))
    return result


def kernels(step: Callable[[], object]) -> list[dict[str, Any]]:
    """Name, milliseconds and calls per step of every kernel (on a CPU: operator), longest first."""
    cuda = torch.cuda.is_available()
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    wait()
    with torch.profiler.profile(activities=[activity]) as profiler:
        for _ in range(STEPS):
            step()
        wait()
    rows = []
    for event in profiler.key_averages():
        # The optimizer's annotation spans kernels that are listed themselves.
        if (event.device_type == DeviceType.CUDA) != cuda or event.is_user_annotation:
            continue
        micros = event.self_device_time_total if cuda else event.self_cpu_time_total
        rows.append({"name": event.key, "ms": micros / 1e3 / STEPS, "calls": event.count / STEPS})
    return sorted(rows, key=lambda row: -row["ms"])


def _totals(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {"ms": sum(row["ms"] for row in rows), "calls": sum(row["calls"] for row in rows)}


def _sums(
    methods: Iterable[str], times: Times, profiles: Mapping[str, list[dict[str, Any]]], what: str
) -> Listing:
    lines = []
    for method in methods:
        line = [method, "out of memory", "", ""]
        if method in profiles:
            sums, wall = _totals(profiles[method]), 1e3 * statistics.median(times[method])
            line = [method, f"{sums['calls']:,.0f}", f"{sums['ms']:,.2f}", f"{wall:,.2f}"]
        lines.append(line)
    return Listing(["method", f"{what}s a step", "their ms a step", "wall ms a step"], lines)


def _top(method: str, rows: list[dict[str, Any]], what: str) -> Listing:
    whole = _totals(rows)["ms"]
    lines = []
    for row in rows[:SHOWN]:
        name = row["name"][:WIDTH].replace("|", "/")  # it stands in a markdown table
        lines.append([name, f"{row['ms']:,.3f}", f"{row['calls']:,.1f}", f"{row['ms'] / whole:.3f}"])
    return Listing([what, "ms a step", "calls a step", "share"], lines, method)
