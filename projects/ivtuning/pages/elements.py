"""Elements of pages. Whatever comes from data is escaped; only `Html` goes into the page as it is."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from ..utils.text import one_line

WIDTH = 1200  # pixels of the widest picture


class Html(str):
    """Text that is HTML already."""


def tag(name: str, *content: object, **attributes: object) -> Html:
    """An element with its content; an attribute's trailing underscore is dropped, as in ``class_``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{given}>{joined(*content)}</{name}>")


def joined(*content: object) -> Html:
    """Parts one after the other; text is escaped."""
    return Html("".join(c if isinstance(c, Html) else escape(one_line(c, 2000)) for c in content))


def section(title: str, *content: object) -> Html:
    """A part of the page with a heading; empty if it has no content."""
    return tag("section", tag("h2", title), *content) if content else Html()


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> Html:
    """A table whose first column names the rows. Numbers are right-aligned, ready cells stay as they are."""
    cells = [tag("th", cell, scope="col") for cell in head]
    lines = [tag("tr", *cells)]
    for name, *values in rows:
        ready = [v if isinstance(v, Html) and v.startswith("<td") else tag("td", v) for v in values]
        lines.append(tag("tr", tag("th", name, scope="row"), *ready))
    return tag("div", tag("table", *lines), class_="scroll")


def picture(image: np.ndarray, alt: str) -> Html:
    """An image (H, W, 3) or (H, W) uint8 inside the page, as JPEG of at most WIDTH pixels."""
    data = Image.fromarray(image)
    if data.width > WIDTH:
        data = data.resize((WIDTH, round(data.height * WIDTH / data.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    data.save(buffer, "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    # No closing tag: an image has no content.
    return Html(
        f'<img src="{source}" alt="{escape(one_line(alt))}" width="{data.width}" height="{data.height}">'
    )
