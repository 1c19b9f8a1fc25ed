"""HTML pages that stand alone, and the elements that they are made of."""

from .elements import Html, joined, picture, section, table, tag
from .page import embedded_json, read_part, write_page

__all__ = [
    "Html",
    "embedded_json",
    "joined",
    "picture",
    "read_part",
    "section",
    "table",
    "tag",
    "write_page",
]
