"""Exports a model: prepares it, traces it, writes the file, and checks what it computes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..utils.files import make_folder, remove_empty
from .check import check_file
from .comparison import Comparison
from .graph import ExportedModel
from .metadata import describe
from .options import Options, file_format
from .pairs import Pair
from .prepare import prepared
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

    The model stays as it is, in evaluation mode. A file whose outputs differ too much is not kept.

    Args:
        check: number of pairs that are compared; 0 compares none.
        pairs: images for that, of the size in `options`; synthetic ones take the place of missing ones.
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
    graph = ExportedModel(prepared(model, options.precision), options)
    metadata = describe(model, graph, options, **facts)
    program = trace(graph, options)
    comparison: list[Comparison] = []

    def verify(file: Path) -> None:
        if check:
            comparison.append(check_file(file, model, options, check, pairs))

    write(program, path, graph, metadata, options, verify)
    return comparison[0] if comparison else None
