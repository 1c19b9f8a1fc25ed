"""The demo's page: a table of each task, and links to the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from ..pages import Html, joined, tag, write_page
from .rows import Table

_STYLE = Path(__file__).with_name("page.css")


def write_demo_page(output: Path, tables: Mapping[str, Table], pictures: Mapping[str, Path]) -> Path:
    """Write index.html into `output`. All links are relative, so that the folder can be moved.

    Args:
        tables: by title.
        pictures: for each title the page of its pictures, which has a contact_sheet.png beside it.

    Returns:
        Path of the page.
    """
    parts = []
    for title, table in tables.items():
        page = pictures[title].relative_to(output)
        link, sheet = quote(page.as_posix()), quote((page.parent / "contact_sheet.png").as_posix())
        image = Html(f'<img src="{sheet}" alt="" loading="lazy">')
        parts += [tag("h2", title), table.html(), tag("a", f"pictures of {title}", image, href=link)]
    title = "One frozen trunk, pairs of images"
    return write_page(output / "index.html", title, joined(*parts), _STYLE.read_text(encoding="utf-8"))
