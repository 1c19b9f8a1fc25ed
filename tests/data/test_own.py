"""Sets that are named by their files: how they are registered, where their images are, and bad ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.isolation import Case, refuse

from ivtuning.config import load_config
from ivtuning.data.catalog import unregister
from ivtuning.data.classes import class_names
from ivtuning.data.datasets.classification import labeled_images
from ivtuning.data.own import find_set, public_name, register_set
from ivtuning.errors import UserError

TRAIN = "tools/train_net.py"


@pytest.fixture(autouse=True)
def nothing_stays():
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        unregister(name)


def content(*classes: str, **more) -> dict:
    image = {"id": 1, "file_name": "vis/1.png", "ir_file_name": "ir/1.png", "height": 30, "width": 40}
    box = {"id": 1, "image_id": 1, "bbox": [1, 2, 10, 6], "category_id": 1, "iscrowd": 0, "area": 60}
    categories = [{"id": i, "name": name} for i, name in enumerate(classes or ("cat", "dog"), 1)]
    return {"images": [image], "annotations": [box], "categories": categories} | more


def write(path: Path, made: dict) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made))
    return str(path)


def visible(name: str) -> str:
    return DatasetCatalog.get(name)[0]["file_name"]


@pytest.mark.parametrize(
    "file, info, images, expected",
    [
        ("set.json", {}, None, "vis/1.png"),
        ("annotations/set.json", {}, None, "vis/1.png"),
        ("other/set.json", {}, None, "other/vis/1.png"),
        ("set.json", {"image_root": "raw"}, None, "raw/vis/1.png"),
        ("annotations/set.json", {"image_root": "raw"}, None, "raw/vis/1.png"),
        ("set.json", {}, "chosen", "chosen/vis/1.png"),
        ("set.json", {"image_root": "raw"}, "chosen", "chosen/vis/1.png"),
        ("set.json", {"image_root": "raw"}, ".", "vis/1.png"),
    ],
)
def test_where_the_images_are(file, info, images, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / file, content(info=info))
    name = register_set(file, images)
    assert name == str(tmp_path / file)
    assert visible(name) == str(tmp_path / expected)
    assert find_set(file) == name and visible(name) == str(tmp_path / expected), "it keeps its folder"


def test_another_folder_replaces_the_one_before(tmp_path):
    name = find_set(write(tmp_path / "set.json", content(info={"image_root": "raw"})))
    assert visible(name) == f"{tmp_path}/raw/vis/1.png"
    register_set(name, tmp_path)
    assert visible(name) == f"{tmp_path}/vis/1.png"


def test_a_changed_file_is_read_anew(tmp_path):
    name = register_set(write(tmp_path / "set.json", content()))
    assert class_names(name) == ["cat", "dog"]
    write(tmp_path / "set.json", content("cat", "dog", "pig"))
    os.utime(name, ns=(1, 1))
    assert class_names(register_set(name)) == ["cat", "dog", "pig"]


def test_the_content_says_what_a_set_holds(tmp_path):
    made = content()
    assert MetadataCatalog.get(find_set(write(tmp_path / "a.json", made))).evaluator_type == "coco"
    made["images"][0]["sem_seg_file_name"] = "labels/1.png"
    assert MetadataCatalog.get(find_set(write(tmp_path / "b.json", made))).evaluator_type == "sem_seg"


def test_registered_names_stay(pairs):
    assert find_set("synthetic_train") == "synthetic_train" and find_set("no_such_set") == "no_such_set"


def test_lists_and_folders_take_their_classes_from_training(tmp_path):
    for part, names in (("train", ("dog", "ant", "cat")), ("val", ("dog",))):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1.png").touch()
        lines = [f"{part}/{name}/1.png {name}\n" for name in names]
        (tmp_path / f"{part}.txt").write_text("".join(lines))
    for train, val in (("train", "val"), ("train.txt", "val.txt")):
        first = find_set(str(tmp_path / train))
        second = register_set(str(tmp_path / val), training=first)
        assert class_names(first) == class_names(second) == ["ant", "cat", "dog"]
        (record,) = labeled_images(second)
        assert record["label"] == 2 and record["file_name"] == f"{tmp_path}/val/dog/1.png"
    with pytest.raises(UserError, match="give two folders, or two lists"):
        register_set(str(tmp_path / "val"), training=str(tmp_path / "train.txt"))
    (tmp_path / "val.txt").write_text("a.png dog\na.png cat\n")
    with pytest.raises(UserError, match=r"val.txt:2: a.png has the class 'dog' in a line above"):
        labeled_images(register_set(str(tmp_path / "val.txt"), training=str(tmp_path / "train.txt")))
    (tmp_path / "val.txt").write_text("a b.png eel\n")
    with pytest.raises(UserError, match=r"val.txt:1: .*train.txt has no class 'eel'"):
        labeled_images(register_set(str(tmp_path / "val.txt"), training=str(tmp_path / "train.txt")))


def test_numbers_in_a_list_are_labels_from_0(tmp_path):
    (tmp_path / "train.txt").write_text("a.png 2\nb c.png 0\nd.png 10\n" + "e.png 01\n" * 8)
    name = register_set(str(tmp_path / "train.txt"), tmp_path / "images")
    (tmp_path / "images").mkdir()
    records = labeled_images(name)
    assert class_names(name) == [str(i) for i in range(11)]
    assert [record["label"] for record in records[:3]] == [2, 0, 10]
    assert records[1]["file_name"] == f"{tmp_path}/images/b c.png"


def test_a_saved_config_means_the_same_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "my_train.json", content())
    write(tmp_path / "my_val.json", content("dog", "cat"))
    monkeypatch.chdir(tmp_path)
    sets = ["data.train=my_train.json", "data.val=my_val.json", "data.images=mine"]
    cfg = load_config("custom/detection", sets)
    assert cfg.model.roi_heads.box_predictor.num_classes == 2
    assert cfg.dataloader.evaluator.dataset_name == f"{tmp_path}/my_val.json"
    LazyConfig.save(cfg, "saved.yaml")
    monkeypatch.chdir("elsewhere")
    for name in (f"{tmp_path}/my_train.json", f"{tmp_path}/my_val.json"):
        unregister(name)
    again = load_config("../saved.yaml")
    assert again.data == cfg.data and again.data.images == f"{tmp_path}/mine"
    assert visible(again.dataloader.test.dataset.names) == f"{tmp_path}/mine/vis/1.png"
    shutil.rmtree(tmp_path / "elsewhere")


def test_any_config_takes_a_path_where_a_name_stands(tmp_path, monkeypatch):
    write(tmp_path / "a.json", content())
    write(tmp_path / "b.json", content())
    monkeypatch.chdir(tmp_path)
    changes = ["dataloader.train.dataset.names=[a.json,b.json]", "dataloader.test.dataset.names=b.json"]
    cfg = load_config("synthetic/ivtuning", [*changes, "model.roi_heads.num_classes=auto"])
    assert list(cfg.dataloader.train.dataset.names) == [f"{tmp_path}/a.json", f"{tmp_path}/b.json"]
    assert cfg.dataloader.evaluator.dataset_name == f"{tmp_path}/b.json"
    assert cfg.model.roi_heads.num_classes == 2


def test_the_training_file_is_not_needed_to_evaluate(tmp_path):
    val = write(tmp_path / "val.json", content())
    cfg = load_config(
        "synthetic/ivtuning",
        [f"dataloader.train.dataset.names={tmp_path}/no.json", f"dataloader.test.dataset.names={val}"],
    )
    with pytest.raises(
        UserError, match=r"no.json is missing: make it with datasets/prepare_pairs.py, or correct"
    ):
        class_names(cfg.dataloader.train.dataset.names)


def own(task: str, *changes: str, **sets: dict):
    """Arguments that train on the JSON files my_<name>.json with these contents."""

    def make(folder: Path) -> list[str]:
        (folder / "mine").mkdir()
        for name, made in sets.items():
            write(folder / f"my_{name}.json", made)
        return ["--config-file", f"custom/{task}", "train.init_checkpoint=", *changes]

    return make


BOTH = ("data.train=my_train.json", "data.val=my_val.json")
GOOD = {"train": content(), "val": content()}
CASES = [
    Case("no files named", TRAIN, own("detection"), ["data.train has no value yet", "give data.train="]),
    Case("no val", TRAIN, own("detection", BOTH[0], **GOOD), ["data.val has no value yet"]),
    Case(
        "no such JSON",
        TRAIN,
        own("detection", *BOTH, train=content()),
        ["my_val.json is missing", "prepare_pairs.py"],
    ),
    Case(
        "other classes",
        TRAIN,
        own("detection", *BOTH, train=content(), val=content("cat", "pig")),
        ["my_train.json", "my_val.json", "'pig'"],
    ),
    Case(
        "no images",
        TRAIN,
        own("detection", *BOTH, "data.images=mine", **GOOD),
        ["mine/vis/1.png is missing", "data.images"],
    ),
    Case(
        "a folder for a registered set",
        TRAIN,
        own("detection", "data.train=synthetic_train", "data.val=synthetic_val", "data.images=mine", **GOOD),
        ["data.images", "synthetic_train is registered", "--source"],
    ),
    Case("a number for a folder", TRAIN, own("detection", *BOTH, "data.images=5", **GOOD), ["data.images=5"]),
    Case("label maps wanted", TRAIN, own("segmentation", *BOTH, **GOOD), ["my_val.json", "label maps"]),
    Case("a folder of boxes", TRAIN, own("detection", "data.train=./mine", "data.val=./mine"), ["mine"]),
    Case("boxes for classes", TRAIN, own("classification", *BOTH, **GOOD), ["my_val.json", "classification"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_sets_are_refused_before_the_first_step(case, tmp_path):
    refuse(case, tmp_path)


def test_others_read_no_folders_of_this_machine():
    assert public_name("m3fd_scene_train") == "m3fd_scene_train"
    assert public_name(["/home/me/mine/train.json", "msrs_det_train"]) == "train.json, msrs_det_train"
    assert public_name("/home/me/pictures/") == "pictures"
