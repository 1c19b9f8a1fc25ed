"""Pairs without fault, with boxes or with label maps."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.scenes import SIZE, crop, scene
from PIL import Image

from ivtuning.data.verify.verification import verify


@pytest.fixture
def pairs(tmp_path):
    """Three good pairs; returns (content, a function that verifies what it was made into)."""
    for folder in ("vis", "ir", "annotations"):
        (tmp_path / folder).mkdir()
    images = []
    for number in (1, 2, 3):
        canvas = scene(number)
        Image.fromarray(crop(canvas)).convert("RGB").save(tmp_path / f"vis/{number}.png")
        # Inverted, as cold and warm may be: only the edges are common.
        Image.fromarray(255 - crop(canvas)).save(tmp_path / f"ir/{number}.png")
        names = {"file_name": f"vis/{number}.png", "ir_file_name": f"ir/{number}.png"}
        images.append({"id": number, "width": SIZE[0], "height": SIZE[1]} | names)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0}
    content = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "car"}]}
    path = tmp_path / "annotations" / "train.json"

    def check(**options):
        path.write_text(json.dumps(content))
        return verify({"some_set": (path, tmp_path)}, **options)

    return content, check


@pytest.fixture
def classified(pairs, tmp_path):
    """The same pairs with classes: a car, a person, a car; no pair is a bicycle."""
    content, _ = pairs
    (tmp_path / "classification").mkdir()
    del content["annotations"]
    for image, number in zip(content["images"], (1, 2, 1), strict=True):
        image["category_id"] = number
    names = ("car", "person", "bicycle")
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    path = tmp_path / "classification" / "train.json"

    def check():
        path.write_text(json.dumps(content))
        return verify({"some_cls_train": (path, tmp_path)})

    return content, check


@pytest.fixture
def labeled(pairs, tmp_path):
    """The same pairs with label maps: "ground" left, "car" in a quarter, 7 (ignored) in another."""
    content, _ = pairs
    (tmp_path / "labels").mkdir()
    (tmp_path / "segmentation").mkdir()
    values = np.zeros(SIZE[::-1], np.uint8)
    values[: SIZE[1] // 2, SIZE[0] // 2 :] = 1
    values[SIZE[1] // 2 :, SIZE[0] // 2 :] = 7
    del content["annotations"]
    for image in content["images"]:
        image["sem_seg_file_name"] = f"labels/{image['id']}.png"
        Image.fromarray(values).save(tmp_path / image["sem_seg_file_name"])
    content["categories"] = [
        {"id": 0, "name": "ground", "color": [0, 0, 0]},
        {"id": 1, "name": "car", "color": [64, 0, 128]},
    ]
    content["ignored"] = [7]
    path = tmp_path / "segmentation" / "train.json"

    def check():
        path.write_text(json.dumps(content))
        return verify({"some_seg_train": (path, tmp_path)})

    return content, check
