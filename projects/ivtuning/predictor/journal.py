"""What is finished of a folder of predictions, so that a stopped command goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError

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
        # Where the line of an image begins: the lines themselves may be more than the memory holds.
        self._places: dict[Key, int] = {}
        self._file: BinaryIO | None = None
        self._size = 0
        if self.path.exists():
            self._read()

    def __contains__(self, record: Mapping[str, Any]) -> bool:
        return _key(record) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def entry(self, record: Mapping[str, Any]) -> dict | None:
        """What was noted of an image, or None."""
        place = self._places.get(_key(record))
        if place is None:
            return None
        file = self._open()
        file.seek(place)
        return json.loads(file.readline())

    def add(self, entries: Iterable[dict]) -> None:
        """Note finished images, each with its "image_id" and "file_name"."""
        file = self._open()
        file.seek(0, os.SEEK_END)
        if not self._size:
            self._write(file, {"options": self.options})
        for entry in entries:
            self._places[_key(entry)] = self._write(file, entry)
        file.flush()
        os.fsync(file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> BinaryIO:
        """The file for reading and appending, without a line that was cut off."""
        if self._file is None:
            self._file = open(self.path, "a+b")  # noqa: SIM115 (until `close`)
            self._file.truncate(self._size)
        return self._file

    def _write(self, file: BinaryIO, entry: dict) -> int:
        """Append a line; returns where it begins."""
        line = f"{json.dumps(entry)}\n".encode()
        place, self._size = self._size, self._size + len(line)
        file.write(line)
        return place

    def _read(self) -> None:
        before = self.options
        try:
            with open(self.path, "rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    entry = json.loads(line)
                    if self._size:
                        self._places[_key(entry)] = self._size
                    else:
                        before = {**entry["options"]}
                    self._size += len(line)
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
