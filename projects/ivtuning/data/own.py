"""Sets that are named by their files instead of a registered name.

Such a name is the path of a JSON (boxes, label maps or classes of pairs), or for classification of a folder
with one folder per class or of a list. The set is registered under its absolute path, so that a name that was
saved means the same in another working directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from detectron2.data import DatasetCatalog

from ..utils.text import read_text
from .catalog import ChosenRoot, home_of, kind_of, metadata, set_facts, unregister
from .datasets.classification import register_own
from .datasets.classified_pairs import register_classified_pairs
from .datasets.detection import register_pairs
from .datasets.segmentation import register_segmentation


def is_path(name: str) -> bool:
    """Whether the name of a set is a path: it has a folder, or the suffix of a JSON or a list."""
    return "/" in name or os.sep in name or name.lower().endswith((".json", ".txt"))


def absolute(path: str | os.PathLike) -> str:
    """The absolute path that `path` means in the working directory; ``~`` is the user's home."""
    return os.path.abspath(os.path.expanduser(path))


def public_name(names: str | Iterable[str]) -> str:
    """What one or several sets are called where others read it: a path loses the folders of this machine."""
    names = [names] if isinstance(names, str) else names
    return ", ".join(os.path.basename(name.rstrip("/")) if is_path(name) else name for name in names)


def find_set(name: str) -> str:
    """The registered name of a set; one that is named by its path is registered if it is not yet."""
    if is_path(name) and (path := absolute(name)) in DatasetCatalog.list():
        return path
    return register_set(name)


def register_set(name: str, images: str | os.PathLike | None = None, training: str | None = None) -> str:
    """Register a set that is named by its path; one that was registered by another name stays as it is.

    Args:
        images: the folder that paths of images begin in. None: a JSON's ``info.image_root``, else the folder
            of the JSON or the list; the folder above where the JSON is in ``annotations/``, ``segmentation/``
            or ``classification/``.
        training: of a set for classification, the path of the set that states its classes; by default its
            own.

    Returns:
        Its registered name. The files are read on first use, and missing ones are reported then.

    Raises:
        UserError: `name` is the path of a folder, and `training` that of a list, or the reverse.
    """
    if not is_path(name) or (name in DatasetCatalog.list() and not os.path.isabs(name)):
        return name
    path = absolute(name)
    if not path.lower().endswith(".json"):
        stated_by = training if training and is_path(training) else path
        register_own(path, path, None if images is None else absolute(images), absolute(stated_by))
        return path
    modified = os.stat(path).st_mtime_ns if os.path.isfile(path) else None
    if path in DatasetCatalog.list() and metadata(path).get("modified") != modified:
        unregister(path)  # with the classes that it had
    root = home_of(path) if images is None else ChosenRoot(absolute(images))
    register_json(path, path, root)
    set_facts(path, modified=modified)
    return path


def register_json(name: str, json_file: str, image_root: str | Path) -> None:
    """Register a JSON of boxes, label maps or classes of pairs, whichever it has, to be read on first use."""
    kind = kind_of(read_text(json_file)) if os.path.isfile(json_file) else "boxes"
    register = {"label maps": register_segmentation, "classes": register_classified_pairs}
    register.get(kind, register_pairs)(name, json_file, image_root)
