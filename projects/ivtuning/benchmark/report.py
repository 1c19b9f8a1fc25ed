"""The rows of the benchmark: what each is, its target, and how they are shown."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from .measures.out_of_memory import lost
from .measures.timing import Ratio, Times, ratio

# key: (what it is, target); a target that depends on what was measured comes with the row
ROWS = {
    "step_over_full": ("IV-tuning step / full fine-tuning step", "<= 1.08 x floor"),
    "step_frozen_over_full": ("frozen trunk's step / full fine-tuning's", ""),
    "step_over_reference": ("IV-tuning step / plain reference", "<= 0.65 at 512 px"),
    "step_over_reference_1024": ("the same at 1024 px", "<= 0.50"),
    "saved_over_full": ("saved activations, IV-tuning / full", "<= 0.70"),
    "saved_over_full_mlp": ("the same with MLP activation_checkpointing", "<= 0.45"),
    "step_over_full_mlp": ("its step / full fine-tuning's", "<= 0.88"),
    "saved_over_full_block": ("saved activations with block activation_checkpointing", "<= 0.15"),
    "step_over_full_block": ("its step / full fine-tuning's", "<= 1.12"),
    "adapter_forward_share": ("adapters' share of the forward pass", "<= 0.06"),
    "utilization_iv": ("counted arithmetic of an IV-tuning step / its time / rate", ""),
    "utilization_full": ("the same of full fine-tuning", ""),
    "relpos_saved_ratio": ("rel-pos attention, saved bytes / explicit", "<= 0.10, and faster"),
    "infer_over_trunk": ("inference, IV-tuning / frozen trunk alone", "<= 1.05"),
    "coco_eval_ratio": ("COCO evaluation / pycocotools", "<= 0.15"),
    "loader_over_decode": ("paired loader / decoding alone, images per second", ">= 0.85"),
    "adapter_io_ratio": ("adapter save + load / full checkpoint's", "<= 0.05"),
    "startup_ratio": ("train_net.py --help / import torch", "<= 1.3"),
    "growth_step_pixels": ("IV-tuning step, exponent in pixels", ""),
    "growth_memory_pixels": ("its memory, exponent in pixels", ""),
    "growth_step_depth": ("IV-tuning step, exponent in blocks", ""),
    "growth_memory_depth": ("its memory, exponent in blocks", ""),
    "scale_speedup": ("IV-tuning, samples per second, N processes / 1", ""),
    "scale_reduce_share": ("share of its step that waits for the all-reduce", ""),
    "scale_bytes_ratio": ("gradient bytes reduced in a step, IV-tuning / full", ""),
    "model_step_over_full": ("whole model, training step / full fine-tuning's", ""),
    "model_infer_over_full": ("whole model, inference / full fine-tuning's", ""),
    "model_peak_over_full": ("whole model, peak memory in training / full fine-tuning's", ""),
}


@dataclass(frozen=True)
class Row:
    """One figure: None where there is none yet, and `note` says why; `spread` is smallest and largest."""

    value: float | None = None
    spread: tuple[float, float] | None = None
    target: str | None = None
    note: str = ""

    @classmethod
    def of(cls, ratio: Ratio, **kwargs: str) -> Row:
        return cls(ratio.median, (ratio.low, ratio.high), **kwargs)

    @classmethod
    def between(cls, times: Times, over: str, under: str, target: str | None = None) -> Row:
        """Seconds of `over` / seconds of `under`; no figure where one of them did not fit into memory."""
        note = lost(times, over, under)
        return cls(target=target, note=note) if note else cls.of(ratio(times, over, under), target=target)

    @classmethod
    def of_bytes(cls, bytes_: Mapping[str, int], over: str, under: str, note: str = "") -> Row:
        """Bytes of `over` / bytes of `under`, likewise."""
        missing = lost(bytes_, over, under)
        return cls(note=missing) if missing else cls(bytes_[over] / bytes_[under], note=note)


@dataclass(frozen=True)
class Listing:
    """Figures as they are, not as ratios: a second table under a part's rows."""

    head: list[str]
    lines: list[list[str]]
    title: str = ""


@dataclass
class Found:
    """What one part measured.

    Attributes:
        conditions: under which, in words.
        rows: by key of ROWS.
        facts: further figures by name, such as "floor".
        raw: what the rows were made from: seconds, bytes, FLOPs.
        listings: further tables.
    """

    conditions: str
    rows: dict[str, Row] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    listings: list[Listing] = field(default_factory=list)


def machine(repeats: int) -> dict[str, Any]:
    """What the figures depend on besides the part's own conditions."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else _cpu(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": repeats,
    }


def absolute(
    names: Iterable[str],
    times: Times,
    batch: int,
    what: str,
    bytes_: Mapping[str, Mapping[str, int]] | None = None,
) -> Listing:
    """Milliseconds and images a second of the runs `names`, pairs counting once, beside their bytes in GB.

    Args:
        times: of those that fitted into memory.
        what: head of the milliseconds.
        bytes_: by head of the column, then by run.
    """
    lines = []
    for name in names:
        line = [name, "out of memory", ""]
        if name in times:
            line = [name, *pace(times[name], batch)]
        columns = (bytes_ or {}).values()
        lines.append(line + [f"{c[name] / 1e9:.2f}" if name in c else "" for c in columns])
    return Listing(["run", what, "images/s", *(bytes_ or {})], lines)


def pace(seconds: Iterable[float], batch: int) -> tuple[str, str]:
    """Milliseconds of a batch, by the median of its rounds, and images a second."""
    middle = statistics.median(seconds)
    return f"{1e3 * middle:,.1f}", f"{batch / middle:,.1f}"


def table(part: str, found: Found, where: Mapping[str, Any]) -> str:
    """A part's rows in markdown, under its conditions, and its further tables."""
    lines = []
    for key, row in sorted(found.rows.items(), key=lambda item: list(ROWS).index(item[0])):
        what, target = ROWS[key]
        value = "-" if row.value is None else f"{row.value:.3f}"
        spread = f"{row.spread[0]:.3f} to {row.spread[1]:.3f}" if row.spread else ""
        lines.append([key, what, value, spread, row.target or target, row.note])
    head = ["key", "what", "ratio", "spread", "target", "note"]
    text = (
        f"### {part}\n\n{where['device']}, {where['threads']} threads, torch {where['torch']}, "
        f"{where['repeats']} interleaved repeats; {found.conditions}"
    )
    for each in ([Listing(head, lines)] if lines else []) + found.listings:
        title = f"{each.title}\n\n" if each.title else ""
        text += f"\n\n{title}" + tabulate(each.lines, each.head, tablefmt="pipe", disable_numparse=True)
    return text


def as_json(parts: Mapping[str, Found], where: Mapping[str, Any]) -> dict[str, Any]:
    """All parts as one object.

    Every key of ROWS is there, null where its part was not run or has no figure; "notes" tells why. Then the
    facts ("floor", "saved_floor", ...), "spread" (smallest and largest by key), "raw" and "conditions" by
    part, and "machine".
    """
    rows = {key: row for found in parts.values() for key, row in found.rows.items()}
    return {
        **{key: rows[key].value if key in rows else None for key in ROWS},
        **{name: value for found in parts.values() for name, value in found.facts.items()},
        "spread": {key: row.spread for key, row in rows.items() if row.spread},
        "notes": {key: rows[key].note if key in rows else "not asked for" for key in ROWS},
        "raw": {part: found.raw for part, found in parts.items()},
        "conditions": {part: found.conditions for part, found in parts.items()},
        "machine": dict(where),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
