"""Contact sheets: an HTML page that compares, filters and sorts many pictures, or one image of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..pages import embedded_json, read_part, write_page
from ..utils.text import one_line
from .panels import FAINT, INK, PAPER, save_image
from .scores import Outcomes

THUMB = 640  # width of a thumbnail in pixels
GRID = 24  # most pictures in contact_sheet.png


@dataclass
class Picture:
    """One entry of a sheet. A count is None if nothing of its kind was drawn."""

    file: str  # name of the picture, relative to the sheet's folder
    title: str
    truth: int | None = None
    predictions: int | None = None
    remark: str = ""  # about the predictions
    score: float | None = None  # by which pictures are sorted, on 0..100; higher is better
    time: str | None = None  # "day" or "night"
    classes: Mapping[str, Outcomes] = field(default_factory=dict)  # of all that the picture shows, by name
    sides: Mapping[str, str] = field(default_factory=dict)  # files of the two drawn images, by modality

    @property
    def note(self) -> str:
        parts = [(self.truth, "in ground truth"), (self.predictions, "predicted")]
        counts = ", ".join(f"{n} {what}" for n, what in parts if n is not None)
        return ", ".join(filter(None, (counts, self.remark)))


def write_contact_sheet(
    folder: str | os.PathLike,
    pictures: Sequence[Picture],
    title: str,
    facts: Mapping[str, object] | None = None,
    grid: bool = False,
) -> Path:
    """Write ``index.html`` and ``thumbs/*.jpg`` for `pictures`, whose files are in `folder` already.

    All links are relative, so the folder can be moved or served as it is, and the page loads nothing else.
    Without JavaScript it shows all pictures in order.

    Args:
        facts: lines of the header, such as the names of the config and the weights.
        grid: also write ``contact_sheet.png`` with the first 24 thumbnails.

    Returns:
        Path of the page.
    """
    folder = Path(folder)
    (folder / "thumbs").mkdir(parents=True, exist_ok=True)
    cards, thumbs = [], []
    for picture in pictures:
        with Image.open(folder / picture.file) as image:
            tall = max(1, round(image.height * THUMB / image.width))
            thumb = image.convert("RGB").resize((THUMB, tall), Image.Resampling.LANCZOS)
        name = f"thumbs/{Path(picture.file).stem}.jpg"
        save_image(np.asarray(thumb), folder / name)
        if grid and len(thumbs) < GRID:
            thumbs.append(thumb)
        cards.append(_card(folder, picture, name, tall))
    lines = {"pictures": len(pictures)}
    for key, label in (("truth", "objects in ground truth"), ("predictions", "objects predicted")):
        counts = [getattr(p, key) for p in pictures if getattr(p, key) is not None]
        lines |= {label: sum(counts)} if counts else {}
    lines |= {k: v for k, v in (facts or {}).items() if v is not None}
    listed = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in lines.items())
    data = [
        {
            "score": p.score,
            "time": p.time,
            "classes": {name: [o.missed, o.alarms] for name, o in p.classes.items()},
        }
        for p in pictures
    ]
    body = f"<dl>{listed}</dl>\n<main>\n{''.join(cards)}</main>\n{embedded_json('pictures', data)}"
    if thumbs:
        save_image(_grid(thumbs, pictures), folder / "contact_sheet.png")
    style, script = (read_part(f"contact_sheet.{kind}", __file__) for kind in ("css", "js"))
    return write_page(folder / "index.html", title, body, style, script)


def _card(folder: Path, picture: Picture, thumb: str, tall: int) -> str:
    """The HTML of one picture: its two images, one over the other, above the whole of it."""
    title = escape(picture.title)
    compared = ""
    for name, file in picture.sides.items():
        with Image.open(folder / file) as image:
            size = f'width="{image.width}" height="{image.height}"'
        compared += f'<img class="{name}" src="{_link(file)}" alt="{name}" {size} loading="lazy">'
    if compared:
        compared = (
            f'<div class="compare">{compared}<input type="range" min="0" max="100" value="50"'
            f' aria-label="visible or infrared image of {title}"></div>\n'
        )
    return (
        f"<figure>\n{compared}"
        f'<a href="{_link(picture.file)}"><img src="{_link(thumb)}" alt="{title}" width="{THUMB}"'
        f' height="{tall}" loading="lazy"></a>\n'
        f"<figcaption>{title}<small>{escape(picture.note)}</small></figcaption>\n</figure>\n"
    )


def _link(file: str) -> str:
    return quote(os.fsencode(file))


def _grid(thumbs: Sequence[Image.Image], pictures: Sequence[Picture]) -> np.ndarray:
    """The thumbnails with their titles, in up to three columns; (H, W, 3) uint8."""
    columns, gap, font = min(3, len(thumbs)), 12, ImageFont.load_default(16)
    cell_wide, cell_tall = THUMB + gap, max(t.height for t in thumbs) + 28 + gap
    rows = -(-len(thumbs) // columns)
    sheet = Image.new("RGB", (columns * cell_wide + gap, rows * cell_tall + gap), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (thumb, picture) in enumerate(zip(thumbs, pictures, strict=False)):
        x, y = gap + i % columns * cell_wide, gap + i // columns * cell_tall
        title = _cut(one_line(picture.title), THUMB, pen, font)
        pen.text((x, y + 12), title, INK, font, anchor="lm")
        room = THUMB - pen.textlength(title, font) - 2 * gap
        pen.text((x + THUMB, y + 12), _cut(one_line(picture.note), room, pen, font), FAINT, font, anchor="rm")
        sheet.paste(thumb, (x, y + 28))
    return np.asarray(sheet)


def _cut(text: str, room: float, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """`text`, shortened to `room` pixels; the page has it in full."""
    if pen.textlength(text, font) <= room:
        return text
    while text and pen.textlength(text + "…", font) > room:
        text = text[:-1]
    return text + "…"
