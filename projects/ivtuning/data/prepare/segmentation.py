"""Turn a segmentation release into ``segmentation/<part>.json``, and into copies of the files that need one.

Files are read where they lie. Copied into the set's folder, as PNG, are only

- ``vis/`` and ``ir/``: the two halves of files with four channels; visible images that are not 8-bit RGB;
  infrared images with holes, filled;
- ``labels/``: label maps that are no plain index images, as 8-bit gray.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from tabulate import tabulate

from ...errors import UserError
from ...utils.progress import track
from ..images import decode, image_size, kind_of, read_pair
from ..labels import class_table
from .coco import write_json
from .pairing import Pair
from .segmentation_layouts import Layout, find_parts, read_values

TIMES = {"D": "day", "N": "night"}


def prepare(layout: Layout, source: Path, output: Path, dry_run: bool = False) -> dict[str, dict]:
    """Check a release and write its set: JSON and copies appear all at once, or nothing does.

    Prints what was found (images, pixels of each class, what was left out or copied) and what was written.

    Returns:
        The content of each part's JSON.

    Raises:
        UserError: see :func:`.find_parts` and :func:`.read_values`; sizes that differ; an image of the wrong
            kind; a place that cannot be written.
    """
    source, output = Path(os.path.abspath(source)), Path(os.path.abspath(output))
    parts, left_out = find_parts(layout, source)
    info = {"description": layout.description}
    if source != output:
        info["image_root"] = str(source)
    contents, columns, pixels = {}, {}, {}
    copies = Copies(output, dry_run)
    try:
        for part, pairs in parts.items():
            with ThreadPoolExecutor() as pool:
                read = pool.map(partial(_read, part, layout, source, copies), pairs)
                found = list(track(read, part, total=len(pairs)))
            images = [{"id": number} | one.image for number, one in enumerate(found, 1)]
            pixels[part] = np.stack([one.pixels for one in found])
            columns[part] = _column(images, pixels[part], layout) | left_out[part]
            columns[part] |= Counter(note for one in found for note in one.notes)
            contents[part] = {"info": info | {"split": part}, "images": images}
            contents[part] |= {"categories": layout.categories, "ignored": list(layout.ignored)}
        print(_table(columns), class_table(list(layout.classes), pixels), sep="\n\n")
        for line in _notes(layout, pixels):
            print(line)
        lines = copies.commit()
        files = {output / "segmentation" / f"{part}.json": content for part, content in contents.items()}
        print(*lines, *write_json(files, dry_run), sep="\n")
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            place = f"cannot write {error.filename}: choose a writable place with --output"
            raise UserError(place) from error
        raise
    finally:
        copies.close()
    return contents


class Copies:
    """Files on their way into a set's folder: they wait in a temporary folder beside it for `commit`."""

    def __init__(self, root: Path, dry_run: bool):
        self.root, self.dry_run = root, dry_run
        self._waiting: dict[Path, Path] = {}
        self._folder: Path | None = None
        self._count: dict[str, Counter] = defaultdict(Counter)
        self._lock = threading.Lock()

    def put(self, name: str, pixels: np.ndarray) -> Path:
        """Have (H, W) or (H, W, 3) uint8 RGB written to `name` below the root; for use by several threads."""
        path = self.root / name
        data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
        exists = path.is_file()
        same = exists and path.read_bytes() == data
        with self._lock:
            self._count[name.split("/")[0]]["unchanged" if same else "replace" if exists else "create"] += 1
            if same or self.dry_run:
                return path
            if self._folder is None:
                near = next(p for p in (self.root, *self.root.parents) if p.is_dir())
                self._folder = Path(tempfile.mkdtemp(prefix=".prepare-", dir=near))
            waiting = self._waiting[path] = self._folder / str(len(self._waiting))
        waiting.write_bytes(data)
        return path

    def commit(self) -> list[str]:
        """Put all files in their places, and return a line for each kind of change in each folder."""
        for path, waiting in self._waiting.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(waiting, path)
        lines = []
        for folder, verbs in sorted(self._count.items()):
            for verb, files in sorted(verbs.items()):
                would = verb if verb == "unchanged" else f"would {verb}" if self.dry_run else f"{verb}d"
                lines.append(f"{would}: {self.root / folder} ({files} file{'s' * (files != 1)})")
        return lines

    def close(self) -> None:
        """Remove what still waits."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@dataclass
class _Read:
    """One image: its entry in the JSON without the id, (K + 1,) pixels of each class, what was done to it."""

    image: dict
    pixels: np.ndarray
    notes: list[str] = field(default_factory=list)


def _read(part: str, layout: Layout, source: Path, copies: Copies, pair: Pair) -> _Read:
    width, height = size = image_size(pair.visible)
    files, notes = {"file_name": pair.visible}, []
    if layout.stacked:
        visible, infrared = _unstack(pair.visible)
        files["file_name"] = copies.put(f"vis/{part}/{pair.stem}.png", visible)
        files["ir_file_name"] = copies.put(f"ir/{part}/{pair.stem}.png", infrared)
    elif layout.infrared:
        files["ir_file_name"] = pair.infrared
        if (other := image_size(pair.infrared)) != size:
            sizes = f"{width}x{height} and {other[0]}x{other[1]}"
            raise UserError(f"{pair.visible} and {pair.infrared} differ in size ({sizes}): align them first")
        if layout.holes and (filled := _filled(pair)) is not None:
            files["ir_file_name"] = copies.put(f"ir/{part}/{pair.stem}.png", filled)
            notes.append("infrared images with holes filled")
    if not layout.stacked and (rgb := _rgb(pair.visible, paired=bool(layout.infrared))) is not None:
        files["file_name"] = copies.put(f"vis/{part}/{pair.stem}.png", rgb)
        notes.append("visible images copied as RGB")
    values, as_released = read_values(pair.label, size, layout)
    files["sem_seg_file_name"] = pair.label
    if not as_released:
        files["sem_seg_file_name"] = copies.put(f"labels/{part}/{pair.stem}.png", values)
        notes.append("label maps copied as indices")
    image = {key: _name(path, source) for key, path in files.items()} | {"height": height, "width": width}
    if layout.timed and pair.stem[-1:] in TIMES:
        image["time"] = TIMES[pair.stem[-1]]
    counts = np.bincount(values.ravel(), minlength=256)
    counted = counts[list(layout.values)]
    return _Read(image, np.append(counted, counts.sum() - counted.sum()), notes)


def _name(path: Path, source: Path) -> str:
    """As the JSON has it: relative to the images' root, unless it is a copy that lies elsewhere."""
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
    """(H, W, 3) of a visible image that is not RGB in its file; None where it is."""
    with Image.open(path) as image:
        if image.mode == "RGB":
            return None
        bands = len(image.getbands())
    if paired and bands == 1 and image.mode != "P":
        raise UserError(f"visible image {path} is gray: are the folders of the two modalities swapped?")
    image, _ = decode(str(path), "visible image")
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _filled(pair: Pair) -> np.ndarray | None:
    """(H, W) infrared whose holes (0) have the value of the nearest measured pixel; None where all stay."""
    record = {"file_name": str(pair.visible), "ir_file_name": str(pair.infrared)}
    infrared = cv2.cvtColor(read_pair(record, absent="visible")[1], cv2.COLOR_RGB2GRAY)
    holes = (infrared == 0).astype(np.uint8)
    if not holes.any() or holes.all():
        return None
    _, nearest = cv2.distanceTransformWithLabels(holes, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    values = np.zeros(nearest.max() + 1, np.uint8)
    values[nearest[holes == 0]] = infrared[holes == 0]
    return values[nearest]


def _column(images: list[dict], pixels: np.ndarray, layout: Layout) -> dict[str, int]:
    column = {"images": len(images)}
    if layout.timed:
        column |= {time: sum(i.get("time") == time for i in images) for time in TIMES.values()}
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


def _notes(layout: Layout, pixels: Mapping[str, np.ndarray]) -> list[str]:
    """Where the copy differs from what was published, and classes that a part cannot measure."""
    notes = []
    for part, (_, published) in layout.parts.items():
        if (found := len(pixels[part])) != published:
            notes.append(f"note: {part} has {found} images; the published set has {published}")
        shown = pixels[part].any(0)
        if absent := [name for i, name in enumerate(layout.classes) if not shown[i]]:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            notes.append(f"note: no image of {part} shows {', '.join(absent[:5])}{more}")
    return notes
