"""Contact sheets: an HTML page with thumbnails of many pictures and, optionally, one image of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..utils.files import atomic_write
from .panels import FAINT, INK, PAPER, one_line, save_image

THUMB = 640  # width of a thumbnail in pixels
GRID = 24  # most pictures in contact_sheet.png

_STYLE = """
body{margin:0;padding:2rem;background:#16181d;color:#eef0f3;font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.4rem;margin:0 0 1rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:0 0 1.5rem}
dt{color:#969ca6} dd{margin:0;overflow-wrap:anywhere}
main{display:grid;gap:1.2rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr))}
figure{margin:0;background:#21242b;border-radius:6px;overflow:hidden}
img{width:100%;height:auto;display:block}
figcaption{display:flex;justify-content:space-between;gap:1rem;padding:.5rem .8rem} small{color:#969ca6}
a{color:inherit}
"""


@dataclass
class Picture:
    """One entry of a sheet. A count is None if nothing of its kind was drawn."""

    file: str  # name of the picture, relative to the sheet's folder
    title: str
    truth: int | None = None
    predictions: int | None = None
    score: str = ""  # of the predictions, in words

    @property
    def note(self) -> str:
        parts = [(self.truth, "in ground truth"), (self.predictions, "predicted")]
        counts = ", ".join(f"{n} {what}" for n, what in parts if n is not None)
        return ", ".join(filter(None, (counts, self.score)))


def write_contact_sheet(
    folder: str | os.PathLike,
    pictures: Sequence[Picture],
    title: str,
    facts: Mapping[str, object] | None = None,
    grid: bool = False,
) -> Path:
    """Write ``index.html`` and ``thumbs/*.jpg`` for `pictures`, whose files are in `folder` already.

    All links are relative, so the folder can be moved or served as it is.

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
        cards.append(
            f'<figure><a href="{_link(picture.file)}"><img src="{_link(name)}" alt="{escape(picture.title)}"'
            f' width="{THUMB}" height="{tall}" loading="lazy"></a>'
            f"<figcaption>{escape(picture.title)}<small>{escape(picture.note)}</small></figcaption></figure>"
        )
    lines = {"pictures": len(pictures)}
    for key, label in (("truth", "objects in ground truth"), ("predictions", "objects predicted")):
        counts = [getattr(p, key) for p in pictures if getattr(p, key) is not None]
        lines |= {label: sum(counts)} if counts else {}
    lines |= {k: v for k, v in (facts or {}).items() if v is not None}
    listed = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in lines.items())
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1><dl>{listed}</dl><main>\n" + "\n".join(cards) + "\n</main></html>\n"
    )
    if thumbs:
        save_image(_grid(thumbs, pictures), folder / "contact_sheet.png")
    with atomic_write(folder / "index.html") as temp:
        temp.write_text(page, encoding="utf-8", errors="replace")
    return folder / "index.html"


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
