"""The benchmark's rows: their meaning, their targets, and how they are printed."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from .measures.memory import missing_note
from .measures.timing import Ratio, Times, ratio

# key: (meaning, target); a target that depends on the measurement comes with the row
ROWS = {
    "step_over_full": ("IV-tuning step / full fine-tuning step", "<= 1.08 x floor"),
    "step_frozen_over_full": ("frozen trunk's step / full fine-tuning's", ""),
    "step_over_reference": ("IV-tuning step / plain reference", "<= 0.65 at 512 px"),
    "step_over_reference_1024": ("the same at 1024 px", "<= 0.50"),
    "saved_over_full": ("saved activations, IV-tuning / full", "<= 0.70"),
    "saved_over_full_mlp": ("the same with activation_checkpointing=mlp", "<= 0.45"),
    "step_over_full_mlp": ("its step / full fine-tuning's", "<= 0.88"),
    "saved_over_full_block": ("saved activations with activation_checkpointing=block", "<= 0.15"),
    "step_over_full_block": ("its step / full fine-tuning's", "<= 1.12"),
    "adapter_forward_share": ("adapters' share of the forward pass", "<= 0.06"),
    "utilization_iv": ("counted arithmetic of an IV-tuning step / its time / rate", ""),
    "utilization_full": ("the same for full fine-tuning", ""),
    "alternatives_full": ("full fine-tuning, our ViTDet's step / detectron2's", "< 1"),
    "alternatives_full_saved": ("saved activations of these two", "< 1"),
    "alternatives_iv": ("IV-tuning step / full fine-tuning of detectron2's ViTDet", "< 1"),
    "alternatives_iv_saved": ("saved activations of these two", "< 1"),
    "alternatives_plain": ("IV-tuning step / its modules one by one on explicit attention", "< 1"),
    "alternatives_plain_saved": ("saved activations of these two", "< 1"),
    "alternatives_lora": ("our LoRA's step / peft's on timm's ViT", "< 1"),
    "alternatives_lora_saved": ("saved activations of these two", "< 1"),
    "alternatives_iv_lora": ("IV-tuning step / peft's LoRA on timm's ViT", "< 1"),
    "alternatives_iv_lora_saved": ("saved activations of these two", "< 1"),
    "relpos_saved_ratio": ("rel-pos attention, saved bytes / explicit", "<= 0.10, and faster"),
    "oriented_nms_over_upright": ("NMS of 10,000 oriented boxes / torchvision's of upright ones", ""),
    "infer_over_trunk": ("inference, IV-tuning / frozen trunk alone", "<= 1.05"),
    "predict_over_model": ("Predictor / its model on the mapped pair", "<= 1.03 at batch 1"),
    "predict_over_parts": ("Predictor / its mapper and model, called by hand", ""),
    "export_vitdet_b": ("onnxruntime / PyTorch, inference of ViTDet-B", ""),
    "export_segformer_swin_l": ("the same for SegFormer on Swin-L", ""),
    "export_dino_swin_l": ("the same for DINO on Swin-L", ""),
    "export_config": ("onnxruntime / PyTorch, inference of the config's model", ""),
    "coco_eval_ratio": ("COCO evaluation / pycocotools", "<= 0.15"),
    "loader_over_decode": ("paired loader / decoding alone, images per second", ">= 0.85"),
    "adapter_io_ratio": ("adapter save + load / full checkpoint's", "<= 0.05"),
    "startup_ratio": ("train_net.py --help / import torch", "<= 1.3"),
    "growth_step_pixels": ("IV-tuning step, exponent in pixels", ""),
    "growth_memory_pixels": ("its memory, exponent in pixels", ""),
    "growth_step_depth": ("IV-tuning step, exponent in blocks", ""),
    "growth_memory_depth": ("its memory, exponent in blocks", ""),
    "distributed_speedup": ("IV-tuning, samples per second, N processes / 1", ""),
    "distributed_reduce_share": ("share of its step spent waiting for the all-reduce", ""),
    "distributed_bytes_ratio": ("gradient bytes reduced in a step, IV-tuning / full", ""),
    "neighbor_step_1": ("training step beside 1 busy process / alone", ""),
    "neighbor_step_2": ("training step beside 2 busy processes / alone", ""),
    "neighbor_eval_1": ("evaluation beside 1 busy process / alone", ""),
    "neighbor_eval_2": ("evaluation beside 2 busy processes / alone", ""),
    "model_step_over_full": ("whole model, training step / full fine-tuning's", ""),
    "model_infer_over_full": ("whole model, inference / full fine-tuning's", ""),
    "model_peak_over_full": ("whole model, peak memory in training / full fine-tuning's", ""),
}


@dataclass(frozen=True)
class Row:
    """One figure, and its spread (smallest, largest). If `value` is None, `note` says why."""

    value: float | None = None
    spread: tuple[float, float] | None = None
    target: str | None = None
    note: str = ""

    @classmethod
    def of(cls, ratio: Ratio, **kwargs: str) -> Row:
        """The row of a ratio with its spread."""
        return cls(ratio.median, (ratio.low, ratio.high), **kwargs)

    @classmethod
    def between(cls, times: Times, over: str, under: str, target: str | None = None) -> Row:
        """Seconds of `over` / seconds of `under`; no value if one of them did not fit into memory."""
        note = missing_note(times, over, under)
        return cls(target=target, note=note) if note else cls.of(ratio(times, over, under), target=target)

    @classmethod
    def of_bytes(cls, bytes_: Mapping[str, int], over: str, under: str, note: str = "") -> Row:
        """Bytes of `over` / bytes of `under`; no value if one of them did not fit into memory."""
        missing = missing_note(bytes_, over, under)
        return cls(note=missing) if missing else cls(bytes_[over] / bytes_[under], note=note)


@dataclass(frozen=True)
class Listing:
    """Absolute figures instead of ratios: a further table below a part's rows."""

    head: list[str]
    lines: list[list[str]]
    title: str = ""


