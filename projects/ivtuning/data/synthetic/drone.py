"""Pairs of vehicles seen from a drone, drawn from a seed, with oriented boxes.

There are two classes, car and truck, which stand in any direction. One vehicle in three shows in one image
alone: by night in infrared, by day, when it is cold, in the visible one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import torch
from iopath.common.file_io import file_lock

from ...oriented.boxes import canonical, corners
from ...utils.files import atomic_folder
from ..modalities import TIMES
from .drawing import BODIES, texture

CLASSES = ("car", "truck")
LENGTHS = {"car": (20, 30), "truck": (36, 52)}  # px
RATIOS = {"car": 2.1, "truck": 2.9}  # length / width
MOST = 6  # vehicles in an image
SUPERSAMPLE = 4
MARGIN = 2  # px between vehicles, and to the border

Vehicle = tuple[str, str, list[float]]  # class, modality, box


def generate_drone_set(
    root: str | os.PathLike,
    train: int = 96,
    val: int = 32,
    size: tuple[int, int] = (160, 128),
) -> None:
    """Write `train` + `val` pairs of `size` (width, height) pixels to a new folder, unless it has them.

    Boxes are listed in annotations/{train,val}.json. The same arguments give the same bytes.
    """
    root = Path(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root)):
        if (root / "annotations" / "val.json").is_file():
            return
        with atomic_folder(root) as new:
            (new / "annotations").mkdir()
            for number, (part, count) in enumerate((("train", train), ("val", val))):
                content = _write_part(new, part, count, size, number)
                (new / "annotations" / f"{part}.json").write_text(json.dumps(content))


def _write_part(root: Path, part: str, count: int, size: tuple[int, int], seed: int) -> dict:
    images, annotations = [], []
    for folder in ("vis", "ir"):
        (root / part / folder).mkdir(parents=True)
    for number in range(1, count + 1):
        time = TIMES[number % 2]
        rng = np.random.default_rng([0, seed, number])
        vehicles = _place(size, time == "night", rng)
        pictures = draw(vehicles, size, time == "night", rng)
        files = {key: f"{part}/{folder}/{number:05d}.png" for key, folder in _FOLDERS.items()}
        for file, picture in zip(files.values(), pictures, strict=True):
            cv2.imwrite(str(root / file), picture[..., ::-1] if picture.ndim == 3 else picture)
        images.append({"id": number, **files, "height": size[1], "width": size[0], "time": time})
        for kind, modality, box in vehicles:
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": CLASSES.index(kind) + 1}
            bbox = [round(v, 3) for v in canonical(torch.tensor(box)).tolist()]
            annotations.append(entry | {"bbox": bbox, "modality": modality})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    info = {"description": "ivtuning synthetic drone views", "angle_convention": "detectron2"}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


_FOLDERS = {"file_name": "vis", "ir_file_name": "ir"}


def _place(size: tuple[int, int], night: bool, rng: np.random.Generator) -> list[Vehicle]:
    """Vehicles that do not touch; the width of a box is the vehicle's length."""
    vehicles: list[Vehicle] = []
    number = rng.integers(2, MOST + 1)
    for _ in range(100):
        kind = CLASSES[rng.integers(len(CLASSES))]
        length = rng.uniform(*LENGTHS[kind])
        reach = length / 2 + MARGIN
        x, y = (rng.uniform(reach, side - reach) for side in size)
        near = ((x - b[0]) ** 2 + (y - b[1]) ** 2 < (reach + b[2] / 2) ** 2 for *_, b in vehicles)
        if any(near):
            continue
        modality = "both" if rng.random() > 1 / 3 else "infrared" if night else "visible"
        box = [float(v) for v in (x, y, length, length / RATIOS[kind], rng.uniform(-180, 180))]
        vehicles.append((kind, modality, box))
        if len(vehicles) == number:
            break
    return vehicles


def draw(
    vehicles: list[Vehicle], size: tuple[int, int], night: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The visible (H, W, 3) RGB and the infrared (H, W) image, uint8, of vehicles."""
    width, height = size
    fine = height * SUPERSAMPLE, width * SUPERSAMPLE
    light = np.full((*fine, 3), (96, 104, 88), np.float32)
    heat = np.full(fine, 70, np.float32)
    middle = [rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height]
    road = [*middle, 3.0 * width, 0.3 * height, rng.uniform(-90, 90)]
    _fill(light, road, (112, 112, 116))
    _fill(heat, road, 82)
    for kind, modality, (x, y, length, breadth, angle) in vehicles:
        body = tuple(float(v) for v in BODIES[rng.integers(len(BODIES))])
        cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        # A dark windshield behind the hood of a car, or the gap between the cabin and the load of a truck.
        at = (0.22 if kind == "car" else 0.28) * length
        window = [x + cosine * at, y - sine * at, 0.12 * length, 0.86 * breadth, angle]
        hood = [x + cosine * 0.38 * length, y - sine * 0.38 * length, 0.2 * length, 0.8 * breadth, angle]
        if modality != "infrared":
            _fill(light, [x, y, length, breadth, angle], body)
            _fill(light, window, (25, 30, 35))
        if modality != "visible":
            _fill(heat, [x, y, length, breadth, angle], 130)
            _fill(heat, hood, 210)
    light, heat = (cv2.resize(layer, size, interpolation=cv2.INTER_AREA) for layer in (light, heat))
    light = light + texture(rng, (height, width), 8, 5)[..., None]
    light = light * (0.35 if night else 1.0) + rng.normal(0, 3, light.shape)
    heat = heat + texture(rng, (height, width), 16, 3) + rng.normal(0, 3, heat.shape)
    return light.round().clip(0, 255).astype(np.uint8), heat.round().clip(0, 255).astype(np.uint8)


def _fill(layer: np.ndarray, box: list[float], value) -> None:
    points = corners(torch.tensor(box, dtype=torch.float64)).numpy() * SUPERSAMPLE - 0.5
    cv2.fillPoly(layer, [np.round(points).astype(np.int32)], value)
