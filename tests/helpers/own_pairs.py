"""Folders of own pairs and labels, and the set that is prepared of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ivtuning.data.prepare.own_pairs import prepare_pairs

W, H = 40, 30
# A box of 10 x 6 px at (1, 2), in each format.
XML = (
    "<annotation><object><name>{}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>8</ymax>"
    "</bndbox></object></annotation>"
)
YOLO = "{} 0.15 0.16666666666666666 0.25 0.2\n"
BOX = [1, 2, 10, 6]


def images(folder: Path, visible="{}.png", infrared="{}.png", stems=("1", "2", "3", "4", "5")) -> Path:
    """Pairs in vis/ and ir/ of a folder; returns the folder."""
    for number, stem in enumerate(stems):
        color = np.random.default_rng(number).integers(0, 255, (H, W, 3), np.uint8)
        for name, pixels in ((f"vis/{visible}", color), (f"ir/{infrared}", color[..., 0])):
            path = folder / name.format(stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, format="png")
    return folder


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc(folder: Path, stems=("1", "2", "3", "4", "5"), name="labels/{}.xml") -> Path:
    for number, stem in enumerate(stems):
        write(folder, name.format(stem), XML.format("car" if number % 2 else "person"))
    return folder


def prepare(folder: Path, labels="labels", **options) -> dict[str, dict]:
    """The contents of the set's files by part, from the folders vis/ and ir/."""
    places = {"visible": "vis", "infrared": "ir"} | {
        k: options.pop(k) for k in ("visible", "infrared") if k in options
    }
    files = prepare_pairs(
        **places, labels=labels, output=folder / "out", name="own", source=folder, **options
    )
    return {file.stem.rpartition("_")[2]: json.loads(file.read_text()) for file in files}


def names(content: dict) -> list[str]:
    return [category["name"] for category in content["categories"]]


def coco(*boxes, name="somewhere/{}_RGB.jpg") -> dict:
    content: dict = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "dog"}],
    }
    for number in range(1, 6):
        content["images"].append(
            {"id": 10 * number, "file_name": name.format(number), "width": W, "height": H}
        )
        for box in boxes:
            content["annotations"].append({"id": len(content["annotations"]), "image_id": 10 * number} | box)
    return content
