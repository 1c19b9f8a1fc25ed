"""The commands of docs/own_data.md, one after the other, on a few generated pairs with tiny models."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers.isolation import run
from helpers.pages import code_blocks
from helpers.tools import load_tool
from PIL import Image

BLOCKS = (block.replace("\\\n", " ").splitlines() for block in code_blocks("own_data.md", "sh"))
BOXES, MAPS, PAIRS, CLASSES = BLOCKS
XML = (
    "<annotation><object><name>{}</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>30</ymax>"
    "</bndbox></object></annotation>"
)
_RUN = (
    "train.init_checkpoint= train.max_iter=1 train.precision=fp32 dataloader.train.num_workers=0 "
    "dataloader.test.num_workers=0 dataloader.train.total_batch_size=2 "
)
_VIT = "".join(
    f"model.backbone.net.{change} " for change in ("embed_dim=24", "num_heads=2", "depth=4", "img_size=64")
)
_SWIN = "".join(
    f"model.backbone.net.{change} " for change in ("embed_dim=8", "depths=[1,1,1,1]", "num_heads=[1,1,2,2]")
)
_AUGMENTATIONS = "dataloader.{}.mapper.augmentations"
TINY = {
    "detection": f"{_RUN}{_VIT} model.backbone.net.global_blocks=[1,3] model.backbone.out_channels=16 "
    "model.square_pad=64 model.roi_heads.box_head.conv_dims=[16] model.roi_heads.box_head.fc_dims=[32] "
    "model.roi_heads.box_predictor.test_score_thresh=0 "
    f"{_AUGMENTATIONS.format('train')}.2.crop_size=[64,64] "
    f"{_AUGMENTATIONS.format('test')}.0.short_edge_length=64 {_AUGMENTATIONS.format('test')}.0.max_size=64",
    "segmentation": f"{_RUN}{_VIT} model.backbone.net.out_indices=[0,1,2,3] "
    "model.sem_seg_head.decoder.in_features=[block0,block1,block2,block3] "
    "model.sem_seg_head.decoder.channels=16 "
    f"{_AUGMENTATIONS.format('train')}.0.short_edge_length=[48,64] "
    f"{_AUGMENTATIONS.format('train')}.1.crop_size=[48,48]",
    "classification": f"{_RUN}{_SWIN}",
    "pair_classification": f"{_RUN}{_SWIN} {_AUGMENTATIONS.format('train')}.2.shape=[32,32] "
    f"{_AUGMENTATIONS.format('test')}.0.shape=[32,32]",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the page's data in my/: ten pairs of 64x48 px, their boxes and maps, and two classes."""
    folder = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    my = folder / "my"
    for name in ("visible", "infrared", "labels", "maps"):
        (my / name).mkdir(parents=True)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for i in range(10):
        color = generator.integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(color).save(my / f"visible/{i:04}_RGB.jpg")
        Image.fromarray(color[..., 0]).save(my / f"infrared/{i:04}_thermal.jpeg")
        kind = "person" if i % 2 else "car"
        (my / f"labels/{i:04}_RGB.xml").write_text(XML.format(kind))
        values = np.zeros((48, 64), np.uint8)
        values[10:30, 10:30] = 1 + i % 2
        Image.fromarray(values).save(my / f"maps/{i:04}_RGB.png")
        part = "val" if i > 7 else "train"
        file = my / "classes" / part / kind / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(color).save(file)
        for modality, pixels in (("visible", color), ("infrared", color[..., 0])):
            file = my / f"{modality}_classes/{kind}/{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
        lists[part].append(f"{part}/{kind}/{i}.png {kind}\n")
    for part, lines in lists.items():
        (my / f"{part}.txt").write_text("".join(lines))
    return folder


def follow(command: str, folder: Path) -> str:
    """Run a command of the page in `folder`, with a tiny model; returns what it prints."""
    words = shlex.split(command)
    if words[0] == "make":
        tool, *argv = load_tool("check_docs")._behind_make(words, inline=False)
        task = Path(next(word for word in argv if word.startswith("configs/"))).stem
        argv += shlex.split(TINY[task])
    else:
        tool, *argv = words[1:]
    outcome = run(tool, argv, folder, {"DETECTRON2_DATASETS": "datasets"})
    assert outcome.code == 0, f"{command}\n{outcome.out}\n{outcome.err}"
    return outcome.out + outcome.err


def test_boxes(place, tmp_path):
    said = [follow(command, place) for command in BOXES]
    assert "boxes: car" in said[0] and "configs/custom/detection.py" in said[0]
    assert "| person" in said[2] and "| car" in said[2]
    results = json.loads((place / "output/custom/detection/results.json").read_text())
    assert {"AP-car", "AP-person"} <= results["results"]["bbox"].keys()
    predictions = json.loads((place / "output/predictions/coco_instances_results.json").read_text())
    assert {prediction["category_id"] for prediction in predictions} <= {1, 2} and predictions
    pictures = [path for path in (place / "output/pictures").iterdir() if path.suffix == ".png"]
    assert len(pictures) == 2
    # The run's saved config evaluates in another folder, with the same figures.
    saved = place / "output/custom/detection"
    argv = ["--config-file", f"{saved}/config.yaml", "--eval-only", "--weights", f"{saved}/model_final.pth"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outcome = run("tools/train_net.py", [*argv, "train.output_dir=again"], elsewhere)
    assert outcome.code == 0, outcome.err
    again = json.loads((elsewhere / "again/results.json").read_text())
    assert again["results"] == results["results"]


def test_label_maps(place):
    said = [follow(command, place) for command in MAPS]
    assert "person" in said[0] and "configs/custom/segmentation.py" in said[0]
    results = json.loads((place / "output/custom/segmentation/results.json").read_text())
    assert {"IoU-background", "IoU-person", "IoU-car"} <= results["results"]["sem_seg"].keys()


def test_classes_of_pairs(place):
    said = [follow(command, place) for command in PAIRS]
    assert "configs/custom/pair_classification.py" in said[0] and "0 errors" in said[1]
    results = json.loads((place / "output/custom/pair_classification/results.json").read_text())
    assert {"accuracy-car", "accuracy-person", "top1"} <= results["results"]["classification"].keys()


def test_classes(place):
    for command in CLASSES:
        follow(command, place)
    figures = [
        json.loads((place / f"output/{run}/results.json").read_text())["results"]["classification"]
        for run in ("custom/classification", "lists")
    ]
    assert figures[0] == figures[1]  # the same images, classes and seed
