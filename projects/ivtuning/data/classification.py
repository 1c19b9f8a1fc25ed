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

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.detection_utils import read_image
from detectron2.data.samplers import InferenceSampler
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import UserError
from .classification_layouts import (
    Reader,
    need,
    read_flowers,
    read_folders,
    read_lists,
    read_pets,
    read_voc2007,
)
from .datasets import metadata
from .images import UNREADABLE, BadPair
from .preparation import data_root

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


def labelled_images(names: str | Sequence[str], every_class: bool = False) -> list[dict]:
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


class ClassificationMapper:
    """From a dataset dict to the dict that :class:`..heads.classification.ImageClassifier` takes.

    All draws come from the global generators, so equal states give equal samples.

    Args:
        is_train: of training; the label stays either way, for the evaluator.
        augmentations: callables from a (3, H, W) uint8 RGB tensor to another, such as torchvision's v2
            transforms, applied in order.
    """

    def __init__(self, is_train: bool, augmentations: Sequence[Callable[[Tensor], Tensor]] = ()):
        self.is_train, self.augmentations = is_train, list(augmentations)

    def __call__(self, dataset_dict: dict) -> dict:
        """Returns the dict with "image", (3, h, w) uint8 RGB; gray, palette and alpha images become RGB.

        Raises:
            BadPair: the file is missing or unreadable.
            UserError: an augmentation gave something else.
        """
        path = dataset_dict["file_name"]
        try:
            image = torch.from_numpy(read_image(path, "RGB").transpose(2, 0, 1).copy())
        except FileNotFoundError:
            raise BadPair(f"image {path} is missing: restore it, or take it off the list", path) from None
        except UNREADABLE as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise BadPair(f"image {path} cannot be read ({why}): fetch it again", path) from error
        for change in self.augmentations:
            image = change(image)
            if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
                name, shape = type(change).__name__, tuple(image.shape)
                raise UserError(f"{name} gave an image {image.dtype} {shape}: it must be uint8 (3, H, W)")
        return {**dataset_dict, "image": image}


def build_test_loader(
    dataset: list[dict], mapper: Callable, batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """detectron2's test loader with batches, which its 0.6 lacks: each rank takes its share, in order."""
    mapped = MapDataset(DatasetFromList(dataset, copy=False), mapper)
    return DataLoader(
        mapped, batch_size, sampler=InferenceSampler(len(mapped)), num_workers=num_workers, collate_fn=list
    )


register_known()
