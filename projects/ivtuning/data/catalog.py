"""What all kinds of sets share: the table entry of a known set, registration, and reading COCO-like JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..errors import UserError, nearest
from ..utils import text


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """A set that is registered when its module is imported: one entry of the module's table `KNOWN`.

    Attributes:
        folder: where the set lies below the data root.
        parts: what the set is divided into, such as "train" and "val"; each is registered under its own name.
        maker: what makes the set's JSON files, for the message when one is missing; "" if the set has none.
    """

    folder: str
    parts: Collection[str]
    maker: str = ""


def data_root() -> Path:
    """The folder that holds all data sets: $DETECTRON2_DATASETS, or ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def prepared_files(folder: str) -> Iterator[tuple[str, Path]]:
    """The files ``<set>/<folder>/<split>_<part>.json`` of the data root, each behind its set's name.

    Parts are train, val and test.
    """
    for path in sorted(data_root().glob(f"*/{folder}/*_*.json")):
        if path.stem.rpartition("_")[2] in ("train", "val", "test"):
            yield path.parent.parent.name, path


def register(name: str, load: Callable[[], list[dict]], **facts) -> None:
    """Register a set, which is loaded on first use, with `facts` as its metadata.

    A set that is registered under `name` with the same facts stays as it is; otherwise it is replaced.
    """
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name)
        present = {key: known.get(key) for key in facts}
        if present == facts and all(type(present[key]) is type(facts[key]) for key in facts):
            return
    unregister(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**facts)


def unregister(name: str) -> None:
    """Remove a set and its metadata from detectron2's catalogs, if they are there."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)


def set_facts(name: str, **facts) -> None:
    """Set metadata of a registered set. Unlike detectron2's `set`, it replaces what is there."""
    known = MetadataCatalog.get(name)
    for key in facts:
        vars(known).pop(key, None)
    known.set(**facts)


def listed(names: str | Sequence[str]) -> list[str]:
    """Names of sets as a list, which one alone may be given without; UserError if they are no such list."""
    names = [names] if isinstance(names, str) else names
    if not (isinstance(names, Sequence) and names and all(isinstance(name, str) for name in names)):
        raise UserError(f"names={names!r:.60}: give the name of a registered set, or a list of such names")
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise UserError(f"{repeated[0]} is named twice among {', '.join(names)}: name each set once")
    return list(names)


def metadata(name: str) -> Metadata:
    """Metadata of a registered set; UserError with the nearest names if there is none."""
    if name not in DatasetCatalog.list():
        raise UserError(f"no data set is called {name!r}{nearest(name, DatasetCatalog.list())}")
    return MetadataCatalog.get(name)


def is_present(name: str) -> bool:
    """Whether the JSON of a registered set is on this machine; True for sets without one.

    Reading the synthetic set makes its files, which a look at its classes should not.
    """
    json_file = metadata(name).get("json_file")
    return json_file is None or os.path.exists(json_file)


def read_json(json_file: str | Path, lists: Sequence[str], known: Mapping[str, KnownSet]) -> dict:
    """The content of a COCO-like JSON, whose entries are unchecked (see :mod:`.faults`).

    Args:
        lists: the keys of the lists that it must have.
        known: the sets of this kind; the entry with the JSON's folder says what makes a missing file.

    Raises:
        UserError: the file is missing, is not valid JSON, or lacks a list.
    """
    path = Path(json_file)
    if not os.path.exists(path):
        makers = {entry.folder: entry.maker for entry in known.values()}
        maker = makers.get(home_of(path).name)
        otherwise = "set DETECTRON2_DATASETS to its root" if maker else "correct its path"
        raise UserError(
            f"{path} is missing: make it with {maker or 'datasets/prepare_pairs.py'}, or {otherwise}"
        )
    content = text.read_json(path)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(
            f"{path} is a {kind}, but must be an object with {', '.join(lists)}: prepare the set again"
        )
    for key in (*lists, "annotations"):
        if not isinstance(content.get(key, [] if key not in lists else None), list):
            raise UserError(
                f"{path} has no list {key!r}, but it must have {', '.join(lists)}: prepare the set again"
            )
    return content


# What the folders are called in which sets have their JSON files: of boxes, label maps and classes.
JSON_FOLDERS = ("annotations", "segmentation", "classification")


class ChosenRoot(str):
    """An images' folder that the user names for one run. It takes precedence over ``info.image_root``."""


def home_of(json_file: str | Path) -> Path:
    """The own folder of a set: that of its JSON, or the one above a folder of :data:`JSON_FOLDERS`."""
    folder = Path(json_file).parent
    return folder.parent if folder.name in JSON_FOLDERS else folder


def kind_of(text: str) -> str:
    """What labels the images of a COCO-like JSON, from its text: "boxes", "label maps" or "classes"."""
    if '"sem_seg_file_name"' in text:
        return "label maps"
    return "classes" if '"category_id"' in text and '"annotations"' not in text else "boxes"


def image_root_of(content: dict, json_file: str | Path, default: str | Path) -> Path:
    """The images' folder: ``info.image_root``, relative to the set's own folder, or `default`.

    Raises:
        UserError: ``info.image_root`` is no path.
    """
    info = content.get("info")
    recorded = info.get("image_root") if isinstance(info, dict) else None
    if recorded is not None and not (isinstance(recorded, str) and recorded.isprintable()):
        raise UserError(f"{json_file}: info.image_root is {recorded!r:.60}, not a folder's path: correct it")
    if not recorded or isinstance(default, ChosenRoot):
        return Path(default)
    return home_of(json_file) / recorded


def roots_of(content: dict, json_file: str | Path, default: str | Path) -> list[Path]:
    """Where the files of a set may be: the images' folder, and the set's own, which holds copies."""
    own = home_of(json_file)
    return [image_root_of(content, json_file, default), *([own] if own != own.parent else [])]


def simplify(image: dict) -> None:
    """Bring an image of a checked JSON to one form: whole pixels, slashes, times in lower case, no null."""
    for key in ("ir_file_name", "missing", "time", "group"):
        if key in image and image[key] is None:
            del image[key]
    if "time" in image:
        image["time"] = image["time"].lower()
    for key in ("height", "width"):
        image[key] = int(image[key])
    for key in ("file_name", "ir_file_name", "sem_seg_file_name"):
        if key in image:
            image[key] = image[key].replace("\\", "/")


def add_pair_keys(record: dict, image: dict, root: Path) -> None:
    """Add the keys of a pair that `image` has to a dataset dict.

    They are ``ir_file_name``, ``time``, ``missing`` and ``group``.
    """
    if image.get("ir_file_name"):
        record["ir_file_name"] = str(root / image["ir_file_name"])
    record.update({key: image[key] for key in ("time", "missing", "group") if key in image})
