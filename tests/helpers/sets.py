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


def own_data(file: str, folder: Path) -> list[str]:
    """Overrides that name the user's data where a config needs them: two classes, in files of `folder`."""
    if not file.startswith("configs/custom/"):
        return []
    task = Path(file).stem
    if task == "classification":
        (folder / "set.txt").write_text("a.png cat\nb.png dog\n")
        return [f"data.{part}={folder / 'set.txt'}" for part in ("train", "val")]
    image = {"id": 1, "file_name": "a.png", "ir_file_name": "b.png", "height": 30, "width": 40}
    image |= {"segmentation": {"sem_seg_file_name": "c.png"}, "pair_classification": {"category_id": 1}}.get(
        task, {}
    )
    classes = [{"id": i, "name": name, "color": [i, 0, 0]} for i, name in enumerate(("cat", "dog"), 1)]
    content = {"images": [image], "categories": classes}
    content |= {"annotations": []} if task == "detection" else {}
    (folder / "set.json").write_text(json.dumps(content))
    return [f"data.{part}={folder / 'set.json'}" for part in ("train", "val")]
