"""Layouts of semantic segmentation releases: where files lie, which classes there are, how labels look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES
from PIL import Image

from ...errors import UserError, nearest
from ..images import decode, image_size
from ..labels import IGNORE, read_labels
from .pairing import Pair, find_pairs

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Layout:
    """One release. Patterns are relative to its folder and hold one ``*``, the stem, and ``{part}``."""

    description: str
    parts: dict[str, tuple[str, int]]  # part: (its folder or list in the release, published number of images)
    visible: str
    infrared: str | None  # None: visible-only; the same as `visible`: the fourth channel of one file
    labels: str
    classes: dict[str, RGB]  # in the order of their values
    first: int = 0  # value of the first class
    ignored: tuple[int, ...] = ()  # values that are no class, besides 255
    listed: bool = False  # parts are ``<part>.txt``, stems one a line, not folders
    timed: bool = False  # stems end in D (day) or N (night)
    holes: bool = False  # infrared pixels of 0 were not measured

    @property
    def values(self) -> dict[int, str]:
        """Value in the label files -> class."""
        return dict(enumerate(self.classes, self.first))

    @property
    def stacked(self) -> bool:
        return self.visible == self.infrared

    @property
    def categories(self) -> list[dict]:
        """As the JSON lists them."""
        colors = self.classes.values()
        return [
            {"id": value, "name": name, "color": list(rgb)}
            for (value, name), rgb in zip(self.values.items(), colors, strict=True)
        ]


def voc_color(number: int) -> RGB:
    """Entry `number` of the PASCAL VOC color map, whose 256 colors all differ."""
    channels = [0, 0, 0]
    for bit in range(7, -1, -1):
        for c in range(3):
            channels[c] |= (number >> c & 1) << bit
        number >>= 3
    return tuple(channels)


_ROADS = {  # MSRS and MFNet; colors as published with MSRS (visualize.py)
    "unlabeled": (0, 0, 0),
    "car": (64, 0, 128),
    "person": (64, 64, 0),
    "bike": (0, 128, 192),
    "curve": (0, 0, 192),
    "car_stop": (128, 128, 0),
    "guardrail": (64, 64, 128),
    "color_cone": (192, 128, 128),
    "bump": (192, 64, 0),
}
# The authors list them (SegMiF, issue 10) in OpenCV's order, blue first.
_FMB = {
    "unlabeled": (0, 0, 0),
    "Road": (228, 228, 179),
    "Sidewalk": (133, 57, 181),
    "Building": (177, 162, 67),
    "Lamp": (50, 178, 200),
    "Sign": (199, 45, 132),
    "Vegetation": (84, 172, 66),
    "Sky": (79, 73, 179),
    "Person": (166, 99, 76),
    "Car": (253, 121, 66),
    "Truck": (91, 165, 137),
    "Bus": (152, 97, 155),
    "Motorcycle": (140, 153, 105),
    "Bicycle": (158, 215, 222),
    "Pole": (90, 113, 135),
}
_PST900 = {
    "background": (0, 0, 0),
    "fire extinguisher": (255, 0, 0),
    "backpack": (0, 255, 0),
    "hand drill": (0, 0, 255),
    "survivor": (255, 255, 255),
}
# detectron2 lists all synonyms; the first ones are distinct.
_ADE20K = {
    names.split(",")[0].strip(): voc_color(value) for value, names in enumerate(ADE20K_SEM_SEG_CATEGORIES, 1)
}

LAYOUTS = {
    "msrs": Layout(
        "MSRS pairs with label maps",
        {"train": ("train", 1083), "test": ("test", 361)},
        "{part}/vi/*.png",
        "{part}/ir/*.png",
        "{part}/Segmentation_labels/*.png",
        _ROADS,
        timed=True,
    ),
    "mfnet": Layout(
        "MFNet pairs with label maps",
        {"train": ("train.txt", 784), "val": ("val.txt", 392), "test": ("test.txt", 393)},
        "images/*.png",
        "images/*.png",
        "labels/*.png",
        _ROADS,
        listed=True,
        timed=True,
    ),
    "fmb": Layout(
        "FMB pairs with label maps (SegMiF)",
        {"train": ("train", 1220), "test": ("test", 280)},
        "{part}/Visible/*.png",
        "{part}/Infrared/*.png",
        "{part}/Label/*.png",
        _FMB,
    ),
    "pst900": Layout(
        "PST900 pairs with label maps",
        {"train": ("train", 597), "test": ("test", 297)},
        "{part}/rgb/*.png",
        "{part}/thermal/*.png",
        "{part}/labels/*.png",
        _PST900,
        holes=True,
    ),
    "ade20k": Layout(
        "ADE20K scene parsing (ADEChallengeData2016)",
        {"train": ("training", 20210), "val": ("validation", 2000)},
        "images/{part}/*.jpg",
        None,
        "annotations/{part}/*.png",
        _ADE20K,
        first=1,
        ignored=(0,),
    ),
}


def find_parts(layout: Layout, source: Path) -> tuple[dict[str, list[Pair]], dict[str, Counter]]:
    """Pairs of each part, in the order of their stems or their list, and what was left out and why, counted.

    Raises UserError where a folder is empty or missing, an image lacks its partner or its label map, or a
    list names what is not there.
    """
    parts, left_out = {}, {}
    for part, (folder, _) in layout.parts.items():
        patterns = [p and p.format(part=folder) for p in (layout.visible, layout.infrared, layout.labels)]
        pairs = find_pairs(source, patterns[0], patterns[1] or patterns[0], patterns[2])
        left_out[part] = Counter()
        if layout.listed:
            pairs = _listed(pairs, source / folder, left_out[part])
        else:
            alone = len(list(source.glob(patterns[2]))) - sum(pair.label is not None for pair in pairs)
            left_out[part]["skipped: label maps without image"] = alone
        if bare := [pair for pair in pairs if pair.label is None]:
            path = source / patterns[2].replace("*", bare[0].stem)
            more = f" ({len(bare)} such images)" if len(bare) > 1 else ""
            raise UserError(
                f"{bare[0].visible} has no label map {path}: copy it there, or move the image away{more}"
            )
        parts[part] = pairs
    return parts, left_out


def _listed(pairs: Sequence[Pair], path: Path, left_out: Counter) -> list[Pair]:
    """The pairs that the list `path` names, without the mirrored copies that MFNet's make_flip.py adds."""
    if not path.is_file():
        raise UserError(f"{path} is missing: it lists the images of its part, one a line")
    known = {pair.stem: pair for pair in pairs}
    names = [line.strip().removesuffix(".png") for line in path.read_text().splitlines() if line.strip()]
    stems = [name for name in dict.fromkeys(names) if not name.endswith("_flip")]
    mirrored = sum(name.endswith("_flip") for name in names)
    left_out["skipped: mirrored copies (_flip)"] = mirrored
    left_out["skipped: listed twice"] = len(names) - mirrored - len(stems)
    for stem in stems:
        if stem not in known:
            raise UserError(f"{path} lists {stem!r}, which has no image{nearest(stem, known)}")
    if not stems:
        raise UserError(f"{path} lists no image: fetch it again")
    return [known[stem] for stem in stems]


