"""Faults of JSON files: what the tools say. All faults are in tests/data/test_faults.py."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.isolation import Case, refuse, run
from helpers.runs import TINY
from PIL import Image

CHECK, TRAIN = "datasets/check_pairs.py", "tools/train_net.py"
CONFIG = str(Path(__file__).parents[2] / "configs" / "synthetic" / "ivtuning.py")
SIZE = (64, 48)  # width, height


def content() -> dict:
    images = [
        {"id": i, "file_name": f"vis/{i}.png", "ir_file_name": f"ir/{i}.png", "width": 64, "height": 48}
        for i in (1, 2)
    ]
    box = {"category_id": 1, "bbox": [10, 8, 30, 20], "area": 600, "iscrowd": 0}
    box["segmentation"] = [[10, 8, 40, 8, 40, 28]]
    boxes = [{"id": i, "image_id": i} | copy.deepcopy(box) for i in (1, 2)]
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}]
    return {"images": images, "annotations": boxes, "categories": categories}


def write(folder: Path, part: str, made: object, seed: int = 0) -> Path:
    """Write a part of m3fd below ``datasets``; `made` is the content of its JSON, or the text."""
    random = np.random.default_rng(seed)
    for kind, channels in (("vis", (3,)), ("ir", ())):
        (folder / "datasets/m3fd" / kind).mkdir(parents=True, exist_ok=True)
        for i in (1, 2):
            pixels = random.integers(0, 255, (*SIZE[::-1], *channels), np.uint8)
            Image.fromarray(pixels).save(folder / "datasets/m3fd" / kind / f"{i}.png")
    path = folder / "datasets/m3fd/annotations" / f"scene_{part}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(made if isinstance(made, str) else json.dumps(made))
    return path


def changed(change: Callable[[dict], object]) -> dict:
    made = content()
    change(made)
    return made


def checking(change: Callable[[dict], object]) -> Callable[[Path], list[str]]:
    def prepare(folder: Path) -> list[str]:
        return [str(write(folder, "train", changed(change)).relative_to(folder))]

    return prepare


def training(change: Callable[[dict], object], part: str = "train") -> Callable[[Path], list[str]]:
    def prepare(folder: Path) -> list[str]:
        for other in ("train", "val"):
            write(folder, other, changed(change) if other == part else content())
        return arguments()

    return prepare


def arguments() -> list[str]:
    sets = ["dataloader.train.dataset.names=m3fd_scene_train", "dataloader.test.dataset.names=m3fd_scene_val"]
    options = ["train.max_iter=1", "train.output_dir=../output", "dataloader.train.num_workers=0"]
    options += ["dataloader.test.num_workers=0", "model.roi_heads.num_classes=2"]
    return ["--config-file", CONFIG, *TINY, *sets, *options]


def broken(folder: Path) -> list[str]:
    write(folder, "train", '{"images": [],\n "annotations": [}')
    return ["datasets/m3fd/annotations/scene_train.json"]


def set_box(**values):
    return lambda made: made["annotations"][0].update(values)


def set_image(**values):
    return lambda made: made["images"][0].update(values)


HUGE = {"size": [10**6, 10**6], "counts": [10**12]}
FAULTS = [
    ("a repeated image id", lambda made: made["images"][1].update(id=1), ["images", "id 1 occurs 2 times"]),
    ("a textual id", set_image(id="a"), ["vis/1.png", "id is 'a'"]),
    ("a null image", lambda made: made["images"].append(None), ["images[2]"]),
    ("an empty box", set_box(bbox=[]), ["annotation 1 of vis/1.png", "bbox is []"]),
    ("a box that is NaN", set_box(bbox=[1, 2, float("nan"), 4]), ["annotation 1 of vis/1.png", "nan"]),
    ("a box outside", set_box(bbox=[900, 2, 5, 4]), ["annotation 1 of vis/1.png", "[900, 2, 5, 4]"]),
    ("a code of huge size", set_box(segmentation=HUGE), ["annotation 1 of vis/1.png", "1000000"]),
    ("a class twice", lambda made: made["categories"][1].update(name="car"), ["'car' occurs 2 times"]),
    ("a file outside", set_image(file_name="../../etc/1.png"), ["../../etc/1.png", "outside", "image_root"]),
]
CASES = [
    Case("syntax error", CHECK, broken, ["m3fd/annotations/scene_train.json:2", "not valid JSON"]),
    *(Case(f"check: {name}", CHECK, checking(change), says) for name, change, says in FAULTS),
    *(
        Case(f"train: {name}", TRAIN, training(change), ["scene_train.json", *says])
        for name, change, says in FAULTS[::6]
    ),
    Case("test: a textual id", TRAIN, training(set_image(id="a"), "val"), ["scene_val.json", "id is 'a'"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_faults_of_a_json_are_refused(case, tmp_path):
    refuse(case, tmp_path)


def test_images_in_two_sets_are_found(tmp_path):
    write(tmp_path, "train", content())
    write(tmp_path, "val", content())
    outcome = run(CHECK, ["m3fd_scene_train", "m3fd_scene_val", "--json"], tmp_path)
    assert outcome.code == 1 and "as m3fd_scene_train: vis/1.png" in outcome.out
    assert outcome.err.splitlines()[-1].startswith("error: 4 errors in m3fd_scene_train, m3fd_scene_val")
    assert json.loads(outcome.out.splitlines()[-1])["kinds"] == {"shared image": 4}


def test_a_model_of_boxes_trains_on_objects_without_masks(tmp_path):
    write(tmp_path, "train", changed(set_box(segmentation=[[1, 2, 3, 4]])))
    write(tmp_path, "val", changed(set_box(ignore=1, segmentation=[[1, 2, 3, 4, 5]])), seed=1)
    outcome = run(TRAIN, arguments(), tmp_path)
    assert outcome.code == 0, outcome.out + outcome.err
