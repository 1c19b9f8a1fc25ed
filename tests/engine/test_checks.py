"""What is checked before the first step of a run, and before an evaluation."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.runs import TINY
from helpers.tuned import build

from ivtuning.checkpoint import save_adapter
from ivtuning.config import load_config
from ivtuning.data.classes import class_names
from ivtuning.engine.checks import check_evaluation, check_run, find_device
from ivtuning.errors import UserError

BOXES = "configs/quick/ivtuning.py"
MASKS = "configs/quick/mask_rcnn.py"
MAPS = "configs/synthetic/seg_ivtuning.py"
DINO = "configs/synthetic/dino_ivtuning.py"
CODETR = "configs/synthetic/codetr_ivtuning.py"
TRAIN, TEST = "dataloader.train.dataset.names", "dataloader.test.dataset.names"


def config(file=BOXES, *overrides):
    return load_config(file, ["train.init_checkpoint=", *overrides])


def message(file, *overrides, **arguments):
    with pytest.raises(UserError) as caught:
        check_run(config(file, *overrides), **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", [BOXES, MASKS, MAPS, DINO, CODETR])
def test_what_fits_passes(pairs, file):
    cfg = config(file)
    before = load_config(file, ["train.init_checkpoint="])
    assert len(check_run(cfg)) > 0 and cfg == before


HEADS = [
    (BOXES, "model.roi_heads.num_classes", 4),
    (MASKS, "model.roi_heads.num_classes", 4),
    (BOXES, "model.roi_heads.box_predictor.num_classes", 4),
    (DINO, "model.num_classes", 4),
    (CODETR, "model.num_classes", 4),
    (CODETR, "model.roi_heads.num_classes", 4),
    (MAPS, "model.sem_seg_head.num_classes", 5),
]


@pytest.mark.parametrize("wrong", [-1, 1])
@pytest.mark.parametrize("file, key, count", HEADS)
def test_every_head_has_the_classes_of_the_data(pairs, file, key, count, wrong):
    text = message(file, f"{key}={count + wrong}")
    assert f"{key}={count + wrong}, but" in text and f"has {count} classes (" in text
    assert f"give {key}={count}" in text


@pytest.mark.parametrize("value", ["0", "-1", "many", "null", "[4]"])
def test_no_number_of_classes(pairs, value):
    assert "has 4 classes (person, engine, lamp, sign)" in message(
        BOXES, f"model.roi_heads.num_classes={value}"
    )


@pytest.fixture
def renumbered(pairs, monkeypatch):
    """A function that registers synthetic_val with other categories under the name it is given."""
    from ivtuning.data.catalog import unregister
    from ivtuning.data.datasets.detection import register_pairs

    names = []

    def register(name, change):
        content = json.loads((pairs / "annotations/val.json").read_text())
        change(content["categories"])
        file = pairs / "annotations" / f"{name}.json"
        file.write_text(json.dumps(content))
        register_pairs(name, file, pairs)
        names.append((name, file))

    yield register
    for name, file in names:
        unregister(name)
        file.unlink()


def test_another_order_of_the_same_classes_is_mapped(renumbered):
    def swap(categories):
        categories[0]["name"], categories[1]["name"] = categories[1]["name"], categories[0]["name"]

    renumbered("swapped_val", swap)
    check_run(config(BOXES, f"{TEST}=swapped_val"))


def test_other_classes_are_refused(renumbered):
    renumbered("other_val", lambda categories: categories[0].update(name="bicycle"))
    assert "'bicycle'" in message(BOXES, f"{TEST}=other_val")


@pytest.mark.parametrize(
    "file, overrides, words",
    [
        (
            BOXES,
            [f"{TEST}=synthetic_vall"],
            "no data set is called 'synthetic_vall'; did you mean 'synthetic_val'",
        ),
        (BOXES, [f"{TRAIN}=synthetic_trian"], "did you mean 'synthetic_train'"),
        (
            BOXES,
            [f"{TEST}=m3fd_scene_val"],
            "scene_val.json is missing: make it with datasets/prepare_m3fd.py",
        ),
        (
            BOXES,
            [f"{TEST}=synthetic_seg_val"],
            "synthetic_train has boxes and synthetic_seg_val has label maps",
        ),
        (BOXES, [f"{TRAIN}=synthetic_seg_train"], "has label maps and synthetic_val has boxes"),
        (MAPS, [f"{TEST}=synthetic_val"], "synthetic_val has boxes"),
        (MAPS, [f"{TEST}=synthetic_val", f"{TRAIN}=synthetic_train"], "no label maps"),
        (BOXES, [f"{TEST}=[synthetic_val,synthetic_train]"], "evaluate one set at a time"),
        (BOXES, ["dataloader.evaluator.dataset_name=synthetic_train"], "the set that the loader reads"),
        (BOXES, ["dataloader.evaluator=null"], "no dataloader.evaluator"),
        (BOXES, ["train.best_metric=bbox/Ap"], "did you mean 'bbox/AP'"),
        (BOXES, ["train.best_metric=AP"], "it gives bbox/AP, bbox/AP50"),
        (BOXES, ["train.best_metric=bbox/AP-dog"], "'bbox/AP-dog' is no figure"),
        (BOXES, ["train.best_metric=segm/AP"], "no figure of PairCOCOEvaluator"),
        (MAPS, ["train.best_metric=sem_seg/miou"], "did you mean 'sem_seg/mIoU'"),
        (BOXES, ["train.init_checkpoint=nowhere.pth"], "no file nowhere.pth"),
        (BOXES, ["train.init_checkpoint=configs"], "is a folder"),
        (BOXES, ["train.precision=fp16", "train.device=cpu"], "fp16 needs CUDA"),
        (BOXES, ["lr_multiplier={_target_: builtins.dict}"], "lr_multiplier is no schedule"),
        (BOXES, ["dataloader.train.mapper.augmentations=5"], "dataloader.train.mapper (PairedDatasetMapper)"),
        (BOXES, ["dataloader.test.mapper.drop=thermal"], "thermal"),
        (BOXES, ["dataloader.evaluator.max_dets=5"], "max_dets"),
    ],
)
def test_what_a_run_lacks(pairs, file, overrides, words):
    with pytest.raises(UserError) as caught:
        check_run(config(file, *overrides))
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "file, metric",
    [
        (BOXES, "bbox/AP50-night"),
        (BOXES, "bbox/AP-person"),
        (BOXES, "bbox/AP-infrared"),
        (MASKS, "segm/APs"),
        (MAPS, "sem_seg/IoU-person"),
        (BOXES, ""),
    ],
)
def test_metrics_that_the_evaluation_gives(pairs, file, metric):
    check_run(config(file, f"train.best_metric={metric}"))


def test_metrics_are_what_an_evaluation_gives(pairs, tmp_path):
    from ivtuning.config import build
    from ivtuning.engine import run

    cfg = load_config(BOXES, [*TINY, f"train.output_dir={tmp_path / 'out'}"])
    results = run.evaluate(cfg, run.build_model(cfg).eval())
    names = {f"{task}/{name}" for task, figures in results.items() for name in figures}
    assert names <= set(build(cfg, "dataloader.evaluator").metric_names())


def test_images_that_are_trained_on_and_tested_are_told(pairs, caplog):
    caplog.set_level("WARNING", logger="ivtuning")
    check_run(config(BOXES))
    assert not caplog.text
    check_run(config(BOXES, f"{TEST}=synthetic_train"))
    assert "24 image files are in the training set and in the test set" in caplog.text


def test_a_list_of_one_test_set_is_that_set(pairs):
    cfg = config(BOXES, f"{TEST}=[synthetic_val]")
    check_run(cfg)
    assert cfg.dataloader.evaluator.dataset_name == "synthetic_val"


def test_a_resumed_run_does_not_need_the_first_weights(pairs, tmp_path):
    options = [f"train.output_dir={tmp_path}", "train.init_checkpoint=gone.pth"]
    with pytest.raises(UserError, match="no file gone.pth"):
        check_run(config(BOXES, *options), resume=True)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    check_run(config(BOXES, *options), resume=True)
    # Without a marker the run goes on from the newest checkpoint.
    (tmp_path / "last_checkpoint").rename(tmp_path / "model_0000001.pth")
    check_run(config(BOXES, *options), resume=True)


def test_an_evaluation_needs_weights_and_the_test_set_alone(pairs, tmp_path):
    check_evaluation(config(BOXES, f"{TRAIN}=mine_random_train"), pairs / "annotations/val.json")
    cfg = config(BOXES, f"{TRAIN}=m3fd_scene_train")
    with pytest.raises(UserError, match="nothing to evaluate"):
        check_evaluation(cfg, "")
    (tmp_path / "model.pth").write_bytes(b"")
    for weights, adapter in (("gone.pth", None), (tmp_path / "model.pth", "gone.safetensors")):
        with pytest.raises(UserError, match="no file gone"):
            check_evaluation(cfg, weights, adapter)
    check_evaluation(cfg, tmp_path / "model.pth")
    with pytest.raises(UserError, match="has 4 classes"):
        check_evaluation(config(BOXES, "model.roi_heads.num_classes=6"), tmp_path / "model.pth")


def test_without_the_training_set_classes_have_the_order_that_a_file_states(pairs, tmp_path, caplog):
    """Labels are indices into the training set's classes, which the test set may list differently."""
    cfg = config(BOXES, f"{TRAIN}=m3fd_scene_train")
    own = class_names("synthetic_val")
    (tmp_path / "model.pth").write_bytes(b"")
    check_evaluation(cfg, tmp_path / "model.pth")
    assert class_names("synthetic_val") == own
    assert f"taken to be in the order of synthetic_val ({', '.join(own)})" in caplog.text
    caplog.clear()
    adapter = tmp_path / "a.safetensors"
    save_adapter(build("ViTDet", "LoRA"), adapter, metadata={"classes": own[::-1]})
    check_evaluation(cfg, tmp_path / "model.pth", adapter)
    assert class_names("synthetic_val") == own[::-1] and "taken to be" not in caplog.text
    check_evaluation(config(), tmp_path / "model.pth", adapter)  # the training set decides where it is
    assert class_names("synthetic_val") == own


def test_devices():
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="use auto or cpu"):
        find_device("cuda:99")
