"""What all kinds of paired sets share: reading their JSON, and registering under a name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from iopath.common.file_io import file_lock

import ivtuning  # noqa: F401  (prepares detectron2's import)

from ..errors import UserError, nearest
from .images import check_modality
from .synthetic.generate import generate


def read_json(
    json_file: str | Path, required: Mapping[str, Sequence[str]], makers: Mapping[str, str]
) -> dict:
    """The content of a COCO-like JSON.

    Args:
        required: its lists, and the fields that each item of them must have.
        makers: folder of a known set -> what makes its JSON, for the message where that is missing.

    Raises:
        UserError: the file is missing, no JSON, or lacks a list or a field.
    """
    path = Path(json_file)
    if not path.is_file():
        script = makers.get(path.parent.parent.name, "a script of datasets/")
        raise UserError(f"{path} is missing: make it with {script}, or point DETECTRON2_DATASETS to its root")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): prepare the set again") from error
    for key, fields in required.items():
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list):
            lists = ", ".join(required)
            raise UserError(f"{path} has no list {key!r}, but it must have {lists}: prepare the set again")
        for number, item in enumerate(items):
            if lacking := [name for name in fields if name not in item]:
                raise UserError(f"{path}: {key}[{number}] has no {lacking[0]!r}; prepare the set again")
    return content


def image_root_of(content: dict, json_file: str | Path, default: str | Path) -> Path:
    """Where the images lie: ``info.image_root`` (relative to two levels above the JSON), else `default`."""
    recorded = (content.get("info") or {}).get("image_root")
    return Path(json_file).parent.parent / recorded if recorded else Path(default)


def check_partners(images: Iterable[dict], json_file: str) -> None:
    """UserError where an image of a paired set has no ``ir_file_name`` and does not say so."""
    for image in images:
        missing = image.get("missing")
        check_modality(missing, f"{json_file}: image {image['file_name']!r} says missing")
        if not image.get("ir_file_name") and missing != "infrared":
            raise UserError(
                f"{json_file}: image {image['file_name']!r} has no ir_file_name; prepare it again, or state "
                '"missing": "infrared" there'
            )


def add_pair_keys(record: dict, image: dict, root: Path) -> None:
    """Give a dataset dict what a pair has beyond one image: ``ir_file_name``, ``time``, ``missing``."""
    if image.get("ir_file_name"):
        record["ir_file_name"] = str(root / image["ir_file_name"])
    record.update({key: image[key] for key in ("time", "missing") if key in image})


def generate_synthetic(root: str | Path) -> None:
    """Make the synthetic set in `root` with default parameters; of several processes one does."""
    root = Path(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root)):
        generate(root)


def register(name: str, load: Callable[[], list[dict]], **facts) -> None:
    """Register a set, to be loaded when asked for, with `facts` as metadata.

    A set of that name with the same facts stays; one with others is replaced.
    """
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name)
        if {key: known.get(key) for key in facts} == facts:
            return
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**facts)


def check_same_classes(classes: Mapping[str, Sequence[str]]) -> None:
    """UserError where the class names of sets, by the sets' names, are not the same for all."""
    names = list(classes)
    for name in names[1:]:
        if classes[name] != classes[names[0]]:
            raise UserError(
                f"sets with different classes cannot train together: {names[0]} {classes[names[0]]}, "
                f"{name} {classes[name]}"
            )


def metadata(name: str):
    """Metadata of a registered set; UserError with the nearest names where there is none."""
    if name not in DatasetCatalog.list():
        raise UserError(f"no data set is called {name!r}{nearest(name, DatasetCatalog.list())}")
    return MetadataCatalog.get(name)


def data_root() -> Path:
    """The folder that holds all data sets: $DETECTRON2_DATASETS, or ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
