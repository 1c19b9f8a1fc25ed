"""Exports a model: prepares it, traces it, writes the file, and checks what it computes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..utils.files import make_folder, remove_empty
from .check import Comparison, Pair, Run, compare, outputs_of, require, synthetic_pairs
from .graph import ExportedModel
from .metadata import describe
from .options import Options, file_format
from .prepare import prepared
from .runner import OnnxModel
from .writing import need_exporters, trace, write


def export_model(
    model: nn.Module,
    path: str | os.PathLike,
    options: Options,
    *,
    check: int = 4,
    pairs: Sequence[Pair] = (),
    **facts: Any,
) -> Comparison | None:
    """Write `model` as one file, *.onnx or *.pt2, and compare the file's outputs with the model's.

    The model stays as it is. A file whose outputs differ too much is not kept.

    Args:
        check: number of pairs that are compared; 0 compares none.
        pairs: images for that, of the size in `options`; synthetic ones take the place of those that lack.
        facts: for the metadata, see :func:`.metadata.describe`.

    Returns:
        What the comparison found; None without one.

    Raises:
        UserError: the model cannot be exported as `options` say, the file cannot be written, a library is
            missing, or the outputs differ.
    """
    path = Path(path)
    if file_format(path) == "onnx":
        need_exporters()
    # Found before the minutes that tracing takes.
    remove_empty(make_folder(path.parent))
    model = model.eval()
    reference = ExportedModel(model, options)
    graph = ExportedModel(prepared(model, options.precision), options)
    metadata = describe(model, graph, options, **facts)
    program = trace(graph, options)
    comparison: list[Comparison] = []

    def verify(file: Path) -> None:
        if check:
            comparison.append(_check(file, reference, options, check, pairs))

    write(program, path, graph, metadata, options, verify)
    return comparison[0] if comparison else None


def _check(
    file: Path, reference: ExportedModel, options: Options, count: int, pairs: Sequence[Pair]
) -> Comparison:
    """Compare the file's outputs with the model's. UserError where they differ too much."""
    device = next(reference.parameters()).device
    reference.cpu()
    run = _onnx(file) if file.suffix == ".onnx" else _program(file, reference)
    both = len(reference.inputs) > 1
    model_fills = "missing" in reference.inputs
    if "batch" not in options.dynamic:
        count = -(-count // options.batch) * options.batch
    chosen = [*pairs][:count]
    chosen += synthetic_pairs(count - len(chosen), options.size, both, model_fills)
    try:
        comparison = compare(reference, run, chosen, options)
        if "size" in options.dynamic:
            other = (options.size[0] * 3 // 4, options.size[1] * 7 // 8)
            more = compare(reference, run, synthetic_pairs(2, other, both, model_fills), options)
            require(more, options)
    finally:
        reference.to(device)
    require(comparison, options)
    return comparison


def _onnx(file: Path) -> Run:
    session = OnnxModel(file)

    def run(pairs: Sequence[Pair]) -> Mapping[str, np.ndarray]:
        columns = [[None if x is None else x.numpy() for x in column] for column in zip(*pairs, strict=True)]
        return session(*columns)

    return run


def _program(file: Path, reference: ExportedModel) -> Run:
    program = torch.export.load(file).module()

    def run(pairs: Sequence[Pair]) -> Mapping[str, np.ndarray]:
        return dict(zip(reference.names, outputs_of(program, reference.inputs, pairs), strict=True))

    return run
