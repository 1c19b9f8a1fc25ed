"""Data sets that a test writes and registers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from ivtuning.data.catalog import unregister


@contextlib.contextmanager
def registering(root: Path, folder: str, register: Callable) -> Iterator[Callable]:
    """A function (content, name, **options) -> name that registers a JSON as a set below `root`.

    The JSON is ``<root>/<name>/<folder>/train.json``; `register` is called with the name, its path, the set's
    folder and the options. All sets are unregistered at the end.
    """
    names = set()

    def make(content: dict | str, name: str = "some_set", **options) -> str:
        path = root / name / folder / "train.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        register(name, path, path.parent.parent, **options)
        names.add(name)
        return name

    yield make
    for name in names:
        unregister(name)
