"""An exported file in the place of its model: the same predictions in pixels, and the same figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import get_detection_dataset_dicts
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from helpers import tiny
from helpers.exportable import classifier, images, samples, segmentor
from helpers.exported import PAIRED, QUERIES, detector
from torchvision.ops import box_iou

from ivtuning.config import build, load_config
from ivtuning.data.catalog import unregister
from ivtuning.data.datasets.detection import register_pairs
from ivtuning.engine.run import evaluate
from ivtuning.errors import UserError
from ivtuning.export import meta_arch
from ivtuning.export.graph import ExportedModel
from ivtuning.export.meta_arch import OnnxMetaArch
from ivtuning.export.metadata import describe
from ivtuning.export.options import Options

NANO = [
    f"model.backbone.net.{key}" for key in ("embed_dim=24", "num_heads=2", "depth=1", "global_blocks=[0]")
]
HEIGHT, WIDTH = 40, 56
SIZED = Options((HEIGHT, WIDTH))


class Graph:
    """What a file of `model` computes, in PyTorch: tracing a detector takes too long for every case here."""

    def __init__(self, model, options: Options):
        self.graph = ExportedModel(model, options)
        self.metadata = json.loads(json.dumps(describe(model, self.graph, options)))
        self.size = (None, None) if "size" in options.dynamic else options.size
        self.runs: list[int] = []

    @torch.inference_mode()
    def __call__(self, *columns) -> dict[str, np.ndarray]:
        self.runs.append(len(columns[0]))
        tensors = [torch.from_numpy(np.stack(column)) for column in columns[: len(self.graph.inputs)]]
        return {n: x.numpy() for n, x in zip(self.graph.names, self.graph(*tensors), strict=True)}


@pytest.fixture
def in_place_of(monkeypatch):
    """A function (model, options) -> OnnxMetaArch of its graph."""

    def make(model, options: Options = SIZED) -> OnnxMetaArch:
        monkeypatch.setattr(meta_arch, "OnnxModel", lambda *args: Graph(model, options))
        return OnnxMetaArch("model.onnx").eval()

    return make


def batch_of(count: int, height: int = HEIGHT, width: int = WIDTH, of: tuple = ()) -> list[dict]:
    """Samples of that size, `of` images of another height and width."""
    keys = dict(zip(("height", "width"), of, strict=False))
    return [x | keys for x in samples(*images(count, height, width))]


def faster_rcnn():
    return detector("synthetic/ivtuning", *NANO)


def mask_rcnn():
    return detector("quick/mask_rcnn", *NANO)


def dino():
    return detector("synthetic/dino_ivtuning", *QUERIES, *NANO)


def assert_same_instances(found: list[dict], wanted: list[dict]) -> None:
    for a, b in zip((x["instances"] for x in found), (x["instances"] for x in wanted), strict=True):
        assert a.image_size == b.image_size and a.get_fields().keys() == b.get_fields().keys()
        assert len(a) == len(b) > 5
        torch.testing.assert_close(a.scores, b.scores, atol=1e-4, rtol=0)
        same = (box_iou(a.pred_boxes.tensor, b.pred_boxes.tensor) > 0.99) & (
            a.pred_classes[:, None] == b.pred_classes
        )
        same &= (a.scores[:, None] - b.scores).abs() < 1e-4
        assert same.any(1).all() and same.any(0).all()
        if a.has("pred_masks"):
            assert a.pred_masks.dtype == torch.bool
            differing = (a.pred_masks != b.pred_masks[same.float().argmax(1)]).float().mean()
            assert differing < 1e-3


@pytest.mark.parametrize("make", [faster_rcnn, mask_rcnn, dino])
def test_instances_are_those_of_the_model(make, in_place_of):
    model = make()
    batch = batch_of(3, of=(60, 112))
    with torch.inference_mode():
        wanted = model(batch)
    assert_same_instances(in_place_of(model)(batch), wanted)


def test_smaller_images_are_padded_as_the_model_pads_them(in_place_of, caplog):
    """Its square covers the file's size, so that both see the same."""
    model = detector("synthetic/ivtuning", *NANO, *PAIRED, "model.square_pad=64")
    batch = [*batch_of(1), *batch_of(1, 33, 56), *batch_of(1, 40, 50)]
    onnx = in_place_of(model)
    found = onnx(batch)
    assert onnx.file.runs == [3]
    sizes = [(40, 56), (33, 56), (40, 50)]
    assert [x["instances"].image_size for x in found] == sizes
    for a, x, (height, width) in zip(found, batch, sizes, strict=True):
        for key in ("image", "image_ir"):
            padded = torch.full((3, HEIGHT, WIDTH), 110, dtype=torch.uint8)  # the mean pixel
            padded[:, :height, :width] = x[key]
            x[key] = padded
        with torch.inference_mode():
            wanted = within(model([x])[0]["instances"], (height, width))
        assert_same_instances([a], [{"instances": wanted}])
    assert caplog.text.count("padded to 56x40") == 1


