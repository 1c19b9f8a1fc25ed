"""Sets that are named by their files instead of a registered name.

Such a name is the path of a JSON (boxes or label maps of pairs), or for classification of a folder with one
folder per class or of a list. The set is registered under its absolute path, so that a name that was saved
means the same in another working directory.
"""

from __future__ import annotations

import os

from detectron2.data import DatasetCatalog

from ..utils.text import read_text
from .catalog import ChosenRoot, home_of
from .datasets.classification import register_own
from .datasets.detection import register_pairs
from .datasets.segmentation import register_segmentation


def is_path(name: str) -> bool:
    """Whether the name of a set is a path: it has a folder, or the suffix of a JSON or a list."""
    return "/" in name or os.sep in name or name.lower().endswith((".json", ".txt"))


def find_set(name: str, images: str | os.PathLike | None = None, training: str | None = None) -> str:
    """The registered name of a set. One that is named by its path is registered by that.

    Args:
        images: the folder that paths of images begin in. None: a JSON's ``info.image_root``, else the folder
            of the JSON or the list; the folder above where the JSON is in ``annotations/`` or
            ``segmentation/``. A set that is registered by its path keeps the folder that it has.
        training: of a set for classification, the path of the set that states its classes; by default its
            own.

    Returns:
        `name`, or the absolute path. The files are read on first use, and missing ones are reported then.
    """
    known = DatasetCatalog.list()
    if not is_path(name) or (name in known and not os.path.isabs(name)):
        return name
    path = absolute(name)
    if images is None and path in known:
        return path
    root = home_of(path) if images is None else ChosenRoot(absolute(images))
    if not path.lower().endswith(".json"):
        stated_by = training if training and is_path(training) else path
        register_own(path, path, None if images is None else root, absolute(stated_by))
    elif os.path.isfile(path) and '"sem_seg_file_name"' in read_text(path):
        register_segmentation(path, path, root)
    else:
        register_pairs(path, path, root)
    return path


def absolute(path: str | os.PathLike) -> str:
    """The absolute path that `path` means in the working directory; ``~`` is the user's home."""
    return os.path.abspath(os.path.expanduser(path))
