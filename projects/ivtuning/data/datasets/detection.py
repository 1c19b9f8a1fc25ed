"""Paired detection sets in detectron2's catalogs: COCO JSON whose images name an infrared partner.

Importing this module registers the known sets under ``$DETECTRON2_DATASETS`` (default ``datasets``). Their
JSON files are made by the scripts in the repository's ``datasets`` folder and read on first use. So are other
sets there that the scripts have made.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from tabulate import tabulate

from ...errors import UserError
from ...utils.heap import collector_paused
from .. import catalog
from ..catalog import KnownSet, data_root, image_root_of, metadata, set_facts
from ..classes import class_names, in_order, read_sets
from ..coco_json import read_coco
from ..oriented import CENTERED
from ..synthetic.drone import generate_drone_set
from ..synthetic.generate import generate_once
from . import segmentation

logger = logging.getLogger("ivtuning.data")

_TILED = tuple(f"{kind}_{part}" for kind in ("tiles", "whole") for part in ("train", "val", "test"))
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
        folder="llvip", parts=("default_train", "default_val"), maker="datasets/prepare_llvip.py"
    ),
    "kaist": KnownSet(
        folder="kaist",
        parts=(
            *("sanitized_train", "sanitized_test", "original_train", "original_test"),
            *("paired_visible_train", "paired_visible_test", "paired_infrared_train", "paired_infrared_test"),
            *("paired_both_train", "paired_both_test"),
        ),
        maker="datasets/prepare_kaist.py",
    ),
    "cvc14": KnownSet(
        folder="cvc14",
        parts=("visible_train", "visible_test", "infrared_train", "infrared_test"),
        maker="datasets/prepare_cvc14.py",
    ),
    "flir": KnownSet(
        folder="flir", parts=("default_train", "default_val"), maker="datasets/prepare_pairs.py"
    ),
    "vedai": KnownSet(
        folder="vedai",
        parts=[f"fold{fold:02}_{part}" for fold in range(1, 11) for part in ("train", "val")],
        maker="datasets/prepare_vedai.py",
    ),
    "dronevehicle": KnownSet(
        folder="dronevehicle",
        parts=tuple(
            f"{labels}_{part}"
            for labels in ("both", "visible", "infrared")
            for part in ("train", "val", "test")
        ),
        maker="datasets/prepare_dronevehicle.py",
    ),
    "dota": KnownSet(folder="dota", parts=_TILED, maker="datasets/prepare_dota.py"),
    "star": KnownSet(folder="star", parts=_TILED, maker="datasets/prepare_dota.py --set star"),
    "synthetic": KnownSet(folder="synthetic", parts=("train", "val"), maker="a first use of it"),
    "synthetic_drone": KnownSet(folder="synthetic_drone", parts=("train", "val"), maker="a first use of it"),
}


LISTS = ("images", "annotations", "categories")


def read_json(json_file: str | Path) -> dict:
    """The content of a detection set's JSON that training and evaluation share, see :func:`read_coco`."""
    return read_coco(json_file, KNOWN)


@collector_paused()
def load_coco(name: str, json_file: str, image_root: str, paired: bool) -> list[dict]:
    """The dicts of a set from its COCO JSON, sorted by image id; its classes become metadata.

    Raises:
        UserError: see :func:`register_pairs`. Without `paired`, no image needs a partner.
    """
    content = read_coco(json_file, KNOWN, image_root, paired)
    root = image_root_of(content, json_file, image_root)
    labels = category_labels(name, content)
    annotations = defaultdict(list)
    for box in content.get("annotations", ()):
        kept = {key: box[key] for key in ("iscrowd", "bbox", "segmentation", "modality") if key in box}
        mode = BoxMode.XYWHA_ABS if len(box["bbox"]) == CENTERED else BoxMode.XYWH_ABS
        kept |= {"category_id": labels[box["category_id"]], "bbox_mode": mode}
        annotations[box["image_id"]].append(kept)
    dicts = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        record = {"file_name": str(root / image["file_name"]), "image_id": image["id"]}
        record |= {"height": image["height"], "width": image["width"]}
        catalog.add_pair_keys(record, image, root)
        dicts.append(record | {"annotations": annotations[image["id"]]})
    return dicts


