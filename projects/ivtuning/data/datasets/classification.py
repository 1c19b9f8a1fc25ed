"""Image classification sets in detectron2's catalogs: Flowers-102, Oxford-IIIT Pet, VOC2007, any folder.

Importing this module registers ``flowers102``, ``pets`` and ``voc2007cls``, each with ``_train``, ``_val``
and ``_test``, under ``$DETECTRON2_DATASETS`` (default ``datasets``). They are read on first use, in the
layouts of their releases::

    flowers102/  jpg/, imagelabels.mat, setid.mat              (train: trnid and valid, 2,040 images)
    pets/        images/, annotations/{trainval,test}.txt      (train: trainval)
    VOC2007/     JPEGImages/, Annotations/, ImageSets/Main/<class>_{trainval,test}.txt    (train: trainval)

Two other layouts take precedence, if they are there: a list ``meta/<part>.txt`` of lines ``path label``, with
labels from 0 and paths below ``<part>/`` (there are as many classes as ``meta/train.txt`` has), and a folder
``<part>/`` with one folder per class. ``_val`` exists for these two; the releases' own validation images
belong to ``_train``.

A dataset dict is {"file_name", "image_id" (from 1), "label" (from 0)}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ...errors import UserError
from ..catalog import KnownSet, data_root, listed, metadata, register, set_facts, unregister
from ..classes import class_names, in_order, read_sets
from . import classified_pairs
from .classification_layouts import (
    Reader,
    need,
    read_class_folders,
    read_class_list,
    read_flowers,
    read_folders,
    read_lists,
    read_pets,
    read_voc2007,
)

PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class ClassificationSet(KnownSet):
    """A classification set, whose release `reader` reads."""

    parts: Sequence[str] = PARTS
    reader: Reader


KNOWN = {
    "flowers102": ClassificationSet(folder="flowers102", reader=read_flowers),
    "pets": ClassificationSet(folder="pets", reader=read_pets),
    "voc2007cls": ClassificationSet(folder="VOC2007", reader=read_voc2007),
}


def register_known() -> None:
    """Register the current data root's sets: those of KNOWN as ``<set>_<part>``, and classified pairs."""
    classified_pairs.register_known()
    for name, known in KNOWN.items():
        for part in known.parts:
            _register(f"{name}_{part}", data_root() / known.folder, part, known.reader)


def register_folder(name: str, root: str | Path, part: str = "") -> None:
    """Register your own images, to be read on first use; a set known by `name` is replaced.

    Args:
        root: a folder with one folder of images per class. With a `part`, it has ``<part>/<class>/`` (the
            classes are those of ``train/``), or ``meta/<part>.txt`` (see the module) and ``<part>/``.
        part: "train", "val", "test" or another folder's name; "" for a root without parts.
    """
    _register(name, Path(root), part, read_folders)


def register_own(name: str, path: str | Path, images: str | Path | None, training: str | Path) -> None:
    """Register a folder with one folder per class, or a list of lines ``path class``.

    Args:
        images: the folder that a list's paths begin in; by default its own.
        training: the folder or the list that is trained on, which states the classes.

    Raises:
        UserError: one is a list, which has the suffix .txt, and the other is a folder.
    """
    path, training = Path(path), Path(training)
    root = Path(images) if images else path.parent
    if (path.suffix.lower() == ".txt") != (training.suffix.lower() == ".txt"):
        raise UserError(f"{training} and {path}: give two folders, or two lists with the suffix .txt")
    if path.suffix.lower() != ".txt":
        _register(name, path, "", lambda *_: read_class_folders(path, training))
    else:
        _register(name, root, "", lambda *_: read_class_list(path, training, root))


def _register(name: str, root: Path, part: str, reader: Reader) -> None:
    # Even with the same facts: the classes of a set that was read before may have changed on disk.
    unregister(name)
    facts = dict(image_root=str(root), evaluator_type="classification")
    register(name, lambda: _load(name, root, part, reader), **facts)


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
                f"{path}: unknown label {label}, {name} has {len(classes)} classes (from 0): fix its list"
            )
    for folder in {path.parent for path, _ in items}:
        need(folder)
    order = in_order(name, classes)
    set_facts(name, classes=order)
    labels = [order.index(class_name) for class_name in classes]
    return [dict(file_name=str(p), image_id=i, label=labels[label]) for i, (p, label) in enumerate(items, 1)]


def labeled_images(names: str | Sequence[str], every_class: bool = False) -> list[dict]:
    """Dicts of one or several classification sets.

    Args:
        every_class: require an image of every class, as training needs it.

    Raises:
        UserError: an unknown name, a set of another kind, sets of different classes, a class without images,
            or a fault of a set's files.
    """
    names = listed(names)
    for name in names:
        if metadata(name).get("evaluator_type") != "classification":
            raise UserError(f"{name} is no classification set: use one with a class for each image")
    dicts = list(chain.from_iterable(read_sets(names).values()))
    classes = class_names(names[0])
    empty = set(range(len(classes))) - {record["label"] for record in dicts} if every_class else ()
    if empty:
        name = classes[min(empty)]
        raise UserError(f"{', '.join(names)}: class {min(empty)} ({name}) has no image to train on; add some")
    return dicts


register_known()
