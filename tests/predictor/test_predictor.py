"""The predictor: what it is given, and that its predictions are those that evaluation sees."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from helpers.drawings import instances
from helpers.runs import TINY
from PIL import Image

from ivtuning.checkpoint import save_adapter
from ivtuning.config import load_config
from ivtuning.data.catalog import unregister
from ivtuning.data.datasets.classification import register_folder
from ivtuning.engine import run
from ivtuning.errors import UserError
from ivtuning.predictor import Predictor, QueryTracer

DETECTION, SEGMENTATION = "configs/synthetic/ivtuning.py", "configs/synthetic/seg_ivtuning.py"
SMALL = {
    # Random weights score low: everything passes, so that there is something to compare.
    DETECTION: [*TINY, "model.roi_heads.box_predictor.test_score_thresh=0.0"],
    SEGMENTATION: [*TINY[:3], "train.init_checkpoint="],
    "configs/Flowers102/mona_swin_l.py": [
        "dataloader.train.dataset.names=colors_train",
        "dataloader.test.dataset.names=colors_val",
        "dataloader.test.batch_size=1",
        "dataloader.test.num_workers=0",
        "model.num_classes=2",
        "model.backbone.net.embed_dim=8",
        "model.backbone.net.depths=[1,1,2,2]",
        "model.backbone.net.num_heads=[1,1,2,2]",
        "train.init_checkpoint=",
    ],
}


@pytest.fixture
def trained(pairs, tmp_path):
    """A function (config, *overrides) -> (config, file of random weights of its model)."""

    def make(path: str, *overrides: str):
        cfg = load_config(path, [*SMALL[path], "train.device=cpu", *overrides])
        torch.manual_seed(0)
        model = run.build_model(cfg)
        file = tmp_path / f"{Path(path).stem}.pth"
        torch.save({"model": model.state_dict()}, file)
        return cfg, str(file)

    return make


class Kept:
    """An evaluator that keeps the model's outputs by file."""

    kept: dict = {}

    def __init__(self, dataset_name=None, **kwargs):
        pass

    def reset(self):
        Kept.kept = {}

    def process(self, inputs, outputs):
        Kept.kept |= {x["file_name"]: output for x, output in zip(inputs, outputs, strict=True)}

    def evaluate(self):
        return {}


def evaluated(cfg, weights: str) -> dict:
    """What the evaluator of a config is given: outputs of the model by the name of the file."""
    from detectron2.config import LazyCall

    cfg = copy.deepcopy(cfg)
    cfg.dataloader.evaluator = LazyCall(Kept)()
    run.evaluate(cfg, run.load_model(cfg, weights))
    return Kept.kept


def without_infrared(name: str, folder: Path) -> None:
    """Register synthetic_val anew under `name`; its first pair has lost its infrared image."""
    records = copy.deepcopy(DatasetCatalog.get(name))
    records[0].pop("ir_file_name")
    records[0]["missing"] = "infrared"
    unregister("incomplete")
    DatasetCatalog.register("incomplete", lambda: records)
    facts = MetadataCatalog.get(name).as_dict()
    MetadataCatalog.get("incomplete").set(**{k: v for k, v in facts.items() if k != "name"})


def read(path: str | None):
    return None if path is None else np.asarray(Image.open(path))


def infrared_of(record: dict) -> str | None:
    return None if record.get("missing") == "infrared" else record["ir_file_name"]


def assert_equal(prediction: Instances, output: Instances) -> None:
    assert prediction.image_size == output.image_size and len(prediction) == len(output) > 0
    assert torch.equal(prediction.pred_boxes.tensor, output.pred_boxes.tensor)
    assert torch.equal(prediction.scores, output.scores)
    assert torch.equal(prediction.pred_classes, output.pred_classes)


def test_detections_are_those_that_evaluation_sees(trained, tmp_path):
    without_infrared("synthetic_val", tmp_path)
    cfg, weights = trained(DETECTION, "dataloader.test.dataset.names=incomplete", "model.fill_missing=mean")
    expected = evaluated(cfg, weights)
    predict = Predictor(cfg, weights)
    records = DatasetCatalog.get("incomplete")
    assert len(records) == len(expected) == 4
    for record in records:
        visible, infrared = record["file_name"], infrared_of(record)
        output = expected[visible]["instances"]
        assert_equal(predict(record), output)
        assert_equal(predict(visible, infrared), output)
        assert_equal(predict(read(visible), read(infrared)), output)
    unregister("incomplete")


