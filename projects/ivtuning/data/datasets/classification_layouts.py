"""Readers for the layouts of image classification sets: each returns images, labels from 0, and class names.

They raise UserError for a missing or unreadable file or folder, a malformed line, and a class folder without
images. The caller checks labels out of range and missing images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.io
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from ...errors import UserError, nearest
from ...utils.text import read_lines, whole_number
from ..annotations import read_voc
from ..image_files import IMAGE_SUFFIXES, is_hidden, walk

Items = list[tuple[Path, int]]  # image, label
Reader = Callable[[Path, str], tuple[Items, list[str]]]  # (root, part) -> items, class names


def read_flowers(root: Path, part: str) -> tuple[Items, list[str]]:
    """Flowers-102; the release numbers its classes and does not name them."""
    labels = _mat(root / "imagelabels.mat", "labels")
    ids = np.concatenate([_mat(root / "setid.mat", key) for key in _FLOWER_SPLITS[part]])
    if ids.min() < 1 or ids.max() > len(labels):
        raise UserError(
            f"{root / 'setid.mat'} names images {ids.min()} to {ids.max()}, imagelabels.mat labels "
            f"{len(labels)}: take both files of one release"
        )
    items = [(root / f"jpg/image_{i:05d}.jpg", int(labels[i - 1]) - 1) for i in ids]
    return items, [str(i + 1) for i in range(_count(labels - 1, root / "imagelabels.mat"))]


_FLOWER_SPLITS = {"train": ("trnid", "valid"), "test": ("tstid",)}


def _mat(path: Path, key: str) -> np.ndarray:
    need(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file: take that of the Flowers-102 release")
    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # scipy does not document which ones it raises
        raise UserError(f"{path} is not a readable MATLAB file ({error}): fetch it again") from error
    if key not in content or not content[key].size or content[key].dtype.kind not in "iuf":
        raise UserError(f"{path} has no numbers {key!r}: take the file of the Flowers-102 release")
    return content[key].ravel().astype(int)


def read_pets(root: Path, part: str) -> tuple[Items, list[str]]:
    """Oxford-IIIT Pet's 37 breeds, named by the files of trainval."""
    trainval = _pets(root, "trainval")
    names = {label: path.stem.rpartition("_")[0] for path, label in trainval}
    items = trainval if part == "train" else _pets(root, "test")
    count = _count([label for _, label in trainval], root / "annotations/trainval.txt")
    return items, [names.get(i, str(i + 1)) for i in range(count)]


def _pets(root: Path, part: str) -> Items:
    items = []
    for where, line in _lines(root / f"annotations/{part}.txt"):
        fields = line.split()
        if len(fields) != 4 or (label := whole_number(fields[1])) is None:
            raise UserError(f"{where}: expected `name class species breed`, got {line!r}")
        items.append((root / f"images/{fields[0]}.jpg", label - 1))
    return items


def read_voc2007(root: Path, part: str) -> tuple[Items, list[str]]:
    """VOC2007 with one of 20 labels per image, as in the Mona paper, which does not state how it chose them.

    Here an image that shows several classes gets the class of its largest box. Classes of which it shows only
    objects marked difficult (0 in the class's list) count only if there is no other.
    """
    shown: dict[str, dict[int, bool]] = defaultdict(dict)
    for label, name in enumerate(CLASS_NAMES):
        file = f"ImageSets/Main/{name}_{'trainval' if part == 'train' else part}.txt"
        for where, line in _lines(root / file):
            stem, *flag = line.split()
            if flag not in (["1"], ["0"], ["-1"]):
                raise UserError(f"{where}: expected `image -1|0|1`, got {line!r}")
            if flag != ["-1"]:
                shown[stem][label] = flag == ["1"]
    items = []
    for stem, classes in sorted(shown.items()):
        candidates = [c for c, clear in classes.items() if clear] or list(classes)
        if len(candidates) > 1:
            candidates = [_largest(root / f"Annotations/{stem}.xml", candidates)]
        items.append((root / f"JPEGImages/{stem}.jpg", candidates[0]))
    return items, list(CLASS_NAMES)