@dataclass
class Result:
    """The measurements of one part.

    Attributes:
        conditions: the conditions, in words.
        timed: whether the figures depend on the machine and its repeats.
        rows: by key of ROWS.
        facts: further figures by name, such as "floor".
        raw: the seconds, bytes and FLOPs that the rows were computed from.
        listings: further tables.
    """

    conditions: str
    timed: bool = True
    rows: dict[str, Row] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    listings: list[Listing] = field(default_factory=list)


def machine(repeats: int) -> dict[str, Any]:
    """The machine and the versions that all figures depend on."""
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
    """Milliseconds, images per second (a pair counts once) and gigabytes of the runs `names`.

    Args:
        times: of the runs that fitted into memory.
        what: heading of the milliseconds.
        bytes_: bytes by heading of the column, then by run.
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
    """Milliseconds per batch (the median of the rounds) and images per second."""
    middle = statistics.median(seconds)
    return f"{1e3 * middle:,.1f}", f"{batch / middle:,.1f}"


def table(part: str, result: Result, where: Mapping[str, Any]) -> str:
    """A part's conditions, rows and further tables, in markdown."""
    lines = []
    for key, row in sorted(result.rows.items(), key=lambda item: list(ROWS).index(item[0])):
        what, target = ROWS[key]
        value = "-" if row.value is None else f"{row.value:.3f}"
        spread = f"{row.spread[0]:.3f} to {row.spread[1]:.3f}" if row.spread else ""
        lines.append([key, what, value, spread, row.target or target, row.note])
    head = ["key", "what", "ratio", "spread", "target", "note"]
    machine = f"{where['device']}, {where['threads']} threads, "
    timed = f", {where['repeats']} interleaved repeats"
    conditions = f"torch {where['torch']}{timed * result.timed}; {result.conditions}"
    text = f"### {part}\n\n{machine * result.timed}{conditions}"
    for each in ([Listing(head, lines)] if lines else []) + result.listings:
        title = f"{each.title}\n\n" if each.title else ""
        text += f"\n\n{title}" + tabulate(each.lines, each.head, tablefmt="pipe", disable_numparse=True)
    return text


def as_json(results: Mapping[str, Result], where: Mapping[str, Any]) -> dict[str, Any]:
    """The results of all parts as one object.

    Every key of ROWS is present, null where its part was not run or has no figure; "notes" says why. Then
    follow the facts ("floor", "saved_floor", ...), "spread" (smallest and largest by key), "raw" and
    "conditions" by part, and "machine".
    """
    rows = {key: row for result in results.values() for key, row in result.rows.items()}
    return {
        **{key: rows[key].value if key in rows else None for key in ROWS},
        **{name: value for result in results.values() for name, value in result.facts.items()},
        "spread": {key: row.spread for key, row in rows.items() if row.spread},
        "notes": {key: rows[key].note if key in rows else "not asked for" for key in ROWS},
        "raw": {part: result.raw for part, result in results.items()},
        "conditions": {part: result.conditions for part, result in results.items()},
        "machine": dict(where),
    }


def _cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
