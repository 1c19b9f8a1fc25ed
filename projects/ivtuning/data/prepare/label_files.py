"""Labels of your own pairs in other tools' formats: which one a folder holds, and the classes in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from ...errors import UserError, nearest
from ...utils.text import read_text
from ...utils.xml import read_xml
from ..annotations import Box, check_classes, read_classes, read_voc, read_yolo
from ..coco_json import read_coco
from ..image_files import IMAGE_SUFFIXES, walk
from ..images import inspect_pair
from .coco import UsableBoxes
from .folders import Names, find_files, fixed_folder
from .pairing import PARTS, Pair, check_not_swapped

# Files beside the labels of a YOLO set that name its classes.
_NAMES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")
SUFFIXES = {".xml": "VOC", ".txt": "YOLO", ".json": "COCO"} | dict.fromkeys(IMAGE_SUFFIXES, "label maps")


def find_labels(place: str) -> tuple[str, dict[str, Path]]:
    """The format of the labels in a place, one of SUFFIXES' values, and their files by stem.

    Args:
        place: as in :func:`.folders.find_files`, or a COCO file. Images beside other labels are none.

    Raises:
        UserError: there are none, or labels of two formats.
    """
    if "*" not in place and Path(place).suffix.lower() == ".json":
        return "COCO", _coco_files(place)
    folder = fixed_folder(place)
    if str(folder) == place:
        suffixes = {path.suffix.lower() for path in walk(folder) if path.name not in _NAMES}
    else:
        suffixes = {Path(place).suffix.lower()}
    kinds = {SUFFIXES[suffix] for suffix in suffixes if suffix in SUFFIXES}
    if len(kinds) > 1:
        kinds.discard("label maps")
    if len(kinds) != 1:
        raise UserError(
            f"--labels {place}: give files of one kind (.xml of VOC, .txt of YOLO, .json "
            f"of COCO, or images with class indices); there are {', '.join(sorted(suffixes)) or 'no files'}"
        )
    kind = kinds.pop()
    files = find_files(place, {suffix for suffix, of in SUFFIXES.items() if of == kind}, "--labels")
    return kind, {stem: path for stem, path in files.items() if path.name not in _NAMES}


def _coco_files(place: str) -> dict[str, Path]:
    """One COCO file, or one for each ``{part}`` that there is."""
    parts = PARTS if "{part}" in place else ("",)
    files = {part: path for part in parts if (path := Path(place.replace("{part}", part))).is_file()}
    if not files:
        raise UserError(f"--labels: there is no file {place}: correct its path")
    return files


def named_classes(text: str) -> list[str]:
    """The classes of ``--classes``: names with commas between, or a file that lists them.

    Raises:
        UserError: an empty or repeated name, or a file that lists none.
    """
    path = Path(text)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _yaml_classes(path)
    if path.suffix.lower() in (".txt", ".names"):
        return read_classes(path)
    return check_classes(text.split(","), "--classes")


def _yaml_classes(path: Path) -> list[str]:
    """The ``names`` of a data.yaml: a list, or a dict from 0 on."""
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: give the names with --classes") from error
    if isinstance(content, dict) and "kpt_shape" in content:
        raise UserError(f"{path} is of key points (kpt_shape): give labels of boxes or polygons")
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path} has no list of names: give them with --classes")
    return check_classes([str(name) for name in names], str(path))


def yolo_classes(place: str, top: Path) -> list[str]:
    """The classes of a YOLO set from a file beside its labels or above, up to the folder that `top` is in."""
    folder = fixed_folder(place)
    top = Path(os.path.commonpath([folder, top]))
    while True:
        for name in _NAMES:
            if (folder / name).is_file():
                return _yaml_classes(folder / name) if name.endswith("yaml") else read_classes(folder / name)
        if folder == top or folder == folder.parent:
            raise UserError(
                f"no {', '.join(_NAMES[:3])} names the classes of the YOLO labels in {place}: give --classes"
            )
        folder = folder.parent


def voc_classes(files: Iterable[Path], ignored: Sequence[str]) -> list[str]:
    """The classes of VOC files, sorted, without those to ignore; names that differ in case are one class."""
    counts: Counter[str] = Counter()
    for path in files:
        counts.update((item.findtext("name") or "").strip() for item in read_xml(path).iter("object"))
    names: dict[str, str] = {}
    for name, _ in counts.most_common():
        names.setdefault(name.lower(), name)
    check_ignored(ignored, names.values())
    for name in ignored:
        names.pop(name.lower())
    if not names:
        raise UserError("no label file has an object: give the names of the classes with --classes")
    return check_classes(sorted(names.values()), "the label files")


def check_ignored(ignored: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError for a name to ignore that no label has."""
    known = list(known)
    for name in ignored:
        if name.lower() not in {k.lower() for k in known}:
            raise UserError(f"--ignore {name}: no label has this class{nearest(name, known)}")


