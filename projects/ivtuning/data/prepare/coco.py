"""Assembles and writes the COCO JSON of detection sets, for the scripts ``datasets/prepare_*.py``.

Coordinates of VOC files are used unchanged (width = xmax - xmin), as in the published COCO files of M3FD and
LLVIP.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tabulate import tabulate

from ...errors import UserError
from ...utils.files import StagedFiles
from ...utils.progress import track
from ..annotations import Box
from ..images import inspect_pair
from ..modalities import FILE_KEYS
from .pairing import Pair, check_not_swapped

# Ends the message about a place that cannot be written.
ADVICE = "choose a writable place with --output"


# The share of a part's boxes that may be dropped as too small or outside their image.
MAX_DROPPED = 0.02


def assemble(
    pairs: Sequence[Pair],
    classes: Sequence[str],
    read: Callable[[Path, tuple[int, int]], list[Box]],
    source: Path,
    label: str,
    time: Callable[[str], str | None] = lambda stem: None,
    gray_visible: bool = False,
) -> tuple[dict, Counter]:
    """The COCO content of `pairs`, without info, and what was skipped or changed, counted by reason.

    Args:
        read: from a label file and (width, height) to boxes.
        label: what the progress bar is called.
        time: from a stem to "day", "night" or None (unknown).
        gray_visible: accept visible images of one channel.

    Raises:
        UserError: a file that cannot be read as a pair's, images of unequal size, a label file that `read`
            refuses, or too many boxes that cannot be used.
    """
    if not gray_visible:
        check_not_swapped(pairs)
    images, annotations = [], []
    boxes = UsableBoxes(classes, label)
    counts = boxes.counts
    for pair in track(pairs, label):
        if pair.label is None:
            counts["pairs skipped: no label file"] += 1
            continue
        width, height = size = inspect_pair(pair.visible, pair.infrared, gray_visible)
        files = dict(zip(FILE_KEYS, (pair.visible, pair.infrared), strict=True))
        image = {"id": len(images) + 1} | {k: p.relative_to(source).as_posix() for k, p in files.items()}
        image |= {"height": height, "width": width}
        if time_of_day := time(pair.stem):
            image["time"] = time_of_day
        images.append(image)
        for index, *corners, crowd, occlusion, modality in read(pair.label, size):
            if index is None:
                counts["boxes skipped: ignored class"] += 1
                continue
            clipped = boxes.clip(index, corners, size, pair.label)
            if clipped is None:
                continue
            counts["boxes marked difficult (crowd)"] += crowd
            box = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": index + 1}
            box |= {"bbox": clipped, "area": round(clipped[2] * clipped[3], 2), "iscrowd": int(crowd)}
            facts = {"occlusion": occlusion, "modality": modality}
            annotations.append(box | {key: value for key, value in facts.items() if value is not None})
    boxes.check()
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, +counts


class UsableBoxes:
    """Clips the boxes of one part to their images, and counts what that changes and those of no use.

    Args:
        classes: names by class index.
        part: what messages call it.

    Attributes:
        counts: what was skipped or changed, by reason.
    """

    def __init__(self, classes: Sequence[str], part: str):
        self.classes, self.part = classes, part
        self.counts: Counter[str] = Counter()
        # By class index: the boxes, those that cannot be used, and the file and reason of the first of these.
        self._totals: Counter[int] = Counter()
        self._dropped: Counter[int] = Counter()
        self._examples: dict[int, str] = {}

    def clip(
        self, index: int, corners: Sequence[float], size: tuple[int, int], file: object
    ) -> list[float] | None:
        """The box x, y, width, height within an image of `size`, to 0.01 px; None if it cannot be used.

        Args:
            index: of its class.
            corners: x1, y1, x2, y2 in pixels.
            size: width and height.
            file: what has the box, for messages.
        """
        self._totals[index] += 1
        clipped = [min(max(c, 0.0), float(limit)) for c, limit in zip(corners, size * 2, strict=True)]
        x0, y0, x1, y1 = (round(c, 2) for c in clipped)
        w, h = round(x1 - x0, 2), round(y1 - y0, 2)
        if w < 1 or h < 1:
            outside = min(corners[2] - corners[0], corners[3] - corners[1]) >= 1
            reason = "outside the image" if outside else "under 1 px wide or high"
            self.counts[f"boxes skipped: {reason}"] += 1
            self._dropped[index] += 1
            self._examples.setdefault(index, f"{file} has one {reason}")
            return None
        if max(abs(a - b) for a, b in zip(corners, clipped, strict=True)) > 0.01:
            self.counts["boxes clipped to the image"] += 1
        return [x0, y0, w, h]

    def check(self) -> None:
        """Raise UserError if too many boxes of the part, or all of a class, could not be used."""
        check_dropped(self._totals, self._dropped, self._examples, self.classes, self.part)


def check_dropped(
    totals: Counter, dropped: Counter, examples: Mapping[int, str], classes: Sequence[str], part: str
) -> None:
    """Raise UserError if too many boxes of a part were dropped, or all of a class; keys are class indices."""
    advice = "fix the labels, or take those that were made on these images"
    for index, count in dropped.items():
        if count == totals[index]:
            raise UserError(
                f"{part}: none of the {count} boxes of {classes[index]} can be used: {examples[index]}; "
                f"{advice}"
            )
    if dropped.total() > MAX_DROPPED * totals.total():
        first = next(iter(examples.values()))
        raise UserError(
            f"{part}: {dropped.total()} of {totals.total()} boxes cannot be used, over "
            f"{100 * MAX_DROPPED:g} %: {first}; {advice}"
        )


def summary(parts: Mapping[str, tuple[dict, Counter]]) -> str:
    """A table of images, boxes per class, image sizes and what was skipped, with one column per part."""
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


def count_boxes(coco: dict) -> dict[str, int]:
    """Numbers of "images", of all "boxes", and of each class's boxes, for :func:`count_warnings`."""
    boxes = Counter(a["category_id"] for a in coco["annotations"])
    counts = {"images": len(coco["images"]), "boxes": boxes.total()}
    return counts | {f"{c['name']} boxes": boxes[c["id"]] for c in coco["categories"]}


