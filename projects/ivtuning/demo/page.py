"""The demo's page: a table of each task, and links to the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

from ..visualization.pages import write_page
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
        parts.append(
            f"<h2>{escape(title)}</h2>\n{table.html()}"
            f'<a href="{link}">pictures of {escape(title)}<img src="{sheet}" alt="" loading="lazy"></a>'
        )
    title = "One frozen trunk, pairs of images"
    return write_page(output / "index.html", title, "\n".join(parts), _STYLE.read_text(encoding="utf-8"))
