"""Paired detection sets in detectron2's catalogs: COCO JSON whose images name an infrared partner.

Importing this module registers the known sets under ``$DETECTRON2_DATASETS`` (default ``datasets``). Their
JSON files are made by the scripts in the repository's ``datasets`` folder and read on first use. So are other
sets there that the scripts have made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import load_coco_json

from ...errors import UserError
from .. import catalog
from ..catalog import KnownSet, check_same_classes, data_root, image_root_of, metadata
from ..synthetic.generate import generate_once
from . import segmentation

# Parts are named <split>_<part>; the synthetic set has a single split without a name.
KNOWN = {
    "m3fd": KnownSet(
        folder="m3fd",
        parts=("scene_train", "scene_val", "random_train", "random_val"),
        maker="datasets/prepare_m3fd.py",
    ),
    "msrs": KnownSet(
        folder="msrs",
        parts=(
            *("official_train", "official_test", "det_train", "det_val"),
            *("official_infrared_train", "official_infrared_test", "det_infrared_train", "det_infrared_val"),
            *("official_visible_train", "official_visible_test", "det_visible_train", "det_visible_val"),
        ),
        maker="datasets/prepare_msrs_detection.py",
    ),
    "llvip": KnownSet(
        folder="llvip", parts=("default_train", "default_val"), maker="datasets/prepare_voc_pairs.py"
    ),
    "synthetic": KnownSet(folder="synthetic", parts=("train", "val"), maker="a first use of it"),
}

REQUIRED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def read_json(json_file: str | Path) -> dict:
    """The content of a COCO JSON with images, annotations and categories; UserError if it is not one."""
    return catalog.read_json(json_file, REQUIRED, KNOWN)


def _load(name: str, json_file: str, image_root: str) -> list[dict]:
    if name.startswith("synthetic_") and not Path(json_file).exists():
        generate_once(image_root)
    content = read_json(json_file)
    root = image_root_of(content, json_file, image_root)
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content["categories"]}
    if not images or not categories:
        raise UserError(f"{json_file} lists no {'categories' if images else 'images'}: prepare the set again")
    catalog.check_partners(images.values(), json_file)
    ids = set()
    for box in content["annotations"]:
        if box["category_id"] not in categories:
            image = images.get(box["image_id"], {}).get("file_name")
            known = ", ".join(f"{i} {n}" for i, n in categories.items())
            raise UserError(
                f"{json_file}: annotation {box['id']} of image {image!r} has unknown category id "
                f"{box['category_id']} (known: {known}); fix the labels and prepare the set again"
            )
        if box["id"] in ids:
            raise UserError(f"{json_file}: annotation id {box['id']} occurs twice; ids must be unique")
        ids.add(box["id"])
    dicts = load_coco_json(json_file, str(root), name, extra_annotation_keys=["modality"])
    for record in dicts:
        catalog.add_pair_keys(record, images[record["image_id"]], root)
    return dicts


def register_pairs(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a paired set, to be read on first use; other paths under a known name replace the old ones.

    Its dicts are detectron2's standard ones, with ``ir_file_name``, with ``time`` ("day" or "night") if
    known, and with ``modality`` for each annotation if known. An image of the JSON may state ``"missing":
    "infrared"`` (then it needs no ``ir_file_name``) or ``"missing": "visible"`` (then ``file_name`` need not
    exist); its dict states the same. ``info.image_root`` of the JSON takes precedence over `image_root`.

    Raises:
        UserError: on reading: a missing or broken JSON, an image without partner, an unknown category id, or
            an annotation id that occurs twice.
    """
    json_file, image_root = str(json_file), str(image_root)
    facts = dict(json_file=json_file, image_root=image_root, evaluator_type="coco")
    catalog.register(name, lambda: _load(name, json_file, image_root), **facts)


def register_known() -> None:
    """Register the current data root's sets as ``<set>_<part>``: KNOWN's, segmentation's, and prepared ones.

    Those are the files ``<set>/annotations/<split>_<part>.json`` with a part train, val or test, whose names
    are still free.
    """
    segmentation.register_known()
    for name, known in KNOWN.items():
        root = data_root() / known.folder
        for part in known.parts:
            register_pairs(f"{name}_{part}", root / "annotations" / f"{part}.json", root)
    for path in sorted(data_root().glob("*/annotations/*_*.json")):
        name, root = f"{path.parent.parent.name}_{path.stem}", path.parent.parent
        if path.stem.rpartition("_")[2] in ("train", "val", "test") and name not in DatasetCatalog.list():
            register_pairs(name, path, root)


def training_dicts(names: str | Sequence[str], filter_empty: bool = True) -> list[dict]:
    """Dicts of one or several sets to train on.

    Args:
        filter_empty: leave out images without boxes.

    Raises:
        UserError: an unknown name, a set without any box, or sets whose classes differ.
    """
    names = [names] if isinstance(names, str) else list(names)
    dicts, classes = [], {}
    for name in names:
        json_file = metadata(name).json_file
        records = get_detection_dataset_dicts(name, filter_empty=False)
        boxed = [
            record for record in records if any(not a.get("iscrowd") for a in record.get("annotations", ()))
        ]
        if not boxed:
            raise UserError(f"{name} has no box to train on in {json_file}: prepare it again with its labels")
        dicts += boxed if filter_empty else records
        classes[name] = MetadataCatalog.get(name).thing_classes
    check_same_classes(classes)
    return dicts


register_known()
