"""Writes pages: style, script and data are inside, and nothing is fetched."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from string import Template

from ..utils.files import atomic_write


def read_part(name: str, module: str) -> str:
    """The content of a file beside a module: a page's HTML, style or script."""
    return Path(module).with_name(name).read_text(encoding="utf-8")


def write_page(path: Path, title: str, body: str, style: str = "", script: str = "") -> Path:
    """Write an HTML page in the style that all pages share; return `path`.

    Args:
        title: text of the title and of the heading.
        body: HTML below the heading.
        style: CSS beyond the shared one.
        script: JavaScript that runs when the body is there.
    """
    page = Template(read_part("page.html", __file__)).substitute(
        title=escape(title),
        style=read_part("page.css", __file__) + style,
        body=body,
        script=f"<script>\n{script}</script>" if script else "",
    )
    with atomic_write(path) as temp:
        temp.write_text(page, encoding="utf-8", errors="replace")
    return path


def embedded_json(name: str, data: object) -> str:
    """HTML that holds `data` as JSON, for scripts to read from the element with the id `name`."""
    # A "<" could end the element, whatever text it is in.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'
