"""The synthetic drone views: the same files every time, and boxes around what shows."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from ivtuning.data.synthetic.drone import CLASSES, generate_drone_set


def test_equal_sets_with_boxes_around_vehicles(tmp_path):
    for name in "ab":
        generate_drone_set(tmp_path / name, train=4, val=2, size=(120, 100))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 2 * 6 + 2
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)

    content = json.loads((tmp_path / "a/annotations/train.json").read_text())
    assert [c["name"] for c in content["categories"]] == list(CLASSES)
    shown = {image["id"]: image for image in content["images"]}
    for a in content["annotations"]:
        x, y, width, height, angle = a["bbox"]
        assert width > height and -90 <= angle < 90
        image = shown[a["image_id"]]
        infrared = np.asarray(Image.open(tmp_path / "a" / image["ir_file_name"]))
        warm = infrared[int(y), int(x)] > 110
        assert warm == (a["modality"] != "visible")
        assert a["modality"] == "both" or (a["modality"] == "infrared") == (image["time"] == "night")


def test_a_set_that_is_there_stays(tmp_path):
    generate_drone_set(tmp_path / "set", train=1, val=1)
    before = (tmp_path / "set/annotations/val.json").stat().st_mtime_ns
    generate_drone_set(tmp_path / "set", train=3, val=3)
    assert (tmp_path / "set/annotations/val.json").stat().st_mtime_ns == before
