"""Traces a model and writes its graph as an ONNX file or a program of torch.export."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..utils.files import make_folder, remove_empty
from .graph import ExportedModel
from .options import Options

OPSET = 18
# Protocol buffers end at 2 GB: beyond this many bytes the weights go to a file of their own.
EXTERNAL = 1_900_000_000


def trace(graph: ExportedModel, options: Options) -> torch.export.ExportedProgram:
    """The operations of `graph`, for the batch and the size that `options` say.

    Raises:
        UserError: the model needs a fixed batch or a fixed size; the message says what for.
    """
    args = example_inputs(graph, options)
    shapes: list[dict[int, Any] | None] = []
    for _ in args:
        dims: dict[int, Any] = {}
        if "batch" in options.dynamic:
            dims[0] = torch.export.Dim.DYNAMIC
        shapes.append(dims)
    if "size" in options.dynamic:
        for dims in shapes[: min(len(shapes), 2)]:
            dims |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(graph, args, dynamic_shapes=shapes or None, strict=False)
    except UserError:
        raise
    except Exception as error:  # of many kinds, for what depends on the dimensions left open
        if not options.dynamic:
            raise
        lines = [line.strip(" -") for line in str(error).splitlines()] or [type(error).__name__]
        reason = next((line for line in lines if "specialized" in line), lines[0]).partition(". If ")[0]
        raise UserError(
            f"--dynamic {' --dynamic '.join(options.dynamic)} does not work for this model: {reason:.300}"
        ) from error


def example_inputs(graph: ExportedModel, options: Options) -> tuple[Tensor, ...]:
    """Inputs of the traced size. A dynamic batch is traced with two pairs: one would be a special case."""
    batch = max(2, options.batch) if "batch" in options.dynamic else options.batch
    images = torch.zeros(batch, 3, *options.size, dtype=torch.uint8)
    missing = torch.zeros(batch, 2, dtype=torch.bool)
    return tuple(missing if name == "missing" else images.clone() for name in graph.inputs)


def write(
    program: torch.export.ExportedProgram,
    path: Path,
    graph: ExportedModel,
    metadata: Mapping[str, Any],
    options: Options,
    verify: Callable[[Path], None] = lambda file: None,
) -> None:
    """Write `program` to `path`, an ONNX file by its suffix, else one of torch.export.save; all or nothing.

    Weights beyond 2 GB go to a second file, `path` with ".data" at its end, which belongs beside the first.

    Args:
        verify: called with the file in a temporary place; if it raises, nothing is written.

    Raises:
        UserError: the folder cannot be written.
    """
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    with _staged(path) as folder:
        file = folder / path.name
        if path.suffix == ".onnx":
            _save_onnx(program, file, graph, texts, options)
        else:
            torch.export.save(program, file, extra_files={"metadata.json": json.dumps(texts)})
        verify(file)


def need_exporters() -> None:
    """Raise UserError unless the libraries of the extra `export` are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"exporting to ONNX needs {error.name}: pip install 'ivtuning[export]', or make setup"
        ) from error


def _save_onnx(
    program: torch.export.ExportedProgram,
    file: Path,
    graph: ExportedModel,
    metadata: Mapping[str, str],
    options: Options,
) -> None:
    with torch.no_grad(), _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=graph.inputs,
            output_names=graph.names,
            opset_version=OPSET,
            custom_translation_table=graph.translations,
            verbose=False,
        )
    model = exported.model
    model.metadata_props.update(metadata)
    _name_dimensions(model.graph, options)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    exported.save(file, external_data=size > EXTERNAL)


def _name_dimensions(graph: Any, options: Options) -> None:
    """Call the dynamic dimensions of the inputs "batch", "height" and "width"."""
    names = {}
    if "batch" in options.dynamic:
        names[0] = "batch"
    if "size" in options.dynamic:
        names |= {2: "height", 3: "width"}
    renamed = {}
    for value in graph.inputs:
        for axis, name in names.items():
            if axis < len(value.shape) and not isinstance(value.shape[axis], int):
                renamed[str(value.shape[axis].value)] = name
    for value in (*graph.inputs, *graph.outputs):
        for axis in range(len(value.shape)):
            if not isinstance(value.shape[axis], int) and str(value.shape[axis].value) in renamed:
                value.shape[axis] = renamed[str(value.shape[axis].value)]


@contextlib.contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, whose files replace those of the same names there at the end."""
    new = make_folder(path.parent)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield folder
        # The file itself comes last: while it is the old one, or missing, nothing refers to the new weights.
        files = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
        for file in files:
            os.replace(file, path.parent / file.name)
        if len(files) == 1:  # the weights of a larger model that had this name
            Path(f"{path}.data").unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        remove_empty(new)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporters do not report operations that they leave as they are, or sizes left open."""
    names = ("onnxscript", "onnx_ir", "torch.onnx", "torch.fx.experimental.symbolic_shapes")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
