"""Every fault of a COCO-like JSON: types, ranges, ids and references.

Reading a set refuses its first fault, see :func:`refuse`; ``check_pairs`` reports them all.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, nearest
from .labels import IGNORE
from .masks import NO_MASK, mask_fault
from .modalities import MODALITIES, SHOWN_IN
from .oriented import CENTERED, CORNERS, box_faults, convention_of

# kind: how to fix it
ADVICE = {
    "no partner": 'name the infrared image in ir_file_name, or declare "missing": "infrared" there',
    "wrong value": "correct it there, or prepare the set again",
    "outside root": "move the file below it, or let info.image_root name a folder that holds it",
    "same image": "the infrared file holds the visible image: name or fetch the right one",
    "duplicate id": "ids must be unique: prepare the set again",
    "duplicate name": "list it once: prepare the set again",
    "unknown image": "the annotation belongs to no image: remove it, or prepare the set again",
    "unknown class": "fix the label or add the category, then prepare the set again",
    "bad mask": "correct or remove the segmentation, or prepare the set again",
}


@dataclass(frozen=True)
class Fault:
    """A fault: its kind (a key of ADVICE), the entry that has it, and details.

    Attributes:
        where: the entry as a user finds it, such as "annotation 7 of visible/1.png".
        entry: the list and the index of the entry, such as ("annotations", 6).
    """

    kind: str
    where: str
    detail: str
    entry: tuple[str, int]


@dataclass(frozen=True)
class _Field:
    """A key of an entry: which values are good, and what they are called.

    Attributes:
        all_good: the same for all entries at once, where looking at each takes long. COCO has 860,000 boxes.
    """

    key: str
    good: Callable[[Any], bool]
    says: str
    required: bool = True
    all_good: Callable[[list], bool] | None = None


# Control characters, and halves of characters that no file name can have.
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def _integer(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _integers(values: list) -> bool:
    return set(map(type, values)) == {int} and -(2**63) <= min(values) <= max(values) < 2**63


def _text(value: Any) -> bool:
    return type(value) is str and value.strip() != "" and not _UNWRITABLE.search(value)


def _pixels(value: Any) -> bool:
    return type(value) in (int, float) and 1 <= value <= 2**20 and value == int(value)


def _finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _box(value: Any) -> bool:
    if type(value) is not list or len(value) not in (4, CENTERED, CORNERS) or not all(map(_finite, value)):
        return False
    return len(value) == CORNERS or min(value[2:4]) >= 0


def _boxes(values: list) -> bool:
    if set(map(type, values)) != {list} or set(map(len, values)) != {4}:
        return False  # oriented ones are looked at one by one
    numbers = list(chain.from_iterable(values))
    if not set(map(type, numbers)) <= {int, float}:
        return False
    try:
        boxes = np.array(numbers, np.float64).reshape(-1, 4)
    except OverflowError:  # an integer beyond all floats
        return False
    return bool(np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all())


def _color(value: Any) -> bool:
    return type(value) is list and len(value) == 3 and all(type(v) is int and 0 <= v < 256 for v in value)


def _flag(value: Any) -> bool:
    return type(value) in (int, bool) and value in (0, 1)


def _flags(values: list) -> bool:
    return set(map(type, values)) <= {int, bool, type(None)} and set(values) <= {0, 1, None}


def _pixel_value(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**16 and value != IGNORE


_ID = _Field("id", _integer, "an integer of 64 bits", all_good=_integers)
_IMAGES = (
    _ID,
    _Field("file_name", _text, "a file's path"),
    _Field("height", _pixels, "a positive number of whole pixels"),
    _Field("width", _pixels, "a positive number of whole pixels"),
    _Field("ir_file_name", _text, "a file's path", required=False),
    _Field("missing", lambda value: value in MODALITIES, " or ".join(MODALITIES), required=False),
    _Field("time", _text, "text", required=False),
    _Field("group", _text, "text", required=False),
)
# What labels an image, where it is no boxes.
_LABELS = {
    "label maps": (_Field("sem_seg_file_name", _text, "a file's path"),),
    "classes": (_Field("category_id", _integer, "an integer of 64 bits", all_good=_integers),),
}
_ANNOTATIONS = (
    _ID,
    _Field("image_id", _integer, "an integer of 64 bits", all_good=_integers),
    _Field("category_id", _integer, "an integer of 64 bits", all_good=_integers),
    _Field(
        "bbox",
        _box,
        "four finite numbers [x, y, width, height], the last two not negative, or oriented as [center x, "
        "center y, width, height, angle] or four corners",
        all_good=_boxes,
    ),
    # To the matcher, an object is ignored outside this range.
    _Field("area", lambda v: _finite(v) and 0 <= v <= 1e10, "a number of square pixels", required=False),
    _Field("iscrowd", _flag, "0 or 1", required=False, all_good=_flags),
    _Field("ignore", _flag, "0 or 1", required=False, all_good=_flags),
    _Field("modality", lambda value: value in SHOWN_IN, ", ".join(SHOWN_IN), required=False),
    _Field("occlusion", lambda v: type(v) is int and v in (0, 1, 2), "0, 1 or 2", required=False),
)
_NAME = _Field("name", _text, "a class's name")
_CATEGORIES = (_ID, _NAME)
_VALUES = (
    _Field("id", _pixel_value, f"a value of label files, 0 to 65535 but not {IGNORE}, which is ignored"),
    _NAME,
    _Field("color", _color, "[r, g, b] of 0..255"),
)


def faults(
    content: dict, kind: str = "boxes", paired: bool = False, roots: Sequence[str | Path] = ()
) -> Iterator[Fault]:
    """Yield the faults of a COCO-like JSON, in the order of its lists.

    Args:
        content: has the lists that :func:`.catalog.read_json` requires; ``annotations`` may be absent.
        kind: what labels the images: "boxes"; "label maps", in which the categories' ids are values; or
            "classes", one for each image.
        paired: every image must have a partner or declare which image it lacks.
        roots: the images' folder and others that files may be in; () does not look where they are.
    """
    lists = {
        "images": (*_IMAGES, *_LABELS.get(kind, ())),
        "categories": _VALUES if kind == "label maps" else _CATEGORIES,
        "annotations": _ANNOTATIONS,
    }
    good = {}
    for key, fields in lists.items():
        found = list(_wrong_values(content, key, fields))
        yield from found
        bad = {fault.entry[1] for fault in found}
        good[key] = {i: entry for i, entry in enumerate(content.get(key, ())) if i not in bad}
        yield from _duplicates(key, good[key], "id", "duplicate id")
    yield from _duplicates("images", good["images"], "file_name", "duplicate name")
    yield from _duplicates("categories", good["categories"], "name", "duplicate name")
    for i, image in good["images"].items():
        yield from _file_faults(i, image, paired, roots)
    yield from _reference_faults(content, good, classified=kind == "classes")
    if kind == "boxes":
        images = _by_id(content["images"])
        for i, detail in box_faults(good["annotations"], convention_of(content, "the JSON")):
            name = name_of("annotations", i, good["annotations"][i], images)
            yield Fault("wrong value", name, detail, ("annotations", i))


def refuse(found: Iterable[Fault], json_file: str | Path) -> None:
    """Raise UserError for the first fault, with the number of others."""
    found = iter(found)
    if (first := next(found, None)) is None:
        return
    more = sum(1 for _ in found)
    others = f" ({more} more: datasets/check_pairs.py lists them all)" if more else ""
    raise UserError(f"{json_file}: {first.where}: {first.detail}; {ADVICE[first.kind]}{others}")


def name_of(key: str, index: int, entry: object, images: Mapping[int, dict] | None = None) -> str:
    """What an entry of a list is called: an image by its file, others by their id.

    Args:
        images: id -> image, with which an annotation is also called by its image's file.
    """
    entry = entry if isinstance(entry, dict) else {}
    if key == "images" and _text(entry.get("file_name")):
        return entry["file_name"][:200]
    if key == "images" or not _integer(entry.get("id")):
        return f"{key}[{index}]"
    name = f"{'category' if key == 'categories' else 'annotation'} {entry['id']}"
    if key == "categories" and _text(entry.get("name")):
        name += f" ({entry['name'][:200]})"
    if images and _integer(number := entry.get("image_id")) and number in images:
        name += f" of {images[number]['file_name'][:200]}"
    return name


def _wrong_values(content: dict, key: str, fields: Sequence[_Field]) -> Iterator[Fault]:
    entries = content.get(key, [])
    objects = {i: entry for i, entry in enumerate(entries) if type(entry) is dict}
    for i, entry in enumerate(entries):
        if i not in objects:
            keys = ", ".join(field.key for field in fields if field.required)
            yield Fault("wrong value", f"{key}[{i}]", f"{entry!r:.60} is no object with {keys}", (key, i))
    images: dict | None = None
    for field in fields:
        values = [entry.get(field.key) for entry in objects.values()]
        if (
            values.count(None) == len(values)
            and not field.required
            or field.all_good
            and field.all_good(values)
        ):
            continue
        for (i, entry), value in zip(objects.items(), values, strict=True):
            if value is None and not field.required or value is not None and field.good(value):
                continue
            if images is None:
                images = _by_id(content["images"]) if key == "annotations" else {}
            if field.key in entry:
                near = nearest(str(value), SHOWN_IN) if field.key in ("missing", "modality") else ""
                shown = "null" if value is None else repr(value)
                detail = f"{field.key} is {shown[:80]}, not {field.says}{near}"
            else:
                detail = f"it has no {field.key!r}"
            yield Fault("wrong value", name_of(key, i, entry, images), detail, (key, i))


def _by_id(images: list) -> dict[int, dict]:
    """The images that can be named, by id."""
    named = (i for i in images if type(i) is dict and _text(i.get("file_name")) and _integer(i.get("id")))
    return {image["id"]: image for image in named}


def _duplicates(key: str, entries: dict[int, dict], field: str, kind: str) -> Iterator[Fault]:
    values = [entry[field] for entry in entries.values()]
    values = [value.strip() for value in values] if kind == "duplicate name" else values
    if len(set(values)) == len(values):
        return
    times = Counter(values)
    first: dict = {}
    for i, value in zip(entries, values, strict=True):
        if first.setdefault(value, i) == i and times[value] > 1:
            detail = f"{field} {value!r:.200} occurs {times[value]} times, first at {key}[{i}]"
            yield Fault(kind, key, detail, (key, i))


def _file_faults(i: int, image: dict, paired: bool, roots: Sequence[str | Path]) -> Iterator[Fault]:
    name, entry = image["file_name"], ("images", i)
    partner = image.get("ir_file_name")
    if paired and not partner and image.get("missing") != "infrared":
        yield Fault("no partner", name, "it has no ir_file_name", entry)
    if partner == name and not image.get("missing"):
        yield Fault("same image", name, "ir_file_name is the visible file", entry)
    for key in ("file_name", "ir_file_name", "sem_seg_file_name") if roots else ():
        if (file := image.get(key)) and _leaves(file, roots):
            yield Fault(
                "outside root", name, f"{key} {file!r:.200} is outside the image root {roots[0]}", entry
            )


def _leaves(file: str, roots: Sequence[str | Path]) -> bool:
    """Whether a path below the first root leads out of all, by its letters. Links lead where they lead."""
    file = file.replace("\\", "/")
    if re.match("[A-Za-z]:/", file):
        return True
    if ".." not in file and not file.startswith("/"):
        return False
    path = os.path.abspath(os.path.join(roots[0], file))
    return all(os.path.commonpath([top, path]) != top for top in map(os.path.abspath, roots))


def _reference_faults(content: dict, good: dict[str, dict[int, dict]], classified: bool) -> Iterator[Fault]:
    images = {image["id"]: image for image in good["images"].values()}
    categories = {category["id"]: category["name"] for category in good["categories"].values()}
    known = ", ".join(f"{i} {name}" for i, name in categories.items())
    known = known if len(known) <= 300 else f"{known[:300]}..."
    # An image with another fault is there all the same.
    ids = {
        key: {entry["id"] for entry in content[key] if type(entry) is dict and _integer(entry.get("id"))}
        for key in ("images", "categories")
    }
    for i, image in good["images"].items() if classified else ():
        if image["category_id"] not in ids["categories"]:
            detail = f"unknown category id {image['category_id']} (known: {known})"
            yield Fault("unknown class", name_of("images", i, image), detail, ("images", i))
    for i, box in good["annotations"].items():
        image, mask = images.get(box["image_id"]), box.get("segmentation")
        if box["image_id"] not in ids["images"]:
            kind, detail = "unknown image", f"no image has the id {box['image_id']}"
        elif box["category_id"] not in ids["categories"]:
            kind, detail = "unknown class", f"unknown category id {box['category_id']} (known: {known})"
        elif (
            mask not in NO_MASK
            and image
            and (detail := mask_fault(mask, int(image["height"]), int(image["width"])))
        ):
            kind = "bad mask"
        else:
            continue
        yield Fault(kind, name_of("annotations", i, box, images), detail, ("annotations", i))
