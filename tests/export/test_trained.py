"""A trained detector's file finds what the model finds, in images of two sizes, complete or not."""

from __future__ import annotations

import onnx
import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers.exported import assert_same_detections
from helpers.tiny import detector, sample

from ivtuning.export.export import export_model
from ivtuning.export.options import Options
from ivtuning.export.runner import OnnxModel
from ivtuning.export.writing import OPSET

pytestmark = pytest.mark.slow

ONE_BLOCK = ("model.backbone.net.depth=1", "model.backbone.net.global_blocks=[0]")
SIZES = (64, 96), (56, 80)
KEYS = "image", "image_ir"
STEPS = 100


@pytest.fixture(scope="module")
def batches():
    """Eight pairs of each size. One of each lacks its infrared image."""
    batches = [[sample(*size, seed=10 * k + i) for i in range(8)] for k, size in enumerate(SIZES)]
    for batch in batches:
        del batch[4]["image_ir"]
    return batches


@pytest.fixture(scope="module")
def trained(batches):
    """Faster R-CNN with IV-tuning that has learned these pairs."""
    model = detector(*ONE_BLOCK, "model.fill_missing=mean", "model.square_pad=96").train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    with EventStorage():
        for step in range(STEPS):
            optimizer.zero_grad()
            sum(model(batches[step % 2]).values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def test_its_file_finds_the_same(trained, batches, tmp_path):
    path = tmp_path / "model.onnx"
    comparison = export_model(trained, path, Options(SIZES[0], dynamic=("batch", "size")))
    assert comparison.pairs == 4 and comparison.matched == comparison.boxes
    file = onnx.load(path)
    assert [(x.domain, x.version) for x in file.opset_import] == [("", OPSET)]
    assert {node.domain for node in file.graph.node} == {""} and not file.functions
    session = OnnxModel(path)
    confident = 0
    for batch in batches:
        for count in (1, 3):
            for start in range(0, len(batch), count):
                some = batch[start : start + count]
                columns = [[x[key].numpy() if key in x else None for x in some] for key in KEYS]
                found = {name: torch.from_numpy(value) for name, value in session(*columns).items()}
                with torch.inference_mode():
                    expected = [output["instances"] for output in trained(some)]
                assert_same_detections(found, expected)
                confident += sum(int((x.scores > 0.5).sum()) for x in expected)
    assert confident > 16


def test_raw_outputs_are_compared_row_by_row(trained, tmp_path):
    comparison = export_model(trained, tmp_path / "raw.onnx", Options(SIZES[0], stage="raw"))
    assert set(comparison.errors) == {"objectness", "anchor_boxes"}
    assert set(comparison.row_errors) == {"proposals", "probabilities", "boxes"}
    assert max([*comparison.errors.values(), *comparison.row_errors.values()]) <= 1e-4
    assert comparison.matched_rows == comparison.rows > 100
