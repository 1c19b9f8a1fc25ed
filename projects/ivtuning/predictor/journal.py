"""What is finished of a folder of predictions, so that a stopped command goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from ..errors import UserError
from ..utils.text import read_text

NAME = "progress.jsonl"
Key = tuple[Any, str]


class Journal:
    """The file progress.jsonl: one line of the options, then one for each finished image.

    Nothing is written before the first image is finished. A last line that was cut off by a kill is dropped.

    Args:
        folder: where the file is, or will be.
        options: what the predictions depend on, as JSON holds it.

    Raises:
        UserError: the file belongs to other options, or is no such file.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]):
        self.path = folder / NAME
        self.options = json.loads(json.dumps(options))
        self._entries: dict[Key, dict] = {}
        self._file: TextIO | None = None
        self._size = 0
        if self.path.exists():
            self._read()

    def __contains__(self, record: Mapping[str, Any]) -> bool:
        return _key(record) in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, record: Mapping[str, Any]) -> dict | None:
        """What was noted of an image, or None."""
        return self._entries.get(_key(record))

    def add(self, entries: Iterable[dict]) -> None:
        """Note finished images, each with its "image_id" and "file_name"."""
        entries = list(entries)
        if self._file is None:
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (until `close`)
            self._file.truncate(self._size)
        lines = [{"options": self.options}] if not self._size and not self._entries else []
        for line in [*lines, *entries]:
            self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._entries |= {_key(entry): entry for entry in entries}

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _read(self) -> None:
        text = read_text(self.path)
        whole = text[: text.rfind("\n") + 1]
        self._size = len(whole.encode())
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            before = lines[0]["options"] if lines else self.options
            self._entries = {_key(entry): entry for entry in lines[1:]}
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{self.path} is no list of finished images: remove it, or choose another --output"
            ) from error
        for name in dict.fromkeys([*self.options, *before]):
            if before.get(name) != self.options.get(name):
                raise UserError(
                    f"{self.path.parent} holds predictions with {name}={before.get(name)!r:.100}, not "
                    f"{self.options.get(name)!r:.100}: give the same options, or another --output"
                )


def _key(record: Mapping[str, Any]) -> Key:
    return record["image_id"], record["file_name"]
