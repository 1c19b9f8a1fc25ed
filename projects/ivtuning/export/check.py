"""Compares an exported file with the model that it was made of."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .. import compat

compat.prepare()

import numpy as np
import torch
from torch import nn

from ..errors import UserError
from .comparison import LIMITS, REORDERED, Comparison, Limits
from .graph import ExportedModel
from .options import Options
from .pairs import Pair, samples, synthetic_pairs
from .runner import OnnxModel

Run = Callable[[Sequence[Pair]], Mapping[str, np.ndarray]]


def check_file(
    file: Path, model: nn.Module, options: Options, count: int, pairs: Sequence[Pair] = ()
) -> Comparison:
    """Compare the outputs of `file` with what `model` computes by itself.

    Predictions are compared with the model's inference, outputs of other stages with its graph before
    anything is folded. The last of several pairs lacks its infrared image if the model fills missing ones.

    Args:
        count: the number of pairs, rounded up to whole batches.
        pairs: images of the size in `options`; synthetic ones take the place of missing ones.

    Raises:
        UserError: the outputs differ too much.
    """
    device = next(model.parameters()).device
    graph = ExportedModel(model, options).cpu()
    run = _onnx(file) if file.suffix == ".onnx" else _program(file, graph)
    both = len(graph.inputs) > 1
    if "batch" not in options.dynamic:
        count = -(-count // options.batch) * options.batch
    chosen = [*pairs][:count]
    chosen += synthetic_pairs(count - len(chosen), options.size, both)
    if both and count > 1 and getattr(model, "fill_missing", "error") != "error":
        chosen[-1] = (chosen[-1][0], None)
    advice = ""
    if options.precision == "fp16":
        reasons = graph.rounding_risk, "export with --precision fp32"
        advice = "".join(f": {words}" for words in reasons if words)
    try:
        comparison = compare(model, graph, run, chosen, options)
        if "size" in options.dynamic:
            other = (options.size[0] * 3 // 4, options.size[1] * 7 // 8)
            require(compare(model, graph, run, synthetic_pairs(2, other, both), options), advice)
    finally:
        model.to(device)
    require(comparison, advice)
    return comparison


def compare(
    model: nn.Module, graph: ExportedModel, run: Run, pairs: Sequence[Pair], options: Options
) -> Comparison:
    """Run all `pairs` through model and file, in batches of the file's size, and compare what they give.

    Args:
        graph: the model's own graph, which has no parts replaced.
        run: computes the outputs by the file.
    """
    result = Comparison(limits_of(graph, options))
    step = 3 if "batch" in options.dynamic else options.batch
    for start in range(0, len(pairs), step):
        some = pairs[start : start + step]
        actual = run(some)
        result.pairs += len(some)
        if options.stage in (None, "detections"):
            _compare_predictions(result, actual, model, some)
            continue
        expected = dict(zip(graph.names, outputs_of(graph, graph.inputs, some), strict=True))
        ranked = [name for name in graph.names if name in graph.ranked]
        if ranked:
            result.add_rows(*({name: side[name] for name in ranked} for side in (actual, expected)))
        for name in expected.keys() - set(ranked):
            result.add(name, actual[name], expected[name])
    return result


def limits_of(graph: ExportedModel, options: Options) -> Limits:
    """How far the outputs of a file may be from those of `graph`."""
    limits = LIMITS[options.precision]
    return replace(limits, share=min(limits.share, REORDERED)) if graph.rounding_risk else limits


def require(comparison: Comparison, advice: str = "") -> None:
    """Raise UserError, which ends with `advice`, where differences lie beyond the limits."""
    failed = comparison.failures()
    if failed:
        raise UserError(f"the file does not compute what the model does: {'; '.join(failed)}{advice}")


@torch.inference_mode()
def _compare_predictions(
    result: Comparison, actual: Mapping[str, np.ndarray], model: nn.Module, pairs: Sequence[Pair]
) -> None:
    expected = model(samples(pairs))
    if "instances" in expected[0]:
        for i, found in enumerate(expected):
            result.add_detections({name: value[i] for name, value in actual.items()}, found["instances"])
    elif "scores" in expected[0]:
        result.add("scores", actual["scores"], torch.stack([x["scores"] for x in expected]).numpy())
    else:
        logits = torch.stack([x["sem_seg"] for x in expected])
        result.add("label_map", actual["label_map"], logits.argmax(1).numpy())
        result.add("probabilities", actual["probabilities"], logits.softmax(1).numpy())


@torch.inference_mode()
def outputs_of(graph: Callable, inputs: Sequence[str], pairs: Sequence[Pair]) -> list[np.ndarray]:
    """What `graph` gives for a batch of pairs; `inputs` are the names of what it takes."""
    images = [name for name in inputs if name != "missing"]
    columns = [[pair[i] for pair in pairs] for i in range(len(images))]
    black = torch.zeros_like(next(x for column in columns for x in column if x is not None))
    tensors = [torch.stack([black if x is None else x for x in column]) for column in columns]
    if "missing" in inputs:
        tensors.append(torch.tensor([[x is None for x in pair] for pair in pairs]))
    return [output.numpy() for output in graph(*tensors)]


def _onnx(file: Path) -> Run:
    session = OnnxModel(file)

    def run(pairs: Sequence[Pair]) -> Mapping[str, np.ndarray]:
        columns = [[None if x is None else x.numpy() for x in column] for column in zip(*pairs, strict=True)]
        return session(*columns)

    return run


def _program(file: Path, graph: ExportedModel) -> Run:
    program = torch.export.load(file).module()

    def run(pairs: Sequence[Pair]) -> Mapping[str, np.ndarray]:
        return dict(zip(graph.names, outputs_of(program, graph.inputs, pairs), strict=True))

    return run
