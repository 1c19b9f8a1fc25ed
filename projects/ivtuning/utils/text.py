"""Text: files as people's editors and scripts write them, JSON, and lines to show."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError

# UTF-32 before UTF-16, whose mark is the beginning of its own.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | os.PathLike, encoding: str = "utf-8") -> str:
    """The text of a file in UTF-8, or in any encoding that its byte-order mark announces.

    The mark is no part of the text, and all ends of lines become a newline.

    Args:
        encoding: what a file without mark is written in.

    Raises:
        UserError: the file is missing or unreadable, is no text, or has another encoding; the message names
            the line.
    """
    path = Path(path)
    try:
        if not path.is_file():
            reason = "is not a file" if path.exists() else "is missing"
            raise UserError(f"{path} {reason}: give a text file")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), encoding)
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = data[:start].count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: not {encoding.upper().removesuffix('-SIG')} (byte 0x{data[start]:02x}); "
            "save the file as UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"{path}:{line}: a zero byte, so this is no text file in UTF-8; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """Yield ("file:line", text without surrounding space) for each line of a list that is not empty.

    Raises:
        UserError: see :func:`read_text`.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line := line.strip():
            yield f"{path}:{number}", line


def whole_number(text: str) -> int | None:
    """The integer that `text` states in ASCII digits, as "7", "-7" or "7.0"; None for anything else."""
    match = re.fullmatch(r"([+-]?[0-9]{1,18})(\.0*)?", text.strip())
    return int(match[1]) if match else None


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file; see :func:`read_text` for its encoding.

    Raises:
        UserError: see :func:`read_text`; or the file is not valid JSON, and the message names the line.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno}); fix the file, or "
            "make it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not usable JSON ({error}); make the file again") from error


def one_line(text: object, most: int = 80) -> str:
    """`text` as pictures and pages can show it: a name may hold line breaks, or bytes that are no UTF-8.

    A text of more than `most` characters is shortened in the middle.
    """
    line = " ".join(str(text).encode("utf-8", "replace").decode("utf-8").split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= most else f"{line[: most // 2]}…{line[1 - most // 2 :]}"