def within(instances: Instances, size: tuple[int, int]) -> Instances:
    """The detections of a padded image within the image itself."""
    inside = Instances(size, **instances.get_fields())
    inside.pred_boxes.clip(size)
    return inside[inside.pred_boxes.nonempty()]


def test_images_of_a_dynamic_size_run_by_size(in_place_of):
    model = segmentor(tiny.vitdet(depth=2, global_blocks=(1,)))
    onnx = in_place_of(model, Options((HEIGHT, WIDTH), dynamic=("batch", "size")))
    batch = [*batch_of(1), *batch_of(1, 24, 72), *batch_of(1)]
    found = onnx(batch)
    assert onnx.file.runs == [2, 1]
    for a, x in zip(found, batch, strict=True):
        with torch.inference_mode():
            (wanted,) = model([x])
        assert_same_labels(a, wanted)


def assert_same_labels(found: dict, wanted: dict) -> None:
    assert found["sem_seg"].shape == wanted["sem_seg"].shape
    assert found["sem_seg"].isfinite().all()
    assert (found["sem_seg"].argmax(0) == wanted["sem_seg"].argmax(0)).float().mean() > 0.999


def test_figures_are_those_of_the_model(in_place_of, pairs, tmp_path):
    """Its best detections are the truth, so that AP is high, and moves with every box."""
    small = [*NANO, *PAIRED, "train.device=cpu"]
    model = detector("synthetic/ivtuning", *small)
    cfg = load_config("configs/synthetic/ivtuning.py", [*small, "dataloader.evaluator.output_dir="])
    register_pairs("own_findings", make_truth(cfg, model, pairs, tmp_path), pairs)
    try:
        cfg.dataloader.test.dataset.names = cfg.dataloader.evaluator.dataset_name = "own_findings"
        wanted = evaluate(cfg, model)["bbox"]
        found = evaluate(cfg, in_place_of(model, Options((72, 96))))["bbox"]
    finally:
        unregister("own_findings")
    assert wanted["AP"] > 20
    assert all(abs(found[key] - value) < 0.1 for key, value in wanted.items() if np.isfinite(value))


def make_truth(cfg, model, pairs, folder):
    """The JSON of the validation images with the model's four best boxes of each as their objects."""
    content = json.loads((pairs / "annotations" / "val.json").read_text())
    mapper, objects = build(cfg, "dataloader.test.mapper"), []
    for record in get_detection_dataset_dicts("synthetic_val", filter_empty=False):
        with torch.inference_mode():
            (found,) = model([mapper(record)])
        for x in instances_to_coco_json(found["instances"][:4].to("cpu"), record["image_id"]):
            box = [max(0.0, value) for value in x["bbox"]]
            category = content["categories"][x["category_id"]]["id"]
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": record["image_id"],
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    content["annotations"] = objects
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_files_stand_for_segmentors_and_classifiers(exported):
    model, options, path, _ = exported("plain_vit")
    batch = batch_of(3, *options.size, of=(70, 101))
    del batch[1]["image_ir"]
    with torch.inference_mode():
        wanted = model(batch)
    for a, b in zip(OnnxMetaArch(path, "cpu")(batch), wanted, strict=True):
        assert_same_labels(a, b)
    model, options, path, _ = exported("classifier")  # of a fixed batch
    batch = batch_of(3, *options.size)
    with torch.inference_mode():
        wanted = model(batch)
    for a, b in zip(OnnxMetaArch(path, "cpu")(batch), wanted, strict=True):
        torch.testing.assert_close(a["scores"], b["scores"], atol=1e-5, rtol=0)


def test_what_a_file_does_not_take_is_told_with_the_images_name(in_place_of):
    onnx = in_place_of(classifier(), Options((40, 40)))
    with pytest.raises(UserError, match="0.png: the model's input is 30x40, model.onnx takes 40x40"):
        onnx(batch_of(1, 40, 30))
    model = segmentor(tiny.plain_vit(depth=1, out_indices=(0,)), divisibility=8)
    onnx = in_place_of(model)
    with pytest.raises(UserError, match="0.png: the model's input is 80x40, .* takes at most 56x40"):
        onnx(batch_of(1, 40, 80))
    with pytest.raises(UserError, match="a sample: the sample has neither"):
        onnx([{}])
    with pytest.raises(
        UserError, match="model.onnx was exported with --stage raw: export it without --stage"
    ):
        in_place_of(model, Options((40, 56), stage="raw"))


@pytest.mark.slow
def test_a_missing_image_is_told_with_its_pairs_name(exported, monkeypatch):
    onnx = OnnxMetaArch(exported("plain_vit")[2], "cpu")
    (lonely,) = batch_of(1, *exported("plain_vit")[1].size)
    del lonely["image_ir"]
    monkeypatch.setitem(onnx.file.metadata, "fill_missing", "error")
    with pytest.raises(UserError, match="0.png: the infrared image is missing"):
        onnx([lonely])
