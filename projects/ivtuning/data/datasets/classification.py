"""Image classification sets in detectron2's catalogs: Flowers-102, Oxford-IIIT Pet, VOC2007, any folder.

Importing this module registers ``flowers102``, ``pets`` and ``voc2007cls``, each with ``_train``, ``_val``
and ``_test``, under ``$DETECTRON2_DATASETS`` (default ``datasets``). They are read on first use, as
released::

    flowers102/  jpg/, imagelabels.mat, setid.mat              (train: trnid and valid, 2,040 images)
    pets/        images/, annotations/{trainval,test}.txt      (train: trainval)
    VOC2007/     JPEGImages/, Annotations/, ImageSets/Main/<class>_{trainval,test}.txt    (train: trainval)

A ``meta/<part>.txt`` in the folder wins over that: lines ``path label``, labels from 0, paths below
``<part>/``; classes are then as many as ``meta/train.txt`` has. So does ``<part>/`` without a list, with one
folder a class. ``_val`` is for these two: of a release, the validation images belong to ``_train``.

A dataset dict is {"file_name", "image_id" (from 1), "label" (from 0)}.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import UserError
from ..catalog import data_root
from .classification_layouts import (
    Reader,
    need,
    read_flowers,
    read_folders,
    read_lists,
    read_pets,
    read_voc2007,
)
from .detection import metadata

KNOWN: dict[str, tuple[str, Reader]] = {
    "flowers102": ("flowers102", read_flowers),
    "pets": ("pets", read_pets),
    "voc2007cls": ("VOC2007", read_voc2007),
}


PARTS = ("train", "val", "test")


def register_known() -> None:
    """Register the sets of KNOWN as ``<set>_<part>`` under today's $DETECTRON2_DATASETS."""
    for name, (folder, reader) in KNOWN.items():
        for part in PARTS:
            _register(f"{name}_{part}", data_root() / folder, part, reader)


def register_folder(name: str, root: str | Path, part: str = "") -> None:
    """Register images of your own, to be read when asked for; a set known by `name` is replaced.

    Args:
        root: holds one folder of images for each class. With a `part`, it holds ``<part>/<class>/`` (classes
            are those of ``train/``), or ``meta/<part>.txt`` (see the module) and ``<part>/``.
        part: "train", "val", "test" or another folder's name; "" for a root without parts.
    """
    _register(name, Path(root), part, read_folders)


def _register(name: str, root: Path, part: str, reader: Reader) -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)
    DatasetCatalog.register(name, lambda: _load(name, root, part, reader))
    MetadataCatalog.get(name).set(image_root=str(root), evaluator_type="classification")


def _load(name: str, root: Path, part: str, reader: Reader) -> list[dict]:
    need(root)
    if part and (root / f"meta/{part}.txt").is_file():
        reader = read_lists
    elif part and (root / part).is_dir():
        reader = read_folders
    elif part == "val" and reader is not read_folders:
        raise UserError(
            f"{name}: {root} has neither meta/val.txt nor val/, and the release's validation images belong "
            f"to {name.replace('val', 'train')}: use {name.replace('val', 'test')}"
        )
    items, classes = reader(root, part)
    if not items:
        raise UserError(f"{name}: {root} lists no image for it: fetch the set again")
    for path, label in items:
        if not 0 <= label < len(classes):
            raise UserError(
                f"{path}: unknown label {label}, {name} has {len(classes)} classes (from 0): mend its list"
            )
    for folder in {path.parent for path, _ in items}:
        need(folder)
    MetadataCatalog.get(name).set(classes=classes)
    return [dict(file_name=str(p), image_id=i, label=label) for i, (p, label) in enumerate(items, 1)]


def labeled_images(names: str | Sequence[str], every_class: bool = False) -> list[dict]:
    """Dicts of one or several classification sets.

    Args:
        every_class: demand an image of every class, for training.

    Raises:
        UserError: an unknown name or a set without labels, sets of different classes, an empty class, and all
            that reading a set may find.
    """
    names = [names] if isinstance(names, str) else list(names)
    dicts, classes = [], []
    for name in names:
        if metadata(name).get("evaluator_type") != "classification":
            raise UserError(f"{name} is no classification set: use one that register_folder has registered")
        dicts += DatasetCatalog.get(name)
        classes.append(metadata(name).classes)
        if classes[-1] != classes[0]:
            count = f"{len(classes[0])} and {len(classes[-1])}"
            raise UserError(f"{names[0]} and {name} cannot train together: their classes differ ({count})")
    empty = set(range(len(classes[0]))) - {record["label"] for record in dicts} if every_class else ()
    if empty:
        name = classes[0][min(empty)]
        raise UserError(f"{', '.join(names)}: class {min(empty)} ({name}) has no image to train on; add some")
    return dicts


register_known()