def category_labels(name: str, content: dict) -> dict[int, int]:
    """The label of each category id of a set's JSON, which becomes metadata together with the class names."""
    names = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
    order = in_order(name, list(names.values()))
    labels = {number: order.index(class_name) for number, class_name in names.items()}
    set_facts(name, thing_classes=order, thing_dataset_id_to_contiguous_id=labels)
    return labels


def _load(name: str, json_file: str, image_root: str) -> list[dict]:
    if name.startswith("synthetic_") and not Path(json_file).exists():
        (generate_drone_set if name.startswith("synthetic_drone_") else generate_once)(image_root)
    return load_coco(name, json_file, image_root, paired=True)


def register_pairs(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a paired set, to be read on first use; other paths under a known name replace the old ones.

    Its dicts are detectron2's standard ones, with ``ir_file_name``, with ``time`` ("day" or "night") if
    known, and with ``modality`` for each annotation if known. An image of the JSON may state ``"missing":
    "infrared"`` (then it needs no ``ir_file_name``) or ``"missing": "visible"`` (then ``file_name`` need not
    exist); its dict states the same. ``info.image_root`` of the JSON takes precedence over `image_root`,
    unless that is a :class:`..catalog.ChosenRoot`.

    Raises:
        UserError: on reading: a missing JSON, or one with a fault (see :mod:`..faults`), which the message
            names with its image or annotation.
    """
    json_file = str(json_file)
    image_root = image_root if isinstance(image_root, str) else str(image_root)
    facts = dict(json_file=json_file, image_root=image_root, evaluator_type="coco")
    catalog.register(name, lambda: _load(name, json_file, image_root), **facts)


def register_known() -> None:
    """Register the current data root's sets as ``<set>_<part>``: KNOWN's, segmentation's, and prepared ones.

    Those are the files of :func:`..catalog.prepared_files` whose names are still free.
    """
    segmentation.register_known()
    for name, known in KNOWN.items():
        root = data_root() / known.folder
        for part in known.parts:
            register_pairs(f"{name}_{part}", root / "annotations" / f"{part}.json", root)
    for folder, path in catalog.prepared_files("annotations"):
        if (name := f"{folder}_{path.stem}") not in DatasetCatalog.list():
            register_pairs(name, path, path.parent.parent)


def has_objects(record: dict) -> bool:
    """Whether a dict has a box to train on, which is one that is no crowd."""
    return any(not box.get("iscrowd") for box in record.get("annotations", ()))


def log_classes(names: Sequence[str], dicts: list[dict]) -> None:
    """Log how many boxes each class has."""
    classes = class_names(names[0])
    counts = Counter(box["category_id"] for record in dicts for box in record.get("annotations", ()))
    rows = [[class_name, counts[i]] for i, class_name in enumerate(classes)]
    table = tabulate([*rows, ["total", counts.total()]], ["class", "boxes"], tablefmt="pipe")
    logger.info("%s: %d images\n%s", ", ".join(names), len(dicts), table)


def check_masks(dicts: list[dict]) -> None:
    """Raise UserError where an object has no mask, for models that learn or are evaluated on masks."""
    for record in dicts:
        if bare := sum("segmentation" not in box for box in record.get("annotations", ())):
            raise UserError(
                f"{bare} objects of {record['file_name']} have no mask in their segmentation, such as a "
                "polygon of three points: add them, or train without masks "
                "(dataloader.train.mapper.use_instance_mask=False)"
            )


def training_dicts(names: str | Sequence[str], filter_empty: bool = True) -> list[dict]:
    """Dicts of one or several sets to train on.

    Args:
        filter_empty: leave out images without boxes.

    Raises:
        UserError: an unknown name, a set without any box, or sets whose classes differ.
    """
    dicts = []
    sets = read_sets(names)
    for name, records in sets.items():
        boxed = [record for record in records if has_objects(record)]
        if not boxed:
            json_file = metadata(name).get("json_file", "its annotations")
            raise UserError(f"{name} has no box to train on in {json_file}: prepare it again with its labels")
        dicts += boxed if filter_empty else records
    log_classes(list(sets), dicts)
    return dicts


register_known()
