"""Turns a segmentation release into ``segmentation/<part>.json``, with copies of the files that need one.

Files are read where they are. Only these are copied into the set's folder, as PNG:

- ``vis/`` and ``ir/``: the two halves of files with four channels; visible images that are not 8-bit RGB;
  infrared images with holes, filled;
- ``labels/``: label maps that are no plain index images, and masks, as 8-bit gray.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tabulate import tabulate

from ...errors import UserError, nearest
from ...utils.files import StagedFiles
from ...utils.progress import track
from ...utils.text import read_lines
from ..datasets.segmentation_layouts import SegmentationSet
from ..image_files import decode, image_size, kind_of, open_image, turned
from ..images import inspect_infrared, read_pair
from ..labels import class_table
from ..modalities import FILE_KEYS, TIMES, time_of
from .coco import ADVICE, count_warnings, describe, stage_json
from .label_maps import read_values
from .pairing import Pair, check_not_swapped, files_by_stem, find_pairs


def prepare(layout: SegmentationSet, source: Path, output: Path, dry_run: bool = False) -> dict[str, dict]:
    """Check a release and write its set: JSON and copies, all or nothing.

    Prints a summary (images, pixels of each class, what was left out or copied) and what was written.

    Returns:
        The content of each part's JSON.

    Raises:
        UserError: see :func:`find_parts` and :func:`.read_values`; also images of unequal size or of the
            wrong kind, and a place that cannot be written.
    """
    source = Path(os.path.abspath(source))
    return write_parts(layout, *find_parts(layout, source), source, output, dry_run)


def write_parts(
    layout: SegmentationSet,
    parts: Mapping[str, Sequence[Pair]],
    left_out: Mapping[str, Counter],
    source: Path,
    output: Path,
    dry_run: bool = False,
) -> dict[str, dict]:
    """Check the pairs of each part and write their set, see :func:`prepare`.

    Args:
        parts: as in `layout.parts`.
        left_out: what is not in a part, counted by reason.
        source: absolute folder that holds all images.
    """
    output = Path(os.path.abspath(output))
    info = {"description": layout.description}
    if source != output:
        info["image_root"] = str(source)
    contents, columns, pixels = {}, {}, {}
    with StagedFiles(dry_run, ADVICE) as staged:
        copies = Copies(output, staged)
        for part, pairs in parts.items():
            with ThreadPoolExecutor() as pool:
                results = pool.map(partial(_read, part, layout, source, copies), pairs)
                entries = list(track(results, part, total=len(pairs)))
            images = [{"id": number} | entry.image for number, entry in enumerate(entries, 1)]
            pixels[part] = np.stack([entry.pixels for entry in entries])
            columns[part] = _column(images, pixels[part], layout) | left_out[part]
            columns[part] |= Counter(note for entry in entries for note in entry.notes)
            contents[part] = {"info": info | {"split": part}, "images": images}
            contents[part] |= {"categories": layout.categories, "ignored": list(layout.ignored)}
        print(_table(columns), class_table(list(layout.classes), pixels), sep="\n\n")
        for line in _remarks(layout, pixels):
            print(line)
        files = {output / "segmentation" / f"{part}.json": content for part, content in contents.items()}
        lines = copies.lines() + stage_json(files, staged)
        staged.commit()
        print(*lines, sep="\n")
    return contents


def find_parts(layout: SegmentationSet, source: Path) -> tuple[dict[str, list[Pair]], dict[str, Counter]]:
    """The pairs of each part, in the order of their stems or their list, and what was left out, by reason.

    Raises:
        UserError: a folder is empty or missing, an image lacks its partner or its label map, or a list names
            an image that does not exist.
    """
    parts, left_out = {}, {}
    for part, (folder, _) in layout.parts.items():
        patterns = [
            p and p.replace("{part}", folder) for p in (layout.visible, layout.infrared, layout.labels)
        ]
        pairs = find_pairs(source, patterns[0], patterns[1] or patterns[0], patterns[2])
        left_out[part] = Counter()
        if layout.listed:
            pairs = _listed(pairs, source / folder, left_out[part])
        else:
            alone = len(files_by_stem(source, patterns[2])) - sum(pair.label is not None for pair in pairs)
            left_out[part]["skipped: label maps without image"] = alone
        if unlabeled := [pair for pair in pairs if pair.label is None]:
            path = source / patterns[2].replace("*", unlabeled[0].stem)
            more = f" ({len(unlabeled)} such images)" if len(unlabeled) > 1 else ""
            raise UserError(
                f"{unlabeled[0].visible} has no label map {path}: copy it there, or move the image away{more}"
            )
        if layout.infrared and not layout.stacked:
            check_not_swapped(pairs)
        parts[part] = pairs
    if layout.listed:
        _check_disjoint(parts)
    return parts, left_out


def _check_disjoint(parts: Mapping[str, Sequence[Pair]]) -> None:
    """Raise UserError if an image belongs to two parts."""
    seen: dict[str, str] = {}
    for part, pairs in parts.items():
        for pair in pairs:
            if (other := seen.setdefault(pair.stem, part)) != part:
                raise UserError(f"{pair.stem!r} is in the lists of {other} and {part}: remove it from one")


def _listed(pairs: Sequence[Pair], path: Path, left_out: Counter) -> list[Pair]:
    """The pairs named by the list `path`, without the mirrored copies that MFNet's make_flip.py adds."""
    if not path.is_file():
        raise UserError(f"{path} is missing: it lists the images of its part, one per line")
    known = {pair.stem: pair for pair in pairs}
    # Stem -> where it is listed first.
    places: dict[str, str] = {}
    mirrored = twice = 0
    for where, line in read_lines(path):
        stem = line.removesuffix(".png")
        mirrored += stem.endswith("_flip")
        twice += stem in places
        if stem.endswith("_flip") or places.setdefault(stem, where) != where:
            continue
        if stem not in known:
            raise UserError(f"{where} lists {stem!r}, which has no image{nearest(stem, known)}")
    left_out["skipped: mirrored copies (_flip)"] = mirrored
    left_out["skipped: listed twice"] = twice
    if not places:
        raise UserError(f"{path} lists no image: fetch it again")
    return [known[stem] for stem in places]