def _largest(path: Path, candidates: Sequence[int]) -> int:
    need(path)
    boxes = [((b.x1 - b.x0) * (b.y1 - b.y0), b.label) for b in read_voc(path, CLASS_NAMES)]
    boxes = [box for box in boxes if box[1] in candidates]
    if not boxes:
        raise UserError(f"{path} has no box of the classes that ImageSets/Main lists for it: fetch it again")
    return max(boxes, key=lambda box: box[0])[1]


def read_lists(root: Path, part: str) -> tuple[Items, list[str]]:
    """``meta/<part>.txt``; classes are numbers, as many as ``meta/train.txt`` has."""
    labels, items = [], []
    listed: dict[Path, int] = {}
    for name in dict.fromkeys(("train", part)):
        for where, line in _lines(root / f"meta/{name}.txt"):
            *path, last = line.rsplit(maxsplit=1)
            if not path or (label := whole_number(last)) is None:
                raise UserError(f"{where}: expected `path label`, got {line!r}")
            if name == "train":
                labels.append(label)
            if name == part:
                file = root / part / path[0]
                if listed.setdefault(file, label) != label:
                    raise UserError(
                        f"{where}: {path[0]} has the label {listed[file]} in a line above: keep one"
                    )
                items.append((file, label))
    return items, [str(i) for i in range(_count(labels, root / "meta/train.txt"))]


def _count(labels: Sequence[int], path: Path) -> int:
    """The number of classes with these labels from 0; UserError if there are more than labels."""
    last = int(max(labels, default=-1))
    if last >= len(labels):
        raise UserError(
            f"{path} has label {last} (from 0) but {len(labels)} images: number the classes in a row"
        )
    return last + 1


def read_folders(root: Path, part: str) -> tuple[Items, list[str]]:
    """One folder per class in ``<part>/``, or in the root if `part` is ""; the classes are those of train."""
    return read_class_folders(root / part, root / "train" if part else root)


def read_class_folders(folder: Path, training: Path) -> tuple[Items, list[str]]:
    """The images of `folder`, one folder per class; the classes are the folders of `training`."""
    need(folder)
    classes = _folders(training)
    items = []
    for name in _folders(folder):
        if name not in classes:
            raise UserError(f"{folder / name}: {training} has no class {name!r}{nearest(name, classes)}")
        files = sorted(path for path in walk(folder / name) if path.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise UserError(f"{folder / name} holds no image: add some, or remove the folder")
        items += [(file, classes.index(name)) for file in files]
    return items, classes


def read_class_list(file: Path, training: Path, images: Path) -> tuple[Items, list[str]]:
    """The images of a list of lines ``path class``, with paths below `images`.

    The classes are those of the list `training`: sorted names or, if all are numbers, those from 0 on.
    """
    entries = {path: list(_list_entries(path)) for path in dict.fromkeys((training, file))}
    names = sorted({name for _, _, name in entries[training]})
    if all(whole_number(name) is not None for name in names):
        names = [str(i) for i in range(_count([int(name) for _, _, name in entries[training]], training))]
        entries[file] = [
            (where, path, name if whole_number(name) is None else str(int(name)))  # 01 is class 1
            for where, path, name in entries[file]
        ]
    labels = {name: i for i, name in enumerate(names)}
    items = []
    listed: dict[str, str] = {}
    for where, path, name in entries[file]:
        if name not in labels:
            raise UserError(f"{where}: {training} has no class {name!r}{nearest(name, names)}")
        if listed.setdefault(path, name) != name:
            raise UserError(f"{where}: {path} has the class {listed[path]!r} in a line above: keep one")
        items.append((images / path, labels[name]))
    return items, names


def _list_entries(file: Path) -> Iterator[tuple[str, str, str]]:
    """("file:line", path, class) of every line of a list."""
    for where, line in _lines(file):
        path, *name = line.rsplit(maxsplit=1)
        if not name:
            raise UserError(f"{where}: expected `path class`, got {line!r}")
        yield where, path.replace("\\", "/"), name[0]


def _folders(root: Path) -> list[str]:
    need(root)
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not is_hidden(p))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """("file:line", text) of every line that is neither empty nor a comment."""
    need(path)
    return ((where, line) for where, line in read_lines(path) if not line.startswith("#"))


def need(path: Path) -> None:
    """Raise UserError if `path` does not exist."""
    if not path.exists():
        raise UserError(f"{path} is missing: unpack the set there, or set $DETECTRON2_DATASETS to its root")
