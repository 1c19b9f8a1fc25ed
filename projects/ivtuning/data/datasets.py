"""Paired sets in detectron2's catalogs: COCO JSON whose images name an infrared partner.

Importing this module registers the known sets under ``$DETECTRON2_DATASETS`` (default ``datasets``);
their JSON files are made by the scripts in the repository's ``datasets`` folder and read on first use.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import load_coco_json
from iopath.common.file_io import file_lock

import ivtuning  # noqa: F401  (prepares detectron2's import)
from ivtuning.data.images import check_modality
from ivtuning.data.preparation import data_root
from ivtuning.data.synthetic import generate
from ivtuning.errors import UserError, nearest

# set: (folder under the root, what makes its JSON, splits; None for a set without a named split)
KNOWN = {
    "m3fd": ("m3fd", "datasets/prepare_m3fd.py", ("scene", "random")),
    "msrs": ("msrs", "datasets/prepare_msrs_detection.py", ("det", "det_infrared", "det_visible")),
    "llvip": ("llvip", "datasets/prepare_voc_pairs.py", ("default",)),
    "synthetic": ("synthetic", "a first use of it", (None,)),
}

REQUIRED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def read_json(json_file: str | Path) -> dict:
    """The content of a COCO JSON with images, annotations and categories; UserError where it is not one."""
    path = Path(json_file)
    if not path.is_file():
        known = (script for folder, script, _ in KNOWN.values() if folder == path.parent.parent.name)
        script = next(known, "a script of datasets/")
        raise UserError(f"{path} is missing: make it with {script}, or point DETECTRON2_DATASETS to its root")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): prepare the set again") from error
    for key, fields in REQUIRED.items():
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list):
            raise UserError(f"{path} has no list {key!r}, so it is no COCO detection file; prepare it again")
        for number, item in enumerate(items):
            if lacking := [name for name in fields if name not in item]:
                raise UserError(f"{path}: {key}[{number}] has no {lacking[0]!r}; prepare the set again")
    return content


def image_root_of(content: dict, json_file: str | Path, default: str | Path) -> Path:
    """Where the images lie: ``info.image_root`` (relative to two levels above the JSON), else `default`."""
    recorded = (content.get("info") or {}).get("image_root")
    return Path(json_file).parent.parent / recorded if recorded else Path(default)


def _load(name: str, json_file: str, image_root: str) -> list[dict]:
    if name.startswith("synthetic_") and not Path(json_file).exists():
        _generate(Path(image_root))
    content = read_json(json_file)
    root = image_root_of(content, json_file, image_root)
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content["categories"]}
    if not images or not categories:
        raise UserError(f"{json_file} lists no {'categories' if images else 'images'}: prepare the set again")
    for image in images.values():
        missing = image.get("missing")
        check_modality(missing, f"{json_file}: image {image['file_name']!r} says missing")
        if not image.get("ir_file_name") and missing != "infrared":
            raise UserError(
                f"{json_file}: image {image['file_name']!r} has no ir_file_name; prepare it again, or state "
                '"missing": "infrared" there'
            )
    ids = set()
    for box in content["annotations"]:
        if box["category_id"] not in categories:
            image = images.get(box["image_id"], {}).get("file_name")
            known = ", ".join(f"{i} {n}" for i, n in categories.items())
            raise UserError(
                f"{json_file}: annotation {box['id']} of image {image!r} has unknown category id "
                f"{box['category_id']} (known: {known}); mend the labels and prepare the set again"
            )
        if box["id"] in ids:
            raise UserError(f"{json_file}: annotation id {box['id']} occurs twice; ids must be unique")
        ids.add(box["id"])
    dicts = load_coco_json(json_file, str(root), name, extra_annotation_keys=["modality"])
    for record in dicts:
        image = images[record["image_id"]]
        if image.get("ir_file_name"):
            record["ir_file_name"] = str(root / image["ir_file_name"])
        record.update({key: image[key] for key in ("time", "missing") if key in image})
    return dicts


def _generate(root: Path) -> None:
    """Make the synthetic set on first use; of several processes one does."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root)):
        generate(root)


def register_pairs(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a paired set, to be read when asked for. Other paths under a known name replace the old ones.

    Its dicts are detectron2's standard ones plus ``ir_file_name``, ``time`` ("day"/"night") where known, and
    per annotation ``modality`` where known. An image of the JSON may state ``"missing": "infrared"`` (it then
    needs no ``ir_file_name``) or ``"missing": "visible"`` (``file_name`` is then a mere name); its dict says
    so too. ``info.image_root`` of the JSON wins over `image_root`.

    Reading raises UserError for a missing or broken JSON, an image without partner, an unknown category id
    and an annotation id that occurs twice.
    """
    json_file, image_root = str(json_file), str(image_root)
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name)
        if (known.get("json_file"), known.get("image_root")) == (json_file, image_root):
            return
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)
    DatasetCatalog.register(name, lambda: _load(name, json_file, image_root))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco")


def register_known() -> None:
    """Register the sets of KNOWN as ``<set>_<split>_<part>`` under today's $DETECTRON2_DATASETS."""
    for name, (folder, _, splits) in KNOWN.items():
        root = data_root() / folder
        for split in splits:
            for part in ("train", "val"):
                stem = f"{split}_{part}" if split else part
                register_pairs(f"{name}_{stem}", root / "annotations" / f"{stem}.json", root)


def metadata(name: str):
    """Metadata of a registered set; UserError with the nearest names where there is none."""
    if name not in DatasetCatalog.list():
        raise UserError(f"no data set is called {name!r}{nearest(name, DatasetCatalog.list())}")
    return MetadataCatalog.get(name)


def training_dicts(names: str | Sequence[str], filter_empty: bool = True) -> list[dict]:
    """Dicts of one or several sets to train on; images without boxes are left out unless told otherwise.

    Raises UserError for an unknown name, a set without any box, and sets whose classes differ.
    """
    names = [names] if isinstance(names, str) else list(names)
    dicts, classes = [], {}
    for name in names:
        json_file = metadata(name).json_file
        found = get_detection_dataset_dicts(name, filter_empty=False)
        boxed = [record for record in found if any(not a.get("iscrowd") for a in record["annotations"])]
        if not boxed:
            raise UserError(f"{name} has no box to train on in {json_file}: prepare it again with its labels")
        dicts += boxed if filter_empty else found
        classes[name] = MetadataCatalog.get(name).thing_classes
    for name in names[1:]:
        if classes[name] != classes[names[0]]:
            first = f"{names[0]} {classes[names[0]]}"
            raise UserError(
                f"sets with different classes cannot train together: {first}, {name} {classes[name]}"
            )
    return dicts


register_known()
