"""Makes the JSON files of your own pairs from two folders of images and their labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError
from ..annotations import check_classes
from ..datasets.segmentation_layouts import Part, SegmentationSet, voc_color
from ..image_files import IMAGE_SUFFIXES
from ..labels import MAX_CLASSES
from . import segmentation
from .coco import write_parts, write_set
from .folders import divide, find_files, images_root, label_pairs, pair_files
from .label_files import (
    box_reader,
    check_ignored,
    coco_content,
    find_labels,
    named_classes,
    read_coco_labels,
    voc_classes,
    yolo_classes,
)
from .pairing import Pair, check_not_swapped


def prepare_pairs(
    visible: str,
    infrared: str,
    labels: str,
    output: Path,
    *,
    name: str,
    source: Path | None = None,
    classes: str | None = None,
    ignore: str = "",
    split: str | None = None,
    gray_visible: bool = False,
    dry_run: bool = False,
) -> list[Path]:
    """Write ``annotations/<split>_<part>.json``, or ``segmentation/`` for label maps; all files or none.

    Args:
        visible, infrared, labels: folders or patterns, see :func:`.folders.find_files`; `labels` may be a
            COCO file, or one for each ``{part}``.
        name: of the set, for its description.
        source: the folder that these are relative to, and the images' root. None: the current folder, and the
            common folder of the images.
        classes: names with commas between, or a file of them. None: those of the labels; label maps need
            names, in the order of their values from 0.
        ignore: names of classes to leave out, with commas between.
        split: see :func:`.folders.divide`.
        gray_visible: accept visible images of one channel.

    Returns:
        The JSON files, by part.

    Raises:
        UserError: bad options, images without partner or of unequal sizes, swapped folders, labels that
            cannot be read or belong to no pair, or a part without any.
    """
    wanted = None if classes is None else named_classes(classes)
    ignored = check_classes(ignore.split(","), "--ignore") if ignore.strip() else []
    out = {n.lower() for n in ignored}
    if visible == infrared:
        raise UserError(f"--vis and --ir are both {visible!r}: give the place of each kind of image")
    places = [
        os.path.abspath(os.path.join(source or "", os.path.expanduser(p)))
        for p in (visible, infrared, labels)
    ]
    kind, files = find_labels(places[2])
    root = images_root(places[: 3 if kind == "label maps" else 2], source)
    pairs = pair_files(
        find_files(places[0], IMAGE_SUFFIXES, "--vis"),
        find_files(places[1], IMAGE_SUFFIXES, "--ir"),
        places[:2],
    )
    if kind == "YOLO":  # its files count all classes, also those to leave out
        wanted = wanted or yolo_classes(places[2], root)
        check_ignored(ignored, wanted)
    elif both := out & {n.lower() for n in wanted or ()}:
        raise UserError(f"class {min(both)!r} is in --classes and in --ignore: remove it from one")
    if kind == "label maps" and gray_visible:
        raise UserError("--gray-visible is for boxes: save the visible images as RGB for label maps")
    split, parts = divide(pairs, split, root)
    description = (
        f"{name} pairs with labels of {kind}" if kind != "label maps" else f"{name} pairs with label maps"
    )
    folder = "segmentation" if kind == "label maps" else "annotations"
    if kind == "COCO":
        content = read_coco_labels(files, pairs)
        check_ignored(ignored, content.classes)
        counted = wanted or [c for c in content.classes if c.lower() not in out]
        made = {
            part: coco_content(content, chosen, counted, ignored, root, part, gray_visible)
            for part, chosen in parts.items()
        }
        _report(content.without_pair, "images of the JSON")
        write_parts(made, root, output, split, description, dry_run)
    else:
        labeled, alone = label_pairs(pairs, files, places[2])
        label_of = {pair.stem: pair for pair in labeled}
        parts = {part: [label_of[pair.stem] for pair in chosen] for part, chosen in parts.items()}
        _report(alone, "label files")
        if kind == "label maps":
            _write_label_maps(parts, wanted, ignored, root, output, split, description, dry_run)
        else:
            wanted = wanted or voc_classes(files.values(), ignored)
            write_set(
                parts,
                [n for n in wanted if n.lower() not in out],
                box_reader(kind, wanted, ignored),
                source=root,
                output=output,
                split=split,
                description=description,
                gray_visible=gray_visible,
                dry_run=dry_run,
            )
    return [output / folder / f"{split}_{part}.json" for part in parts]


def _report(alone: int, what: str) -> None:
    if alone:
        print(f"{what} that belong to no pair, left out: {alone}")


def _write_label_maps(
    parts: dict[str, list[Pair]],
    classes: Sequence[str] | None,
    ignored: Sequence[str],
    root: Path,
    output: Path,
    split: str,
    description: str,
    dry_run: bool,
) -> None:
    if not classes:
        raise UserError(
            "--classes is missing: name the classes of the label maps, in the order of their values"
        )
    if len(classes) > MAX_CLASSES:
        raise UserError(f"--classes names {len(classes)} classes: give at most {MAX_CLASSES}")
    if ignored:
        raise UserError(
            "--ignore is for boxes: in label maps 255 is ignored, and values of no class are refused"
        )
    left_out = {}
    for part, pairs in list(parts.items()):
        labeled = [pair for pair in pairs if pair.label is not None]
        if not labeled:
            raise UserError(f"no pair of the {part} part has a label map")
        check_not_swapped(labeled)
        parts[part] = labeled
        left_out[f"{split}_{part}"] = Counter({"skipped: pairs without label map": len(pairs) - len(labeled)})
    named = {f"{split}_{part}": pairs for part, pairs in parts.items()}
    layout = SegmentationSet(
        folder=output.name,
        parts={part: Part("", len(pairs)) for part, pairs in named.items()},
        description=description,
        visible="",
        infrared="*",  # not the same, which would mean that one file holds both
        copies="copies/",  # apart from the images, which may be in the set's own folder
        labels="",
        classes={name: voc_color(value) for value, name in enumerate(classes)},
    )
    segmentation.write_parts(layout, named, left_out, root, output, dry_run)