class Copies:
    """The copies of images in a set's folder, staged as PNG and counted by folder."""

    def __init__(self, root: Path, staged: StagedFiles):
        self.root, self.staged = root, staged
        self._counts: dict[str, Counter] = defaultdict(Counter)
        self._lock = threading.Lock()

    def put(self, name: str, pixels: np.ndarray) -> Path:
        """Stage (H, W) or (H, W, 3) uint8 RGB as `name` below the root. May be called by several threads."""
        path = self.root / name
        data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
        verb = self.staged.write(path, data)
        with self._lock:
            self._counts[name.split("/")[0]][verb] += 1
        return path

    def lines(self) -> list[str]:
        """A line for each kind of change in each folder."""
        return [
            f"{describe(verb, self.staged.dry_run)}: {self.root / folder} ({files} file{'s' * (files != 1)})"
            for folder, verbs in sorted(self._counts.items())
            for verb, files in sorted(verbs.items())
        ]


@dataclass
class _Entry:
    """An image's entry in the JSON without the id, its (K + 1,) pixels of each class, and what was done."""

    image: dict
    pixels: np.ndarray
    notes: list[str] = field(default_factory=list)


def _read(part: str, layout: SegmentationSet, source: Path, copies: Copies, pair: Pair) -> _Entry:
    width, height = size = image_size(pair.visible)
    files, notes = {"file_name": pair.visible}, []
    if layout.stacked:
        visible, infrared = _unstack(pair.visible)
        files["file_name"] = copies.put(f"{layout.copies}vis/{part}/{pair.stem}.png", visible)
        files["ir_file_name"] = copies.put(f"{layout.copies}ir/{part}/{pair.stem}.png", infrared)
    elif layout.infrared:
        files["ir_file_name"] = pair.infrared
        if (other := inspect_infrared(pair.infrared)) != size:
            sizes = f"{width}x{height} and {other[0]}x{other[1]}"
            raise UserError(
                f"{pair.visible} and {pair.infrared} differ in size ({sizes}): align them with "
                "datasets/align_pairs.py"
            )
        if layout.holes and (filled := _filled(pair)) is not None:
            files["ir_file_name"] = copies.put(f"{layout.copies}ir/{part}/{pair.stem}.png", filled)
            notes.append("infrared images with holes filled")
    if not layout.stacked and (rgb := _rgb(pair.visible, paired=bool(layout.infrared))) is not None:
        files["file_name"] = copies.put(f"{layout.copies}vis/{part}/{pair.stem}.png", rgb)
        notes.append("visible images copied as RGB")
    values, as_released = read_values(pair.label, size, layout)
    files["sem_seg_file_name"] = pair.label
    if not as_released:
        files["sem_seg_file_name"] = copies.put(f"{layout.copies}labels/{part}/{pair.stem}.png", values)
        notes.append("label maps copied as indices")
    image = {key: _name(path, source) for key, path in files.items()} | {"height": height, "width": width}
    if layout.timed and (time := time_of(pair.stem)):
        image["time"] = time
    counts = np.bincount(values.ravel(), minlength=256)
    counted = counts[list(layout.values)]
    return _Entry(image, np.append(counted, counts.sum() - counted.sum()), notes)


