"""Paired infrared-visible street scenes, drawn from a seed: enough to learn from, and nothing to download.

There are four classes; 36 % of the objects show in one modality only:

========  ===================  =========================================================================
class     shows in infrared    shows in visible
========  ===================  =========================================================================
person    always (warm)        by day, and at night where light falls on it; vanishes in the dark
engine    always (hot block)   by day, and at night where light falls on it; vanishes in the dark
lamp      when warm            always (glows at night); a cold one vanishes in infrared
sign      when warm (lit)      always; a cold one vanishes in infrared
========  ===================  =========================================================================

Decoys look like objects in one modality but are not. A rule separates them, given both images:

- a person or engine is warm, and by day it also shows in the visible image. So a person or engine by day in
  the visible image alone (a poster, a parked shell) or in infrared alone (steam, a warm patch) is a decoy.
  At night there are no such decoys: everything warm of that shape is an object;
- a lamp or sign shows in the visible image. So one in infrared alone (a reflection of warmth) is a decoy, by
  day and at night.

The 36 % hold for each split as a whole and, as nearly as whole numbers allow, for each class, because
modalities are dealt from shuffled decks instead of being drawn object by object. The share is exact to half
an object: within 1 % from 16 images on.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from iopath.common.file_io import file_lock

from ...errors import UserError
from ...utils.files import atomic_folder
from ...utils.progress import track
from ..modalities import SHOWN_IN, TIMES
from .drawing import CLASSES, Sprite
from .placement import deal, draw_pair, label_map

DESCRIPTION = "ivtuning synthetic infrared-visible scenes"
VERSION = 1  # to raise when the drawing changes, so that sets on disk are replaced
# Classes of the label maps, with the colors that their boxes have in pictures.
LABELS = {
    "background": (0, 0, 0),
    **dict(zip(CLASSES, ((255, 176, 0), (86, 180, 233), (240, 84, 120), (0, 200, 140)), strict=True)),
}


def generate(
    root: str | os.PathLike,
    train: int = 256,
    val: int = 64,
    size: tuple[int, int] = (192, 144),
    seed: int = 0,
) -> dict:
    """Write `train` + `val` pairs of `size` (width, height) pixels under `root`, unless they exist.

    Boxes are listed in annotations/{train,val}.json, label maps ({train,val}/labels/*.png: 0 is background,
    classes count from 1) in segmentation/{train,val}.json. Both include objects that only one image shows.

    A finished set with the same parameters is kept, one with others is replaced as a whole; `root` never
    holds half a set. The same arguments give the same bytes. Prints a line per split.

    Returns:
        {"root": str, "train": summary, "val": summary}, each summary with counts "images", "day", "night",
        "objects", "per_class" {name: count} and "modality" {"both" | "visible" | "infrared": count}, and
        "single_share", the part of the objects in [0, 1] that show in one modality only.

    Raises:
        UserError: a parameter is out of range, or `root` holds something other than a synthetic set.
    """
    parameters = _check(train, val, size, seed)
    root = Path(root).resolve()
    sets = _read(root)
    if sets is None or not _is_complete(root, sets, parameters):
        if root.exists() and sets is None and (not root.is_dir() or any(root.iterdir())):
            raise UserError(f"{root} is no synthetic set: choose an empty or new folder, or remove it first")
        try:
            sets = _write(root, parameters)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise UserError(f"cannot write {root} ({error.strerror}): choose another folder") from error
    summary: dict = {"root": str(root), **{split: summarize(coco) for split, coco in sets.items()}}
    for split in sets:
        print(f"{root.name}_{split}: {describe(summary[split])}")
    return summary


def generate_once(root: str | os.PathLike) -> None:
    """Make the set in `root` with default parameters; of several processes that ask for it, one makes it."""
    root = Path(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root)):
        generate(root)


def summarize(coco: dict) -> dict:
    """Counts of one split, a COCO dict as :func:`generate` writes it; see there for the keys."""
    names = {category["id"]: category["name"] for category in coco["categories"]}
    times = Counter(image["time"] for image in coco["images"])
    classes = Counter(names[annotation["category_id"]] for annotation in coco["annotations"])
    modality = Counter(annotation["modality"] for annotation in coco["annotations"])
    objects = len(coco["annotations"])
    return {
        "images": len(coco["images"]),
        **{time: times[time] for time in TIMES},
        "objects": objects,
        "per_class": {name: classes[name] for name in names.values()},
        "modality": {name: modality[name] for name in SHOWN_IN},
        "single_share": (modality["visible"] + modality["infrared"]) / objects,
    }


def describe(summary: dict) -> str:
    """A summary from :func:`summarize` as one line of text."""
    classes = ", ".join(f"{name} {count}" for name, count in summary["per_class"].items())
    return (
        f"{summary['images']} pairs ({summary['day']} day, {summary['night']} night), "
        f"{summary['objects']} objects ({classes}), {summary['single_share']:.1%} show in one modality only"
    )


def _check(train: int, val: int, size: tuple[int, int], seed: int) -> dict:
    for name, value, least in (("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise UserError(f"synthetic set: {name} must be an integer of {least} or more, not {value!r}")
    sides = list(size) if isinstance(size, tuple | list) else [size]
    if len(sides) != 2 or not all(isinstance(n, int) for n in sides) or min(sides) < 72 or max(sides) < 96:
        raise UserError(f"synthetic set: size must be (width, height), at least 96 x 72 pixels, not {sides}")
    return {"train": train, "val": val, "size": sides, "seed": seed, "version": VERSION}


def _read(root: Path) -> dict | None:
    """Both splits of the synthetic set at `root`; None if there is no such set."""
    try:
        sets = {s: json.loads((root / "annotations" / f"{s}.json").read_text()) for s in ("train", "val")}
        return sets if all(c["info"]["description"] == DESCRIPTION for c in sets.values()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_complete(root: Path, sets: dict, parameters: dict) -> bool:
    """Whether the set was made with `parameters` and has all its files; older sets lack label maps."""
    return all(
        coco["info"].get("parameters") == parameters
        and (root / "segmentation" / f"{split}.json").is_file()
        and all(
            (root / path).is_file()
            for image in coco["images"]
            for path in _paths(split, image["id"], image["time"]).values()
        )
        for split, coco in sets.items()
    )


def _paths(split: str, number: int, time: str) -> dict[str, str]:
    """Files of one pair, relative to the set's root, by the keys of its JSON."""
    name = f"{number:05d}{time[0].upper()}.png"
    folders = {"file_name": "vis", "ir_file_name": "ir", "sem_seg_file_name": "labels"}
    return {key: f"{split}/{folder}/{name}" for key, folder in folders.items()}


def _write(root: Path, parameters: dict) -> dict:
    with atomic_folder(root) as new:
        for folder in ("annotations", "segmentation"):
            (new / folder).mkdir()
        return {split: _write_split(new, split, parameters) for split in ("train", "val")}


def _write_split(root: Path, split: str, parameters: dict) -> dict:
    seeds = [parameters["seed"], ("train", "val").index(split)]
    width, height = parameters["size"]
    images, annotations = [], []
    for folder in ("vis", "ir", "labels"):
        (root / split / folder).mkdir(parents=True)
    plans = deal(parameters[split], np.random.default_rng(seeds))
    for number, (time, objects, decoys) in enumerate(track(plans, f"synthetic {split}"), start=1):
        rng = np.random.default_rng([*seeds, number])
        visible, infrared, sprites = draw_pair((height, width), time, objects, decoys, rng)
        paths = _paths(split, number, time)
        pictures = visible[..., ::-1], infrared, label_map(sprites, (height, width))
        for path, picture in zip(paths.values(), pictures, strict=True):
            if not cv2.imwrite(str(root / path), picture):
                raise UserError(f"cannot write {root / path}: is the disk full?")
        images.append({"id": number, **paths, "height": height, "width": width, "time": time})
        for sprite in sprites:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **_annotate(sprite)})
    info = {"description": DESCRIPTION, "split": split, "parameters": parameters}
    categories = [{"id": n, "name": name, "color": rgb} for n, (name, rgb) in enumerate(LABELS.items())]
    maps = {"info": info, "images": images, "categories": categories}
    (root / "segmentation" / f"{split}.json").write_text(json.dumps(maps))
    images = [{k: v for k, v in image.items() if k != "sem_seg_file_name"} for image in images]
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    coco = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"{split}.json").write_text(json.dumps(coco))
    return coco


def _annotate(sprite: Sprite) -> dict:
    """Box, area and polygons of the visible part of `sprite`, to an eighth of a pixel."""
    x0, y0, x1, y1 = (int(v) for v in (sprite.x - 1, sprite.y - 1, sprite.box[2] + 1, sprite.box[3] + 1))
    fine = cv2.resize(sprite.visible_part[y0:y1, x0:x1], None, fx=8, fy=8, interpolation=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours((fine > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = [cv2.approxPolyDP(c, 1.0, True)[:, 0] for c in contours if cv2.contourArea(c) > 3 * 64]
    polygons = [(c + 0.5) / 8 + (x0, y0) for c in contours if len(c) >= 3]
    low = np.min([p.min(0) for p in polygons], axis=0)
    high = np.max([p.max(0) for p in polygons], axis=0)
    area = sum(cv2.contourArea(p.astype(np.float32)) for p in polygons)
    return {
        "category_id": CLASSES.index(sprite.kind) + 1,
        "bbox": [round(float(v), 2) for v in (*low, *(high - low))],
        "area": round(float(area), 2),
        "segmentation": [[round(float(v), 2) for v in p.ravel()] for p in polygons],
        "iscrowd": 0,
        "modality": sprite.modality,
    }
