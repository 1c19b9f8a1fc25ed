"""Classified pairs in detectron2's catalogs: a COCO-like JSON whose images name their partner and class.

Importing this module registers the files ``<set>/classification/<split>_<part>.json`` with a part train, val
or test under ``$DETECTRON2_DATASETS`` (default ``datasets``) as ``<set>_cls_<split>_<part>``, and those of
KNOWN in any case. ``datasets/prepare_pair_folders.py`` makes them::

    info        {"image_root": the images' folder, unless it is the set's own, ...}
    images      [{"id", "file_name", "ir_file_name", "height", "width", "category_id", "time"?, "group"?}]
    categories  [{"id", "name"}]

Images with one ``group`` show the same thing, such as cutouts of one frame. They belong in one part.
"""

from __future__ import annotations

from pathlib import Path

from detectron2.data import DatasetCatalog

from ...errors import UserError
from .. import catalog
from ..catalog import KnownSet, data_root, register, roots_of, set_facts
from ..classes import in_order
from ..faults import faults, refuse
from ..modalities import TIMES

FOLDER = "classification"  # in a set's folder, where its JSON files are
LISTS = ("images", "categories")
KNOWN = {
    "flir_crops": KnownSet(
        folder="flir_crops",
        parts=("random_train", "random_val", "random_test"),
        maker="datasets/prepare_pair_folders.py",
    ),
}


def register_classified_pairs(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a set, to be read on first use; other paths under a known name replace the old ones.

    Its dicts are {"file_name", "ir_file_name"?, "height", "width", "image_id", "label" (from 0), "time"?,
    "missing"?, "group"?}; for ``missing`` and `image_root` see :func:`.detection.register_pairs`.

    Raises:
        UserError: on reading: a missing JSON, or one with a fault (see :mod:`..faults`).
    """
    image_root = image_root if isinstance(image_root, str) else str(image_root)
    facts = dict(json_file=str(json_file), image_root=image_root, evaluator_type="classification")
    register(name, lambda: _load(name, str(json_file), image_root), **facts)


def _load(name: str, json_file: str, image_root: str) -> list[dict]:
    content = catalog.read_json(json_file, LISTS, KNOWN)
    roots = roots_of(content, json_file, image_root)
    refuse(faults(content, "classes", paired=True, roots=roots), json_file)
    for key in LISTS:
        if not content[key]:
            raise UserError(f"{json_file} lists no {key}: prepare the set again")
    for image in content["images"]:
        catalog.simplify(image)
    names = {c["id"]: c["name"].strip() for c in sorted(content["categories"], key=lambda c: c["id"])}
    order = in_order(name, list(names.values()))
    times = [time for time in TIMES if any(image.get("time") == time for image in content["images"])]
    set_facts(name, classes=order, times=times)
    dicts = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        record = {"file_name": str(roots[0] / image["file_name"]), "image_id": image["id"]}
        record |= {"height": image["height"], "width": image["width"]}
        record["label"] = order.index(names[image["category_id"]])
        catalog.add_pair_keys(record, image, roots[0])
        dicts.append(record)
    return dicts


def register_known() -> None:
    """Register the current data root's sets: KNOWN's, and others that are there, whose names are free."""
    for name, known in KNOWN.items():
        root = data_root() / known.folder
        for part in known.parts:
            register_classified_pairs(f"{name}_cls_{part}", root / FOLDER / f"{part}.json", root)
    for folder, path in catalog.prepared_files(FOLDER):
        if (name := f"{folder}_cls_{path.stem}") not in DatasetCatalog.list():
            register_classified_pairs(name, path, path.parent.parent)


register_known()
