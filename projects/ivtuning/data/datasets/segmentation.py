"""Semantic segmentation sets in detectron2's catalogs: a COCO-like JSON whose images name a label map.

Importing this module registers the known sets (see :mod:`.segmentation_layouts`) under
``$DETECTRON2_DATASETS`` (default ``datasets``). Their JSON files are made by the scripts in the repository's
``datasets`` folder and read on first use::

    <set>/segmentation/<part>.json
      info        {"image_root": the images' folder, unless it is the set's own, ...}
      images      [{"id", "file_name", "ir_file_name", "sem_seg_file_name", "height", "width", "time"?}]
      categories  [{"id": value in the label files, "name", "color": [r, g, b]}]
      ignored     [values that are no class], optional; 255 is always such a value

A set without any ``ir_file_name`` is visible-only. The protocol says which classes count:

- "all": every class. The set is called ``<set>_seg_<part>``.
- "foreground": every class but the background, whose value 0 becomes 255 in training and evaluation alike.
  The set is called ``<set>_seg_foreground_<part>``. Numbers of the two protocols do not compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from detectron2.data import DatasetCatalog

from ...errors import UserError, nearest
from .. import catalog
from ..catalog import (
    add_pair_keys,
    data_root,
    listed,
    metadata,
    register,
    roots_of,
    set_facts,
)
from ..classes import in_order, read_sets
from ..faults import faults, refuse
from ..labels import IGNORE, MAX_CLASSES
from ..synthetic.generate import generate_once
from .segmentation_layouts import BACKGROUND, KNOWN, PROTOCOLS

LISTS = ("images", "categories")
FOLDER = "segmentation"  # of a set, for the JSON files of its label maps


def register_segmentation(
    name: str, json_file: str | Path, image_root: str | Path, protocol: str = "all"
) -> None:
    """Register a set with label maps, to be read on first use; other arguments under a known name replace it.

    Its dicts are {"file_name", "ir_file_name"?, "sem_seg_file_name", "height", "width", "image_id", "time"?,
    "missing"?, "label_ids"}, see :func:`..labels.read_labels`; train ids follow the order of the values in
    the files, or another set's order, see :func:`..classes.align_classes`. The metadata are detectron2's for
    semantic segmentation, and `protocol`; those about classes are set when the set is first read.

    Raises:
        UserError: an unknown `protocol`. On reading: a missing or broken JSON, classes whose ids cannot be
            values of label files, a missing partner (see :func:`.detection.register_pairs`), or an image id
            that occurs twice.
    """
    if protocol not in PROTOCOLS:
        known = " or ".join(PROTOCOLS)
        raise UserError(f"{name}: protocol={protocol!r}: give {known}{nearest(str(protocol), PROTOCOLS)}")
    image_root = image_root if isinstance(image_root, str) else str(image_root)
    facts = dict(json_file=str(json_file), image_root=image_root, protocol=protocol)
    register(name, lambda: _load(name, **facts), evaluator_type="sem_seg", ignore_label=IGNORE, **facts)


def _load(name: str, json_file: str, image_root: str, protocol: str) -> list[dict]:
    if name.startswith("synthetic_") and not Path(json_file).exists():
        generate_once(image_root)
    content = catalog.read_json(json_file, LISTS, KNOWN)
    roots, images = roots_of(content, json_file, image_root), content["images"]
    paired = any(isinstance(image, dict) and image.get("ir_file_name") for image in images)
    refuse(faults(content, "label maps", paired=paired, roots=roots), json_file)
    if not images:
        raise UserError(f"{json_file} lists no images: prepare the set again")
    classes, ignored = _classes(content, json_file, protocol)
    order = in_order(name, [c["name"] for c in classes])
    classes.sort(key=lambda c: order.index(c["name"]))
    numbers = {c["id"]: i for i, c in enumerate(classes)}
    ids = numbers | dict.fromkeys(ignored, IGNORE)
    set_facts(
        name,
        stuff_classes=order,
        stuff_colors=[list(c["color"]) for c in classes],
        stuff_dataset_id_to_contiguous_id=numbers,
    )
    dicts = []
    for image in images:
        catalog.simplify(image)
        record = {key: str(roots[0] / image[key]) for key in ("file_name", "sem_seg_file_name")}
        record |= {"height": image["height"], "width": image["width"], "image_id": image["id"]}
        add_pair_keys(record, image, roots[0])
        dicts.append(record | {"label_ids": ids})
    return dicts


def _classes(content: dict, json_file: str, protocol: str) -> tuple[list[dict], list[int]]:
    """The classes that count, sorted by value, and the values that are ignored."""
    classes, ignored = content["categories"], ignored_values(content, json_file)
    for c in classes:
        c["name"] = c["name"].strip()
    if protocol == "foreground":
        if BACKGROUND not in (c["id"] for c in classes):
            raise UserError(
                f"{json_file}: no class has the value {BACKGROUND}, which protocol=foreground leaves out: "
                "use protocol=all"
            )
        classes, ignored = [c for c in classes if c["id"] != BACKGROUND], [*ignored, BACKGROUND]
    if not 0 < len(classes) <= MAX_CLASSES:
        raise UserError(f"{json_file} lists {len(classes)} classes that count: give 1 to {MAX_CLASSES}")
    return sorted(classes, key=lambda c: c["id"]), ignored


def ignored_values(content: dict, json_file: str | Path) -> list[int]:
    """The values of label files that are no class; UserError unless they are, or a class has one of them."""
    ignored = [] if (given := content.get("ignored")) is None else given
    classes = {c["id"]: c["name"] for c in content["categories"]}
    if not isinstance(ignored, list):
        raise UserError(f"{json_file}: ignored is {ignored!r:.60}, not a list of values: correct it there")
    for value in ignored:
        if type(value) is not int or not 0 <= value < 2**16:
            raise UserError(f"{json_file}: ignored has {value!r:.60}: give values of label files, 0 to 65535")
        if value in classes:
            raise UserError(
                f"{json_file}: the value {value} is both the class {classes[value]!r} and ignored: remove one"
            )
    return ignored


def register_known() -> None:
    """Register the current data root's sets: KNOWN's, in all their protocols, and others that are there."""
    for name, known in KNOWN.items():
        root = data_root() / known.folder
        for protocol in known.protocols:
            infix = "seg" if protocol == "all" else f"seg_{protocol}"
            for part in known.parts:
                json_file = root / FOLDER / f"{part}.json"
                register_segmentation(f"{name}_{infix}_{part}", json_file, root, protocol)
    for folder, path in catalog.prepared_files(FOLDER):
        if (name := f"{folder}_seg_{path.stem}") not in DatasetCatalog.list():
            register_segmentation(name, path, path.parent.parent)


def segmentation_dicts(names: str | Sequence[str]) -> list[dict]:
    """Dicts of one or several segmentation sets, with all their images.

    Raises:
        UserError: an unknown name, a set of another kind, sets whose classes differ, or a fault of a JSON
            (see :func:`register_segmentation`).
    """
    names = listed(names)
    for name in names:
        if metadata(name).get("protocol") not in PROTOCOLS:
            raise UserError(f"{name} has no label maps: use one registered by register_segmentation")
    return list(chain.from_iterable(read_sets(names).values()))


register_known()