@pytest.mark.parametrize(
    "inference",
    [[], ["model.inference=SlidingWindow", "model.inference.window=48", "model.inference.stride=32"]],
)
def test_label_maps_are_those_that_evaluation_sees(trained, tmp_path, inference):
    without_infrared("synthetic_seg_val", tmp_path)
    cfg, weights = trained(
        SEGMENTATION, "dataloader.test.dataset.names=incomplete", "model.fill_missing=mean", *inference
    )
    expected = evaluated(cfg, weights)
    predict = Predictor(cfg, weights)
    for record in DatasetCatalog.get("incomplete"):
        visible, infrared = record["file_name"], infrared_of(record)
        output = expected[visible]["sem_seg"].argmax(0)
        assert len(output.unique()) > 1
        for labels in (predict(visible, infrared), predict(read(visible), read(infrared))):
            assert labels.dtype == np.uint8 and labels.shape == (72, 96)
            assert np.array_equal(labels, output)
    unregister("incomplete")


def test_class_scores_are_those_that_evaluation_sees(trained, tmp_path):
    random = np.random.default_rng(0)
    for part, name in ((p, n) for p in ("train", "val") for n in ("red", "blue")):
        path = tmp_path / part / name / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (300, 280, 3), np.uint8)).save(path)
    for part in ("train", "val"):
        register_folder(f"colors_{part}", tmp_path, part)
    cfg, weights = trained("configs/Flowers102/mona_swin_l.py")
    expected = evaluated(cfg, weights)
    predict = Predictor(cfg, weights)
    assert len(expected) == 2
    for path, output in expected.items():
        assert torch.equal(predict(path), output["scores"])
        assert torch.equal(predict(read(path)), output["scores"])
    assert predict.classes == ["blue", "red"]
    best = predict.draw(path, torch.tensor([0.25, 0.75]))
    assert best.shape == (300, 280, 3) and not np.array_equal(best, read(path))
    with pytest.raises(UserError, match="takes visible images alone: leave infrared out"):
        predict(path, path)
    for part in ("train", "val"):
        unregister(f"colors_{part}")


def test_lists_are_one_batch_of_images_of_any_size(trained):
    cfg, weights = trained(SEGMENTATION, "model.fill_missing=mean")
    predict = Predictor(cfg, weights)
    random = np.random.default_rng(0)
    visible = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((48, 64), (72, 40))]
    infrared = [random.integers(0, 256, v.shape[:2], np.uint8) for v in visible]
    assert [labels.shape for labels in predict(visible, infrared)] == [(48, 64), (72, 40)]
    assert [labels.shape for labels in predict([visible[0], None], [None, infrared[1]])] == [
        (48, 64),
        (72, 40),
    ]
    assert [labels.shape for labels in predict(None, infrared)] == [(48, 64), (72, 40)]
    assert np.array_equal(predict([visible[0]], [infrared[0]])[0], predict(visible[0], infrared[0]))
    assert predict([], []) == []
    records = DatasetCatalog.get("synthetic_seg_val")[:2]
    for labels, record in zip(predict(records), records, strict=True):
        assert np.array_equal(labels, predict(record))


@pytest.fixture
def fake(monkeypatch):
    """A function (model, **options) -> Predictor of a model that gives what `model` returns for a sample."""
    from detectron2.config import LazyCall
    from omegaconf import OmegaConf

    from ivtuning.data.mappers.pairs import PairedDatasetMapper

    loaded = []
    monkeypatch.setattr(run, "load_weights", lambda model, *files, **options: loaded.append(files))

    def make(model=None, weights=None, adapter=None, mapper=None, **options):
        cfg = OmegaConf.create({"train": {"init_checkpoint": "base.pth", "device": "cpu"}})
        cfg.model = LazyCall(FakeModel)()
        cfg.dataloader = {"test": {"mapper": LazyCall(PairedDatasetMapper)(is_train=False, **mapper or {})}}
        predict = Predictor(cfg, weights, adapter, **options)
        predict.model.answer = model or (lambda x: x)
        return predict

    make.loaded = loaded
    return make


class FakeModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2, 2))

    def forward(self, inputs):
        assert not self.training and not torch.is_grad_enabled()
        self.seen, self.product = inputs, self.scale @ self.scale
        return [self.answer(x) for x in inputs]


def boxes(x):
    return {"instances": instances([[1, 1, 9, 9]], [0.7], [0])}


VISIBLE = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)


def test_weights_default_to_the_configs(fake):
    fake(adapter="a.safetensors")
    fake(weights=Path("w.pth"))
    assert fake.loaded == [("base.pth", "a.safetensors"), ("w.pth", None)]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
def test_deep_infrared_is_scaled_as_files_are(fake, dtype):
    predict = fake(boxes, mapper={"ir_range": [1000, 1255]})
    counts = np.arange(1000, 1048).reshape(6, 8).astype(dtype)
    predict(VISIBLE, counts)
    assert predict.model.seen[0]["image_ir"][0].tolist() == (counts - 1000).tolist()
    assert not {"pixels", "ir_pixels"} & set(predict.model.seen[0])


def test_arrays_may_be_views(fake):
    predict = fake(boxes)
    predict(VISIBLE[:, ::-1, ::-1], VISIBLE[::2, ::2, :1].repeat(2, 0).repeat(2, 1))
    assert np.array_equal(predict.model.seen[0]["image"].permute(1, 2, 0), VISIBLE[:, ::-1, ::-1])
    assert VISIBLE.flags.writeable


def test_precision_is_that_of_autocast(fake, monkeypatch, caplog):
    monkeypatch.setattr("ivtuning.engine.precision.bfloat16_cost", lambda: 30)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        predict = fake(boxes, precision=precision)
        predict(VISIBLE)
        assert predict.model.product.dtype == dtype
        assert ("precision=fp32 is faster" in caplog.text) == (precision == "bf16")
    with pytest.raises(
        UserError, match="precision='fp61' is unknown: use fp32, bf16, fp16; did you mean 'fp16'"
    ):
        fake(precision="fp61")
    with pytest.raises(UserError, match="fp16 needs CUDA"):
        fake(precision="fp16")
    with pytest.raises(UserError, match="'nowhere'.*give auto, cpu, cuda"):
        fake(device="nowhere")


SCORES = [({"scores": torch.tensor([0.5, float("nan")])}), ({"sem_seg": torch.full((2, 6, 8), float("inf"))})]


@pytest.mark.parametrize("output", SCORES)
def test_scores_that_are_not_finite_are_reported(fake, output):
    with pytest.raises(UserError, match="scores of array are not finite"):
        fake(lambda x: output)(VISIBLE)


