"""Reads XML files without trusting them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree.ElementTree import Element

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from ..errors import UserError
from .text import read_text

_DECLARATION = re.compile(rb"<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)[\"']")


def read_xml(path: str | os.PathLike) -> Element:
    """The root element of an XML file, its tags without namespaces and in lower case.

    The encoding is that of the byte-order mark, or the declared one if Python knows it, or UTF-8. Entities of
    the file's own, which can refer to other files or grow without limit, are refused.

    Raises:
        UserError: see :func:`.text.read_text`; or the file is no XML, and the message names the line.
    """
    text = read_text(path, _declared(path))
    try:
        root = fromstring(text)
    except ParseError as error:
        reason = str(error).split(":")[0]
        raise UserError(
            f"{path}:{error.position[0]}: not readable XML ({reason}): fix the file, or fetch it again"
        ) from error
    except DefusedXmlException as error:
        raise UserError(f"{path} defines entities ({type(error).__name__}): remove its DOCTYPE") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2].lower()
    return root


def _declared(path: str | os.PathLike) -> str:
    """The encoding that the XML declaration states, where the declaration itself can be read as ASCII."""
    try:
        if not Path(path).is_file():
            return "utf-8"  # read_text says what is wrong
        with Path(path).open("rb") as file:
            match = _DECLARATION.match(file.read(256))
    except OSError:
        return "utf-8"
    if not match:
        return "utf-8"
    name = match[1].decode()
    if name.lower().startswith(("utf-16", "utf16", "utf-32", "utf32", "ucs-2", "ucs-4")):
        return "utf-8"  # declared by mistake: its ASCII characters could not have been read
    try:
        b"x".decode(name)
    except (LookupError, UnicodeError) as error:
        raise UserError(f"{path}:1: unknown encoding {name!r}: save the file as UTF-8") from error
    return name