def _name(path: Path, source: Path) -> str:
    """A file's name in the JSON: relative to the images' root, unless it is a copy elsewhere."""
    return (path.relative_to(source) if path.is_relative_to(source) else path).as_posix()


def _unstack(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) visible and (H, W) infrared of a file with four channels."""
    image, bits = decode(str(path), "image")
    if (image.mode, bits) != ("RGBA", 8):
        kind = kind_of(image, bits)
        raise UserError(f"{path} has {kind}, not RGB and infrared in 4 channels of 8 bits: fetch it again")
    array = np.asarray(image)
    return array[..., :3], array[..., 3]


def _rgb(path: Path, paired: bool) -> np.ndarray | None:
    """(H, W, 3) RGB of a visible image that is not RGB in its file; None if it is."""
    with open_image(path, "visible image") as (image, bits):
        if (image.mode, bits) == ("RGB", 8):
            return None
        if bits > 8:
            raise UserError(f"visible image {path} has {kind_of(image, bits)}: save it as 8-bit RGB")
        if paired and len(image.getbands()) == 1 and image.mode != "P":
            raise UserError(f"visible image {path} is gray: are the folders of the two modalities swapped?")
        image.load()
    return np.asarray(turned(image).convert("RGB"))


def _filled(pair: Pair) -> np.ndarray | None:
    """(H, W) infrared with holes (0) filled by the nearest measured pixel; None if there is none to fill."""
    record = dict(zip(FILE_KEYS, (str(pair.visible), str(pair.infrared)), strict=True))
    infrared = cv2.cvtColor(read_pair(record, absent="visible")[1], cv2.COLOR_RGB2GRAY)
    holes = (infrared == 0).astype(np.uint8)
    if not holes.any() or holes.all():
        return None
    _, closest = cv2.distanceTransformWithLabels(holes, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    values = np.zeros(closest.max() + 1, np.uint8)
    values[closest[holes == 0]] = infrared[holes == 0]
    return values[closest]


def _column(images: list[dict], pixels: np.ndarray, layout: SegmentationSet) -> dict[str, int]:
    column = {"images": len(images)}
    if layout.timed:
        column |= {time: sum(i.get("time") == time for i in images) for time in TIMES}
    column |= dict(Counter(f"size {i['width']}x{i['height']}" for i in images).most_common())
    name, total = next(iter(layout.classes)), pixels.sum(1)
    if layout.first == 0:
        column[f"label maps wholly {name}"] = int((pixels[:, 0] == total).sum())
    column["label maps wholly ignored"] = int((pixels[:, -1] == total).sum())
    return column


def _table(columns: Mapping[str, Mapping[str, int]]) -> str:
    rows = dict.fromkeys(key for column in columns.values() for key, count in column.items() if count)
    table = [[key, *(column.get(key, 0) for column in columns.values())] for key in rows]
    return tabulate(table, headers=["", *columns])


def _remarks(layout: SegmentationSet, pixels: Mapping[str, np.ndarray]) -> list[str]:
    """Lines on parts that differ from the published ones, and on classes that a part cannot measure."""
    counts = {part: {"images": len(rows)} for part, rows in pixels.items()}
    published = {part: {"images": images} for part, (_, images) in layout.parts.items()}
    lines = list(count_warnings(counts, published))
    for part, rows in pixels.items():
        shown = rows.any(0)
        if absent := [name for i, name in enumerate(layout.classes) if not shown[i]]:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            lines.append(f"note: no image of {part} shows {', '.join(absent[:5])}{more}")
    return lines
