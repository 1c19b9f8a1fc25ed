"""What the `datasets/prepare_*.py` scripts share: reading labels, assembling and writing COCO JSON.

Boxes travel as ``(class index from 0 or None, x0, y0, x1, y1)`` in pixels, x1 and y1 exclusive; None marks
a class the user chose to ignore. Coordinates of VOC files are taken as they stand (width = xmax - xmin), as
the published COCO files of M3FD and LLVIP do.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tabulate import tabulate

from ...errors import UserError
from ...utils.progress import track
from ..annotations import Box
from ..images import image_size
from .pairing import Pair


def assemble(
    pairs: Sequence[Pair],
    classes: Sequence[str],
    read: Callable[[Path, tuple[int, int]], list[Box]],
    source: Path,
    label: str,
    time: Callable[[str], str | None] = lambda stem: None,
) -> tuple[dict, Counter]:
    """COCO content (without info) of `pairs`, and what was skipped or mended, counted by reason.

    Args:
        read: from (label file, (width, height)) to boxes.
        time: from a stem to "day", "night" or None (unknown).
    """
    images, annotations, counts = [], [], Counter()
    for pair in track(pairs, label):
        if pair.label is None:
            counts["pairs skipped: no label file"] += 1
            continue
        width, height = size = image_size(pair.visible)
        if (other := image_size(pair.infrared)) != size:
            sizes = f"{width}x{height} and {other[0]}x{other[1]}"
            raise UserError(f"{pair.visible} and {pair.infrared} differ in size ({sizes}): align them first")
        names = {"file_name": pair.visible, "ir_file_name": pair.infrared}
        image = {"id": len(images) + 1} | {k: p.relative_to(source).as_posix() for k, p in names.items()}
        image |= {"height": height, "width": width}
        if when := time(pair.stem):
            image["time"] = when
        images.append(image)
        for index, *corners in read(pair.label, size):
            if index is None:
                counts["boxes skipped: ignored class"] += 1
                continue
            limits = (width, height, width, height)
            clipped = [min(max(c, 0.0), float(limit)) for c, limit in zip(corners, limits, strict=True)]
            x0, y0, x1, y1 = (round(c, 2) for c in clipped)
            w, h = round(x1 - x0, 2), round(y1 - y0, 2)
            if w < 1 or h < 1:
                counts["boxes skipped: under 1 px wide or high"] += 1
                continue
            if max(abs(a - b) for a, b in zip(corners, clipped, strict=True)) > 0.01:
                counts["boxes clipped to the image"] += 1
            box = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": index + 1}
            annotations.append(box | {"bbox": [x0, y0, w, h], "area": round(w * h, 2), "iscrowd": 0})
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, counts


def summary(parts: dict[str, tuple[dict, Counter]]) -> str:
    """A table of images, boxes per class, sizes and skipped things; one column a part."""
    columns = []
    for coco, counts in parts.values():
        names = {c["id"]: c["name"] for c in coco["categories"]}
        boxes = Counter(names[a["category_id"]] for a in coco["annotations"])
        without = len(coco["images"]) - len({a["image_id"] for a in coco["annotations"]})
        column = {"images": len(coco["images"]), "images without boxes": without}
        column |= {f"boxes: {name}": boxes[name] for name in names.values()} | {"boxes": boxes.total()}
        sizes = Counter(f"size {i['width']}x{i['height']}" for i in coco["images"])
        columns.append(column | dict(sizes.most_common()) | counts)
    rows = dict.fromkeys(key for column in columns for key in column)
    table = [[key, *(column.get(key, 0) for column in columns)] for key in rows]
    return tabulate(table, headers=["", *parts])


def write_json(files: dict[Path, dict], dry_run: bool = False) -> list[str]:
    """Write each content to its path, all or none, and return a line on each.

    Files that already hold the content are left alone. With `dry_run` nothing is touched.
    """
    lines, staged = [], {}
    try:
        for path, content in files.items():
            text = json.dumps(content) + "\n"
            exists = path.is_file()
            if exists and path.read_text() == text:
                lines.append(f"unchanged: {path}")
                continue
            verb = "replace" if exists else "create"
            lines.append(f"would {verb}: {path}" if dry_run else f"{verb}d: {path}")
            if dry_run:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            # Beside the target, because a rename is atomic only within one file system.
            staged[path] = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            staged[path].write_text(text)
        for path, temporary in staged.items():
            os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(
                f"cannot write {error.filename}: choose a writable place with --output"
            ) from error
        raise
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
    return lines


def write_set(
    parts: dict[str, list[Pair]],
    classes: Sequence[str],
    read: Callable[[Path, tuple[int, int]], list[Box]],
    *,
    source: Path,
    output: Path,
    split: str,
    description: str,
    time: Callable[[str], str | None] = lambda stem: None,
    dry_run: bool = False,
) -> dict[str, dict]:
    """Assemble every part, print the summary, write ``output/annotations/<split>_<part>.json``.

    ``info.image_root`` records `source` where that is not the set's own folder. Returns the contents by part.
    """
    info = {"description": description, "split": split}
    if source.resolve() != output.resolve():
        info["image_root"] = os.path.abspath(source)
    made = {part: assemble(pairs, classes, read, source, part, time) for part, pairs in parts.items()}
    if empty := [part for part, (coco, _) in made.items() if not coco["images"]]:
        raise UserError(f"no pair of the {empty[0]} part has a label file in {source}")
    contents = {part: {"info": info} | coco for part, (coco, _) in made.items()}
    print(summary(made))
    paths = {output / "annotations" / f"{split}_{part}.json": coco for part, coco in contents.items()}
    print(*write_json(paths, dry_run), sep="\n")
    return contents