def read_values(path: Path, size: tuple[int, int], layout: Layout) -> tuple[np.ndarray, bool]:
    """The values of a label map of `size` (width, height), and whether its file can be read as it stands.

    Files are read strictly, see :func:`.labels.read_labels`. Three other kinds can be understood without
    doubt, and are to be written anew: class colors (RGB, or a palette that has no others, in another order),
    indices in three equal channels, and indices in gray of 2 or 4 bits.

    Returns:
        (H, W) uint8 values of classes, ignored ones, and 255.

    Raises:
        UserError: unreadable, another size, or values or colors that are no class.
    """
    if (found := image_size(path)) != size:
        raise UserError(
            f"{path} is {found[0]}x{found[1]} but its image {size[0]}x{size[1]}: fetch both again"
        )
    known = (*layout.values, *layout.ignored)
    record = {"sem_seg_file_name": str(path), "label_ids": {value: value for value in known}}
    image, bits = decode(str(path), "label map")
    colors = dict(zip(layout.classes.values(), layout.values, strict=True))
    refused = f"label map {path} has indices that its palette lacks: fetch it again"
    if not _orders_colors_otherwise(image, colors):
        try:
            return read_labels(record), True
        except UserError as error:
            refused = str(error)
    for values in _other_readings(image, bits, colors):
        if np.isin(values, (*known, IGNORE)).all():
            return values.astype(np.uint8), False
    if image.mode == "L":
        shades = Image.new("RGB", (len(colors), 1))
        shades.putdata(list(colors))
        if np.isin(np.asarray(image), np.asarray(shades.convert("L"))).all():
            refused += "; they look like gray shades of the class colors, which do not give the class back"
    raise UserError(refused)


def _orders_colors_otherwise(image: Image.Image, colors: dict[RGB, int]) -> bool:
    """Whether a palette consists of class colors alone and gives one in use to another class's index."""
    if image.mode != "P":
        return False
    flat = image.getpalette()
    entries = [tuple(flat[i : i + 3]) for i in range(0, len(flat), 3)]
    used = [index for index in np.unique(np.asarray(image)) if index < len(entries)]
    return all(e in colors for e in entries) and any(colors[entries[i]] != i for i in used)


def _other_readings(image: Image.Image, bits: int, colors: dict[RGB, int]) -> Iterator[np.ndarray]:
    """What the image may mean where it is no plain index map; -1 where a pixel then means nothing."""
    if image.mode == "L" and bits < 8:  # decoders spread 4 bits over 0..255
        yield np.asarray(image) // (255 // (2**bits - 1))
    if image.mode in ("RGB", "RGBA", "P"):
        rgb = np.asarray(image.convert("RGB"))
        codes, inverse = np.unique(rgb.astype(np.int32) @ (65536, 256, 1), return_inverse=True)
        values = [colors.get((c >> 16, c >> 8 & 255, c & 255), -1) for c in codes.tolist()]
        yield np.array(values)[inverse].reshape(rgb.shape[:2])
        if image.mode != "P" and not np.ptp(rgb, axis=2).any():
            yield rgb[..., 0]
