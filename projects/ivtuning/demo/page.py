"""The demo's page: both tables, and links to the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

from ..utils.files import atomic_write

_STYLE = """
body{margin:0;padding:2rem;background:#16181d;color:#eef0f3;font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.4rem} h2{font-size:1.1rem;margin:2rem 0 .5rem} pre{overflow-x:auto;font-size:13px}
a{color:inherit} img{width:100%;max-width:1200px;height:auto;display:block;margin-top:.5rem;border-radius:6px}
"""


def write_page(output: Path, tables: Mapping[str, str], pictures: Mapping[str, Path]) -> Path:
    """Write index.html into `output`. All links are relative, so that the folder can be moved.

    Args:
        tables: text by title.
        pictures: for each title the page of its pictures, which has a contact_sheet.png beside it.

    Returns:
        Path of the page.
    """
    parts = []
    for title, text in tables.items():
        page = pictures[title].relative_to(output)
        link, sheet = quote(page.as_posix()), quote((page.parent / "contact_sheet.png").as_posix())
        parts.append(
            f"<h2>{escape(title)}</h2><pre>{escape(text)}</pre>"
            f'<a href="{link}">pictures of {escape(title)}<img src="{sheet}" alt="" loading="lazy"></a>'
        )
    with atomic_write(output / "index.html") as temp:
        temp.write_text(
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>ivtuning demo</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
            "<h1>One frozen trunk, pairs of images</h1>\n" + "\n".join(parts) + "\n</html>\n",
            encoding="utf-8",
        )
    return output / "index.html"
