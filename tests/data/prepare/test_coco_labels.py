"""Own pairs with labels in COCO's format: one file, or one for each part."""

from __future__ import annotations

import json

import pytest
from helpers.own_pairs import BOX, W, coco, images, names, prepare, write

from ivtuning.errors import UserError


def test_coco_keeps_masks_and_crowds(tmp_path):
    images(tmp_path, "{}_RGB.jpg", "{}_ir.jpg")
    polygon = [[1, 2, 11, 2, 11, 8]]
    car = {"category_id": 7, "bbox": BOX, "segmentation": polygon, "area": 30}
    dog = {"category_id": 3, "bbox": BOX, "ignore": 1, "occlusion": 2}
    content = coco(car, dog)
    for image in content["images"]:
        image["group"] = "street"
    write(tmp_path, "all.json", json.dumps(content))
    made = prepare(tmp_path, "all.json", split="0.4")
    assert [len(made[part]["images"]) for part in ("train", "val")] == [3, 2]
    assert names(made["val"]) == ["dog", "car"]
    first, second = made["val"]["annotations"][:2]
    assert first == {
        "id": 1,
        "image_id": 1,
        "bbox": BOX,
        "segmentation": polygon,
        "area": 30,
        "iscrowd": 0,
        "category_id": 2,
    }
    assert (second["iscrowd"], second["area"], second["category_id"]) == (1, 60, 1)
    assert second["occlusion"] == 2 and "occlusion" not in first
    assert {image["group"] for image in made["train"]["images"]} == {"street"}
    made = prepare(tmp_path, "all.json", classes="car", ignore="dog")
    assert names(made["val"]) == ["car"] and len(made["val"]["annotations"]) == 1
    with pytest.raises(UserError, match="class 'dog': name it in --classes or in --ignore"):
        prepare(tmp_path, "all.json", classes="car")


def test_coco_boxes_are_clipped_and_counted_like_all_others(tmp_path, capsys):
    images(tmp_path, "{}_RGB.jpg", "{}_ir.jpg")
    inside, across = ({"category_id": 7, "bbox": box} for box in (BOX, [W - 8, 1, 10, 5]))
    mask = {"category_id": 3, "bbox": BOX, "segmentation": [[1, 2, 11, 2, 11, 8]]}
    write(tmp_path, "all.json", json.dumps(coco(inside, across, mask)))
    first, second, third = prepare(tmp_path, "all.json", split="0.4")["val"]["annotations"][:3]
    assert (first["bbox"], second["bbox"], second["area"]) == (BOX, [W - 8, 1, 8, 5], 40)
    assert "area" not in third  # the mask's is less than the box's
    assert "boxes clipped to the image" in capsys.readouterr().out
    thin = {"category_id": 3, "bbox": [3, 1, 0.5, 5]}
    write(tmp_path, "all.json", json.dumps(coco(inside, inside, thin)))
    with pytest.raises(UserError, match="none of the . boxes of dog can be used: .* under 1 px wide"):
        prepare(tmp_path, "all.json", split="0.4")
    twice = coco(inside)
    twice["categories"][1]["name"] = "Car"
    write(tmp_path, "all.json", json.dumps(twice))
    with pytest.raises(UserError, match="class 'car' is there twice"):
        prepare(tmp_path, "all.json", split="0.4")


def test_a_coco_file_for_each_part(tmp_path):
    images(tmp_path, "{}.jpg", "{}.jpg", ("train/1", "train/2", "test/1", "test/2"))
    for part in ("train", "test"):
        content = coco({"category_id": 7, "bbox": BOX}, name="{}.jpg")
        content["images"], content["annotations"] = content["images"][:2], content["annotations"][:2]
        write(tmp_path, f"instances_{part}.json", json.dumps(content))
    made = prepare(tmp_path, "instances_{part}.json")
    assert [image["file_name"] for image in made["val"]["images"]] == ["vis/test/1.jpg", "vis/test/2.jpg"]
    assert len(made["train"]["annotations"]) == len(made["val"]["annotations"]) == 2