def count_warnings(
    counts: Mapping[str, Mapping[str, int]], published: Mapping[str, Mapping[str, int]]
) -> Iterator[str]:
    """Yield a warning line for each part whose counts differ from the published ones.

    Args:
        counts: part -> what was counted, such as {"images": 1083, "person boxes": 2925}.
        published: the same for what the authors or the split's source state; other counts are not compared.
    """
    for part, expected in published.items():
        wrong = [
            f"{counts[part][what]} {what} ({number} published)"
            for what, number in expected.items()
            if counts[part][what] != number
        ]
        if wrong:
            yield f"warning: {part} has {', '.join(wrong)}: the copy may be incomplete or changed"


def stage_json(contents: Mapping[Path, dict], staged: StagedFiles) -> list[str]:
    """Stage each content for its path, and return a line on each."""
    lines = []
    for path, content in contents.items():
        verb = staged.write(path, (json.dumps(content) + "\n").encode())
        lines.append(f"{describe(verb, staged.dry_run)}: {path}")
    return lines


def describe(verb: str, dry_run: bool) -> str:
    """What :meth:`StagedFiles.write` returned, as "unchanged", "created" or "replaced", or "would create"."""
    return verb if verb == "unchanged" else f"would {verb}" if dry_run else f"{verb}d"


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
    gray_visible: bool = False,
    published: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    dry_run: bool = False,
) -> dict[str, dict]:
    """Assemble every part, print a summary, and write ``<output>/annotations/<split>_<part>.json``.

    All files are written, or none. ``info.image_root`` records `source` if it is not the set's own folder.
    See :func:`assemble` for `read`, `time` and `gray_visible`.

    Args:
        published: what the authors or the split's source count in each ``<split>_<part>``, see
            :func:`count_warnings`.

    Returns:
        The contents by part.

    Raises:
        UserError: a part without labels, or a fault that :func:`assemble` finds.
    """
    made = {
        part: assemble(pairs, classes, read, source, part, time, gray_visible)
        for part, pairs in parts.items()
    }
    return write_parts(made, source, output, split, description, dry_run, published)


def check_labeled(made: Mapping[str, tuple[dict, Counter]], source: Path) -> None:
    """Raise UserError for a part without any labeled image, before anything is written."""
    for part, (coco, _) in made.items():
        if not coco["images"]:
            raise UserError(f"no pair of the {part} part has a label file in {source}")


def write_parts(
    made: Mapping[str, tuple[dict, Counter]],
    source: Path,
    output: Path,
    split: str,
    description: str,
    dry_run: bool = False,
    published: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    staged: StagedFiles | None = None,
) -> dict[str, dict]:
    """Print a summary of what :func:`assemble` made of each part, and write it; see :func:`write_set`.

    Args:
        staged: takes the files, which the caller commits together with others; None: they are written.
    """
    info = {"description": description, "split": split}
    if source.resolve() != output.resolve():
        info["image_root"] = os.path.abspath(source)
    check_labeled(made, source)
    contents = {part: {"info": info} | coco for part, (coco, _) in made.items()}
    print(summary(made))
    paths = {output / "annotations" / f"{split}_{part}.json": coco for part, coco in contents.items()}
    if staged is not None:
        lines = stage_json(paths, staged)
    else:
        with StagedFiles(dry_run, ADVICE) as own:
            lines = stage_json(paths, own)
            own.commit()
    counts = {f"{split}_{part}": count_boxes(coco) for part, coco in contents.items()}
    known = {name: numbers for name, numbers in published.items() if name in counts}
    print(*lines, *count_warnings(counts, known), sep="\n")
    return contents