def box_reader(
    kind: str, classes: Sequence[str], ignored: Sequence[str]
) -> Callable[[Path, tuple[int, int]], list[Box]]:
    """From a label file of VOC or YOLO, and (width, height), to boxes."""
    if kind == "VOC":
        return lambda path, size: read_voc(path, classes, size, ignored)
    out = {name.lower() for name in ignored}
    # A YOLO file has numbers for classes, which count the ignored ones as well.
    labels = iter(range(len(classes)))
    label_of = [None if name.lower() in out else next(labels) for name in classes]
    return lambda path, size: [b._replace(label=label_of[b.label]) for b in read_yolo(path, classes, size)]


@dataclass(frozen=True)
class CocoLabels:
    """The content of COCO files for visible or infrared images: what each pair's image shows.

    Attributes:
        classes: names of the categories in the order of their ids.
        objects: stem of a pair -> the JSON's image, and its annotations with the category's name.
        without_pair: number of images of the JSON that belong to no pair.
    """

    classes: list[str]
    objects: Mapping[str, tuple[dict, list[dict]]]
    without_pair: int


def read_coco_labels(files: Mapping[str, Path], pairs: Sequence[Pair]) -> CocoLabels:
    """Read COCO files, and find the pair of each of their images by its name.

    Raises:
        UserError: a fault of a file (see :func:`..coco_json.read_coco`), files of different categories,
            images that belong to one pair, or none that belongs to any.
    """
    names, classes = Names(pairs), []
    objects: dict[str, tuple[dict, list[dict]]] = {}
    without_pair = 0
    for part, path in files.items():
        content = read_coco(path, {})
        categories = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
        if classes and sorted(classes) != sorted(categories.values()):
            first = next(iter(files.values()))
            raise UserError(f"{path} and {first} have different categories: give both the same")
        classes = classes or check_classes(list(categories.values()), str(path))
        shown: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
        for box in content.get("annotations", ()):
            shown[box["image_id"]].append(box | {"class": categories[box["category_id"]]})
        for image in content["images"]:
            stem = PurePosixPath(image["file_name"]).with_suffix("").as_posix()
            pair = names.find(f"{part}/{stem}" if part else stem)
            if pair is None:
                without_pair += 1
            elif pair in objects:
                raise UserError(f"{path}: two images belong to the pair {pair!r}, such as {stem}: keep one")
            else:
                objects[pair] = image, shown[image["id"]]
    if not objects:
        raise UserError(
            f"--labels: no image of {next(iter(files.values()))} belongs to a pair, such as {stem!r}; "
            f"the first pair is {pairs[0].stem!r}"
        )
    return CocoLabels(classes, objects, without_pair)


def coco_content(
    labels: CocoLabels,
    pairs: Sequence[Pair],
    classes: Sequence[str],
    ignored: Sequence[str],
    source: Path,
    part: str,
    gray_visible: bool,
) -> tuple[dict, Counter]:
    """The COCO content of one part, and what was left out, counted by reason; as :func:`.coco.assemble`.

    Upright boxes are clipped to their images; oriented ones stay as they are.

    Raises:
        UserError: a file that cannot be read as a pair's, images of unequal size or another size than the
            JSON's, a class that is neither wanted nor ignored, or too many boxes that cannot be used.
    """
    if not gray_visible:
        check_not_swapped(pairs)
    ids = {name.lower(): number for number, name in enumerate(classes, 1)}
    out = {name.lower() for name in ignored}
    images: list[dict] = []
    annotations: list[dict] = []
    usable = UsableBoxes(classes, part)
    counts = usable.counts
    for pair in pairs:
        if pair.stem not in labels.objects:
            counts["pairs skipped: not in the JSON"] += 1
            continue
        stated, boxes = labels.objects[pair.stem]
        width, height = inspect_pair(pair.visible, pair.infrared, gray_visible)
        if (stated["width"], stated["height"]) != (width, height):
            raise UserError(
                f"{pair.visible} is {width}x{height}, but the labels were made on "
                f"{stated['width']}x{stated['height']}: take labels and images of one release"
            )
        paths = {"file_name": pair.visible, "ir_file_name": pair.infrared}
        image = {"id": len(images) + 1} | {k: p.relative_to(source).as_posix() for k, p in paths.items()}
        images.append(
            image
            | {"height": height, "width": width}
            | {k: stated[k] for k in ("time", "group") if k in stated}
        )
        for box in boxes:
            name = box["class"].lower()
            if name in out:
                counts["boxes skipped: ignored class"] += 1
                continue
            if name not in ids:
                raise UserError(
                    f"the JSON has the class {box['class']!r}: name it in --classes or in --ignore"
                )
            bbox = box["bbox"]
            if len(bbox) == 4:
                x, y, w, h = bbox
                bbox = usable.clip(ids[name] - 1, (x, y, x + w, y + h), (width, height), pair.visible)
                if bbox is None:
                    continue
            optional = ("segmentation", "modality", "occlusion", "area")
            kept = {"bbox": bbox} | {key: box[key] for key in optional if key in box}
            if not {"area", "segmentation"} & kept.keys():
                kept["area"] = bbox[2] * bbox[3]
            kept |= {"iscrowd": box.get("iscrowd", 0), "category_id": ids[name]}
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"]} | kept)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    usable.check()
    return {"images": images, "annotations": annotations, "categories": categories}, +counts
