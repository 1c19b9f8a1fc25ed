"""A trained detector's file finds what the model finds in new images of two sizes, complete or not."""

from __future__ import annotations

import onnx
import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers.exported import assert_same_detections
from helpers.tiny import detector, sample
from torchvision.ops import box_iou

from ivtuning.export.export import export_model
from ivtuning.export.options import Options
from ivtuning.export.runner import OnnxModel
from ivtuning.export.writing import OPSET

pytestmark = pytest.mark.slow

ONE_BLOCK = ("model.backbone.net.depth=1", "model.backbone.net.global_blocks=[0]")
SIZES = (64, 96), (56, 80)
KEYS = "image", "image_ir"
STEPS = 60


def scenes(size: tuple[int, int], first_seed: int) -> list[dict]:
    """Eight pairs of dim noise with two bright objects, each class in a color of its own."""
    batch = [sample(*size, seed=first_seed + i) for i in range(8)]
    for x in batch:
        for key in KEYS:
            x[key] //= 4
            for label, box in zip(
                x["instances"].gt_classes, x["instances"].gt_boxes.tensor.int(), strict=True
            ):
                x[key][int(label), box[1] : box[3], box[0] : box[2]] += 180
    return batch


@pytest.fixture(scope="module")
def trained():
    """Faster R-CNN with IV-tuning that finds such objects."""
    batches = [scenes(size, 100 * k) for k, size in enumerate(SIZES)]
    for batch in batches:
        del batch[4]["image_ir"]
    model = detector(*ONE_BLOCK, "model.fill_missing=mean", "model.square_pad=96").train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    with EventStorage():
        for step in range(STEPS):
            optimizer.zero_grad()
            sum(model(batches[step % 2]).values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def test_its_file_finds_the_same_in_new_pairs(trained, tmp_path):
    batches = [scenes(size, 100 * k + 50) for k, size in enumerate(SIZES)]
    del batches[1][4]["image_ir"]
    path = tmp_path / "model.onnx"
    comparison = export_model(trained, path, Options(SIZES[0], dynamic=("batch", "size")))
    assert comparison.pairs == 4 and comparison.matched == comparison.boxes
    file = onnx.load(path)
    assert [(x.domain, x.version) for x in file.opset_import] == [("", OPSET)]
    assert {node.domain for node in file.graph.node} == {""} and not file.functions
    session = OnnxModel(path)
    found_objects = 0
    for batch in batches:
        for count in (1, 3):
            for start in range(0, len(batch), count):
                some = batch[start : start + count]
                columns = [[x[key].numpy() if key in x else None for x in some] for key in KEYS]
                found = {name: torch.from_numpy(value) for name, value in session(*columns).items()}
                with torch.inference_mode():
                    expected = [output["instances"] for output in trained(some)]
                assert_same_detections(found, expected)
                found_objects += count_found(some, expected)
    # Of 64: 32 objects, each in a batch of one and in one of three.
    assert found_objects > 40


def count_found(batch, detections) -> int:
    """How many objects have a confident box of their class."""
    total = 0
    for x, instances in zip(batch, detections, strict=True):
        truth, sure = x["instances"], instances[instances.scores > 0.5]
        near = box_iou(truth.gt_boxes.tensor, sure.pred_boxes.tensor) > 0.5
        near &= truth.gt_classes[:, None] == sure.pred_classes
        total += int(near.any(1).sum())
    return total


def test_raw_outputs_are_compared_row_by_row(trained, tmp_path):
    comparison = export_model(trained, tmp_path / "raw.pt2", Options(SIZES[0], stage="raw"))
    assert set(comparison.errors) == {"objectness", "anchor_boxes"}
    assert set(comparison.row_errors) == {"proposals", "probabilities", "boxes"}
    assert max([*comparison.errors.values(), *comparison.row_errors.values()]) <= 1e-4
    assert comparison.matched_rows == comparison.rows > 100
