"""Data sets that a test writes and registers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

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


def salient_set(root: Path, make: Callable, pairs: int = 8, classes: int = 2) -> str:
    """A set of bright blobs, registered by `make`, see :func:`registering`; some show in one camera alone."""
    images = []
    for k in range(pairs):
        rng = np.random.default_rng(k)
        truth = np.zeros((32, 32), np.uint8)
        center, axes = rng.integers(10, 22, 2).tolist(), rng.integers(5, 9, 2).tolist()
        cv2.ellipse(truth, center, axes, 0, 0, 360, 1, -1)
        blob = 120 * truth + rng.integers(20, 60, truth.shape)
        files = {
            "vis": np.repeat(blob[..., None] if k % 3 else np.full((32, 32, 1), 40), 3, 2) + [0, 9, 18],
            "ir": blob if k % 3 != 1 else np.full((32, 32), 40),
            "labels": truth,
        }
        for folder, pixels in files.items():
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{k}.png")
        image = {"id": k + 1, "file_name": f"vis/{k}.png", "ir_file_name": f"ir/{k}.png"}
        images.append(image | {"sem_seg_file_name": f"labels/{k}.png", "height": 32, "width": 32})
    names = ("background", "salient object", "other")[:classes]
    categories = [{"id": i, "name": name, "color": [i, i, i]} for i, name in enumerate(names)]
    content = {"info": {"image_root": str(root)}, "images": images, "categories": categories}
    return make(content, name=f"salient_{classes}")
