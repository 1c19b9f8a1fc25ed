"""Registration and reading of paired detection sets."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from ivtuning.data.catalog import unregister
from ivtuning.data.datasets.detection import register_known, register_pairs, training_dicts
from ivtuning.errors import UserError


def content(**changes) -> dict:
    images = [
        {"id": i, "file_name": f"vis/{i}.png", "ir_file_name": f"ir/{i}.png", "height": 30, "width": 40}
        for i in (1, 2)
    ]
    images[0]["time"] = "night"
    box = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    box["modality"] = "infrared"
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}]
    coco = {"info": {}, "images": images, "annotations": [box], "categories": categories}
    return coco | changes


def test_dicts_have_partner_time_and_modality(register, tmp_path):
    name = register(content())
    first, second = DatasetCatalog.get(name)
    root = tmp_path / name
    assert first["file_name"] == str(root / "vis/1.png")
    assert first["ir_file_name"] == str(root / "ir/1.png")
    assert first["time"] == "night" and "time" not in second
    box = first["annotations"][0]
    assert box["category_id"] == 1 and box["modality"] == "infrared" and box["bbox"] == [1, 2, 3, 4]
    assert second["annotations"] == []
    meta = MetadataCatalog.get(name)
    assert meta.thing_classes == ["car", "person"]
    assert meta.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}
    assert meta.evaluator_type == "coco"
    assert meta.json_file == str(root / "annotations" / "train.json")


@pytest.mark.parametrize(
    "recorded, expected", [("/elsewhere", "/elsewhere/ir/1.png"), ("raw", "raw/ir/1.png")]
)
def test_recorded_image_root_wins(register, tmp_path, recorded, expected):
    name = register(content(info={"image_root": recorded}))
    # A relative one starts at the set's root, two levels above the JSON; / keeps an absolute one.
    assert DatasetCatalog.get(name)[0]["ir_file_name"] == str(tmp_path / name / expected)


def test_registering_is_lazy_and_idempotent(tmp_path):
    path = tmp_path / "annotations" / "train.json"
    register_pairs("lazy_set", path, tmp_path)
    before = MetadataCatalog.get("lazy_set")
    register_pairs("lazy_set", path, tmp_path)
    assert MetadataCatalog.get("lazy_set") is before
    register_pairs("lazy_set", path, tmp_path / "other")
    assert MetadataCatalog.get("lazy_set").image_root == str(tmp_path / "other")
    with pytest.raises(UserError, match=r"train.json is missing: make it with datasets/prepare_pairs.py"):
        DatasetCatalog.get("lazy_set")
    unregister("lazy_set")
    assert "lazy_set" not in DatasetCatalog.list()


def test_known_sets_follow_the_environment(sets):
    for name, file in {
        "m3fd_scene_train": "m3fd/annotations/scene_train.json",
        "m3fd_random_val": "m3fd/annotations/random_val.json",
        "msrs_official_test": "msrs/annotations/official_test.json",
        "msrs_official_infrared_train": "msrs/annotations/official_infrared_train.json",
        "msrs_det_train": "msrs/annotations/det_train.json",
        "msrs_det_visible_val": "msrs/annotations/det_visible_val.json",
        "llvip_default_val": "llvip/annotations/default_val.json",
        "kaist_paired_infrared_test": "kaist/annotations/paired_infrared_test.json",
        "kaist_paired_both_train": "kaist/annotations/paired_both_train.json",
        "cvc14_visible_train": "cvc14/annotations/visible_train.json",
        "vedai_fold10_val": "vedai/annotations/fold10_val.json",
        "synthetic_train": "synthetic/annotations/train.json",
    }.items():
        assert MetadataCatalog.get(name).json_file == str(sets / file)
    with pytest.raises(UserError, match=r"scene_train.json is missing.*prepare_m3fd.py"):
        DatasetCatalog.get("m3fd_scene_train")


def unknown_category():
    coco = content()
    coco["annotations"][0]["category_id"] = 7
    return coco


def no_partner():
    coco = content()
    del coco["images"][1]["ir_file_name"]
    return coco


def no_width():
    coco = content()
    del coco["images"][1]["width"]
    return coco


def test_prepared_sets_are_registered_by_their_files(sets):
    folder = sets / "street/annotations"
    folder.mkdir(parents=True)
    for stem in ("default_train", "default_val", "instances_train2017", "notes_old"):
        (folder / f"{stem}.json").write_text(json.dumps(content()))
    register_known()
    try:
        assert [name for name in DatasetCatalog.list() if name.startswith("street")] == [
            "street_default_train",
            "street_default_val",
        ]
        assert DatasetCatalog.get("street_default_val")[0]["file_name"] == str(sets / "street/vis/1.png")
    finally:
        for part in ("train", "val"):
            unregister(f"street_default_{part}")


BAD = {
    "half written": ('{"images": [', "not valid JSON"),
    "not coco": ({"images": [], "categories": []}, "no list 'annotations'"),
    "no images": (content(images=[], annotations=[]), "lists no images"),
    "no categories": (content(categories=[], annotations=[]), "lists no categories"),
    "unknown category": (
        unknown_category(),
        r"train.json: annotation 1 of vis/1.png: unknown category id 7 \(known: 1 car",
    ),
    "no partner": (no_partner(), "vis/2.png: it has no ir_file_name"),
    "no width": (no_width(), "vis/2.png: it has no 'width'"),
    "id twice": (content(annotations=content()["annotations"] * 2), "annotations: id 1 occurs 2 times"),
}


@pytest.mark.parametrize("coco, message", BAD.values(), ids=BAD)
def test_bad_json_is_named(register, coco, message):
    with pytest.raises(UserError, match=message):
        DatasetCatalog.get(register(coco))


def test_training_leaves_out_images_without_boxes(register):
    name = register(content())
    assert [d["image_id"] for d in training_dicts(name)] == [1]
    assert [d["image_id"] for d in training_dicts([name], filter_empty=False)] == [1, 2]
    assert len(training_dicts([name, register(content(), "second_set")])) == 2


def test_training_refuses_what_it_cannot_use(register, tmp_path):
    bare = register(content(annotations=[]), "bare_set")
    full = register(content())
    other = register(content(categories=[{"id": 1, "name": "bus"}, {"id": 2, "name": "car"}]), "other_set")
    with pytest.raises(
        UserError, match="bare_set has no box to train on in .*bare_set/annotations/train.json"
    ):
        training_dicts([full, bare])
    with pytest.raises(UserError, match="other_set have different classes"):
        training_dicts([full, other])
    with pytest.raises(UserError, match="no data set is called 'some_sett'; did you mean 'some_set'"):
        training_dicts("some_sett")
