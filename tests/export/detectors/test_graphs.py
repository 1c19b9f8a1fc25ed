"""Every family of detectors as an ONNX file: its detections and raw outputs are those of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from detectron2.modeling import postprocessing
from helpers.exported import (
    Sized,
    assert_same_detections,
    cascade_rcnn,
    codino,
    dino,
    mask_rcnn,
    named,
    retinanet,
    run,
    write,
)
from helpers.tiny import sample
from torch import Tensor, nn

from ivtuning.export.detectors import detections, raw_outputs

pytestmark = pytest.mark.slow


def expected_detections(model: nn.Module, batch: list[dict], monkeypatch) -> list:
    """What evaluation sees, with "mask_probabilities" (N, h, w) as they are before they are pasted."""
    paste = postprocessing.ROIMasks.to_bitmasks

    def keep(masks, *arguments):
        kept.append(masks.tensor)
        return paste(masks, *arguments)

    kept: list = []
    monkeypatch.setattr(postprocessing.ROIMasks, "to_bitmasks", keep)
    results = [output["instances"] for output in model(batch)]
    for instances, masks in zip(results, kept, strict=False):
        instances.mask_probabilities = masks
    return results


@torch.no_grad()
def test_any_batch(tmp_path: Path):
    """Of DINO; a trained Faster R-CNN is in test_trained."""
    model, size = dino(), (60, 90)
    batch = [sample(*size, seed=seed) for seed in range(3)]
    expected = [output["instances"] for output in model(batch)]
    images = model.preprocess_image(batch).tensor
    graph = detections(model)
    session = write(Sized(graph, image_size=size), images[:2], tmp_path / "model.onnx", dynamic=True)
    for count in (1, 3):
        assert_same_detections(named(graph, run(session, images[:count])), expected[:count])


@pytest.mark.parametrize("family", [mask_rcnn, cascade_rcnn, retinanet])
@torch.no_grad()
def test_a_fixed_batch_of_another_size(family: Callable, tmp_path: Path, monkeypatch):
    model, size = family(), (90, 60)
    batch = [sample(*size, seed=seed) for seed in range(3)]
    images = model.preprocess_image(batch).tensor
    assert images.shape[-2:] == (96, 64)
    graph = detections(model)
    outputs = run(write(Sized(graph, image_size=size), images, tmp_path / "model.onnx"), images)
    assert_same_detections(named(graph, outputs), expected_detections(model, batch, monkeypatch))


@torch.no_grad()
def test_raw_outputs_of_queries(tmp_path: Path):
    """Of Co-DINO, whose soft-NMS stays with whoever runs the file."""
    model, size = codino(), (60, 90)
    images = model.preprocess_image([sample(*size, seed=seed) for seed in range(3)]).tensor
    graph = raw_outputs(model)
    outputs = run(write(Sized(graph, image_size=size), images, tmp_path / "model.onnx"), images)
    assert_close(outputs, graph(images, size))


def assert_close(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for values, reference in zip(outputs, expected, strict=True):
        assert (values - reference).abs().max() < 1e-4 * reference.abs().max()