GRAY = VISIBLE[..., 0]
BAD = {
    "float visible": ((VISIBLE / 255,), r"visible array is float64 of shape \(6, 8, 3\).*\(255 \* image\)"),
    "gray visible": ((GRAY, GRAY), "is it the infrared partner.*data.gray_visible=true"),
    "deep visible": ((VISIBLE.astype(np.uint16), GRAY), "is uint16 of shape .*uint8 RGB"),
    "four channels": ((np.zeros((6, 8, 4), np.uint8), GRAY), r"\(6, 8, 4\): give \(H, W, 3\)"),
    "planes": ((VISIBLE.transpose(2, 0, 1), GRAY), r"\(3, 6, 8\): give \(H, W, 3\)"),
    "a batch array": ((VISIBLE[None], GRAY), r"\(1, 6, 8, 3\): give"),
    "no pixel": ((VISIBLE[:0], GRAY[:0]), "has no pixel"),
    "a strip": ((np.zeros((1, 101, 3), np.uint8), None), "101x1, a strip"),
    "deep colors": ((VISIBLE, VISIBLE.astype(np.float32)), r"infrared array is float32 .*\(H, W\) of uint8"),
    "complex infrared": ((VISIBLE, GRAY.astype(complex)), "infrared array is complex128"),
    "infinite infrared": ((VISIBLE, np.full((6, 8), np.inf)), "image array: 48 of its pixels are not finite"),
    "sizes": ((VISIBLE, GRAY[:5]), "visible array is 8x6 but infrared array is 8x5: align"),
    "a tensor": ((torch.zeros(3, 6, 8),), "visible image is a Tensor: give a numpy array"),
    "nothing": ((None, None), "neither a visible nor an infrared image"),
    "lengths": (([VISIBLE, VISIBLE], [GRAY]), "2 visible and 1 infrared images"),
    "a list and one": (([VISIBLE], GRAY), "infrared is one image, but the other a list of 1"),
    "in a list": (
        ([VISIBLE, VISIBLE], [GRAY, GRAY[:5]]),
        "visible array 2 is 8x6 but infrared array 2 is 8x5",
    ),
    "no file": (("nowhere.png", GRAY), "nowhere.png is missing"),
    "an empty dict": (({},), "no 'file_name'"),
    "a dict and one": (({"file_name": "a.png"}, GRAY), "names both images"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(fake, name):
    given, says = BAD[name]
    with pytest.raises(UserError, match=says) as error:
        fake(boxes)(*given)
    assert "\n" not in str(error.value)


def test_a_missing_image_that_the_model_does_not_fill_is_reported(trained):
    cfg, weights = trained(DETECTION)
    with pytest.raises(UserError, match="array: the model takes visible and infrared.*fill_missing=mean"):
        Predictor(cfg, weights)(VISIBLE)


def test_a_config_goes_by_name_from_any_folder_and_stays_as_it_is(trained, tmp_path, monkeypatch):
    cfg, weights = trained(DETECTION)
    monkeypatch.chdir(tmp_path)
    overrides = [*SMALL[DETECTION], "method=IVTuning"]
    predict = Predictor("synthetic/ivtuning", weights, overrides=overrides, device="cpu")
    assert predict.classes == ["person", "engine", "lamp", "sign"]
    before = copy.deepcopy(cfg)
    Predictor(cfg, weights, overrides=["train.seed=7"], device="cpu")
    assert cfg == before
    with pytest.raises(UserError, match="no config file 'synthetic/ivtunning'"):
        Predictor("synthetic/ivtunning")
    with pytest.raises(UserError, match="there are no weights"):
        Predictor(cfg)


def test_adapters_bring_the_names_of_their_classes(trained, tmp_path):
    cfg, weights = trained(DETECTION)
    model = run.load_model(cfg, weights)
    names = ["one", "two", "three", "four"]
    save_adapter(model, tmp_path / "a.safetensors", metadata={"classes": names})
    assert Predictor(cfg, weights, tmp_path / "a.safetensors").classes == names
    save_adapter(model, tmp_path / "b.safetensors")
    assert Predictor(cfg, weights, tmp_path / "b.safetensors").classes == json.loads(
        json.dumps(MetadataCatalog.get("synthetic_val").thing_classes)
    )


def test_pictures_keep_the_size_of_one_image_and_show_both_as_panels(fake, tmp_path):
    predict = fake()
    visible = np.zeros((60, 80, 3), np.uint8)
    found = instances([[10, 30, 40, 50], [0, 0, 5, 5]], [0.9, 0.2], [1, 0])
    picture = predict.draw(visible, found)
    assert picture.shape == visible.shape and picture.dtype == np.uint8
    assert picture[50, 20].any() and not picture[58:, 60:].any() and not visible.any()
    assert np.array_equal(predict.draw(visible, found, threshold=0.95), visible)
    assert predict.draw(visible, found, np.zeros((60, 80), np.uint16)).shape[1] > 3 * 512
    labels = np.zeros((60, 80), np.uint8)
    labels[30:] = 1
    assert predict.draw(visible, labels)[55, 70].any()
    with pytest.raises(UserError, match="for 80x60 pixels, but the image has 70x60"):
        predict.draw(visible[:, :70], labels)
    with pytest.raises(UserError, match="not lists"):
        predict.draw([visible], [labels])


def test_a_tracer_gives_traces_of_pairs(trained, pairs):
    cfg, weights = trained(DETECTION)
    with pytest.raises(UserError, match="quer"):
        QueryTracer(cfg, weights)
