"""Captioned panels in rows above a legend, and the colors of classes: what all pictures share."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.modalities import MODALITIES
from ..utils.files import atomic_write
from ..utils.text import one_line

MIN_PANEL = 512  # narrower images are enlarged to at least this many pixels, or labels would cover them
GAP = 4
PAPER, INK, FAINT = (22, 24, 29), (238, 240, 243), (150, 156, 166)
# Bright enough for dark infrared, far enough apart for the common color-vision deficiencies.
COLORS = (
    (255, 176, 0), (86, 180, 233), (240, 84, 120), (0, 200, 140), (204, 121, 255),
    (240, 228, 66), (255, 120, 40), (90, 120, 255), (160, 230, 90), (255, 150, 200),
)  # fmt: skip
RGB = tuple[int, int, int]


@dataclass
class Panel:
    """One image of a picture, with `name` above it on the left and `title` on the right."""

    image: Image.Image
    name: str
    title: str = ""


@dataclass
class Drawing:
    """What :func:`lay_out` makes a picture of: rows of panels, and the legend below them."""

    rows: list[list[Panel]]
    legend: list[tuple[str, RGB]] = field(default_factory=list)
    remark: str = ""
    compared: int = -1  # the row that shows best what the two images have in common

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return lay_out(self.rows, self.legend, self.remark)

    def sides(self) -> dict[str, Image.Image]:
        """The drawn visible and infrared image of one row, by name; none unless it has both."""
        sides = {panel.name: panel.image for panel in self.rows[self.compared]}
        both = {name: sides[name] for name in MODALITIES if name in sides}
        return both if len(both) == len(MODALITIES) else {}


def enlargement(width: int) -> int:
    """The factor by which an image of `width` pixels is enlarged for its panel."""
    return max(1, -(-MIN_PANEL // width))


def class_name(category: int, classes: Sequence[str]) -> str:
    """What pictures call a contiguous class id; a number where `classes` has no name for it."""
    return one_line(classes[category]) if category < len(classes) else f"class {category}"


def caption_font(width: int) -> ImageFont.FreeTypeFont:
    """The font for panels of `width` pixels."""
    return ImageFont.load_default(max(14, round(width / 36)))


def lay_out(
    rows: Sequence[Sequence[Panel]], legend: Sequence[tuple[str, RGB]] = (), remark: str = ""
) -> np.ndarray:
    """Arrange captioned panels of one size in rows, above a legend of as many lines as it needs.

    Args:
        legend: (name, RGB) of each entry; empty: no legend.
        remark: text at the end of the legend.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    size = rows[0][0].image.size
    font = caption_font(size[0])
    strip = round(font.size * 1.9)
    width = max(map(len, rows)) * (size[0] + GAP) - GAP
    entries = _legend(legend, remark, width, font) if legend else []
    lines = 1 + max((line for line, *_ in entries), default=-1)
    canvas = Image.new("RGB", (width, len(rows) * (strip + size[1]) + lines * strip), PAPER)
    pen = ImageDraw.Draw(canvas)
    for r, row in enumerate(rows):
        top = r * (strip + size[1])
        for c, panel in enumerate(row):
            left = c * (size[0] + GAP)
            pen.text((left + font.size * 0.6, top + strip / 2), panel.name, INK, font, anchor="lm")
            right = left + size[0] - font.size * 0.6
            pen.text((right, top + strip / 2), panel.title, FAINT, font, anchor="rm")
            canvas.paste(panel.image, (left, top + strip))
    side = font.size * 0.8
    for line, x, name, rgb in entries:
        middle = canvas.height - strip * (lines - line - 0.5)
        if rgb is None:
            pen.text((x, middle), name, FAINT, font, anchor="lm")
            continue
        # A dark swatch needs an edge to be seen at all.
        edge = FAINT if max(rgb) < 100 else None
        pen.rectangle((x, middle - side / 2, x + side, middle + side / 2), fill=rgb, outline=edge)
        pen.text((x + side * 1.5, middle), name, INK, font, anchor="lm")
    return np.asarray(canvas)


def _legend(legend, remark: str, width: int, font) -> list[tuple[int, float, str, RGB | None]]:
    """(line, x, text, RGB) of each entry, in lines of `width` pixels; RGB is None for the remark."""
    entries, line, first, side = [], 0, font.size * 0.6, font.size * 0.8
    x = first
    for name, rgb in [*legend, *([(remark, None)] if remark else [])]:
        wide = side * 3 + font.getlength(name)
        if x > first and x + wide - side * 1.5 > width:
            line, x = line + 1, first
        entries.append((line, x, name, rgb))
        x += wide
    return entries


def color(category: int) -> RGB:
    """The RGB color of a contiguous class id."""
    if category < len(COLORS):
        return COLORS[category]
    hue = category * 0.618034 % 1  # golden ratio: neighbors lie far apart
    rgb = colorsys.hsv_to_rgb(hue, 0.55 + 0.3 * (category % 2), 1.0)
    red, green, blue = (round(255 * v) for v in rgb)
    return red, green, blue


def picture_stems(records: Sequence[Mapping]) -> list[str]:
    """Names for the pictures of dataset dicts, without suffix: the stems of their files, each one once."""
    stems: dict[str, None] = {}
    for record in records:
        stem = Path(record["file_name"]).stem
        if not stem.isprintable() or len(stem.encode()) > 200:  # no name for a file everywhere
            stem = one_line(stem, 60)
        while stem in stems:  # a file of the same name in another folder
            stem = f"{stem}_{one_line(record['image_id'], 60).replace('/', '_')}"
        stems[stem] = None
    return list(stems)


def save_image(image: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) or (H, W) uint8 to `path`, in the format that its suffix names; never half a file."""
    kind = {".jpg": "JPEG"}.get(path.suffix, "PNG")
    with atomic_write(path) as temp:
        # PNG's default compression takes three times as long for 2 % of the size.
        Image.fromarray(image).save(temp, kind, compress_level=4, quality=85)
