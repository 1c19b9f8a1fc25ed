"""Sets of visible images that detectron2 registers, such as COCO and Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain

from detectron2.data import DatasetCatalog

from ...errors import UserError
from ..catalog import listed, metadata
from ..classes import read_sets
from .detection import has_objects, load_coco, log_classes


def visible_dicts(names: str | Sequence[str], filter_empty: bool = True) -> list[dict]:
    """Dicts of one or several registered sets, without ``ir_file_name``.

    A set in COCO's format is read and checked like a paired one, see :func:`.detection.register_pairs`.

    Args:
        names: such as "coco_2017_train", or ["voc_2007_trainval", "voc_2012_trainval"].
        filter_empty: leave out images without objects.

    Raises:
        UserError: an unknown name, a set whose files are missing or wrong, sets whose classes differ, or no
            image with an object.
    """
    names = listed(names)
    for name in names:
        _read_as_coco(name)
    try:
        dicts = list(chain.from_iterable(read_sets(names).values()))
    except FileNotFoundError as error:
        raise UserError(
            f"{', '.join(names)}: {error.filename} is missing: unpack the release there, or set "
            "DETECTRON2_DATASETS to its root"
        ) from error
    if filter_empty:
        dicts = [record for record in dicts if has_objects(record)]
        if not dicts:
            raise UserError(f"{', '.join(names)}: no image has an object to train on: fetch the labels again")
    log_classes(names, dicts)
    return dicts


def _read_as_coco(name: str) -> None:
    """Let our own reader replace detectron2's for a set in COCO's format."""
    facts = metadata(name)
    if facts.get("evaluator_type") == "coco" and DatasetCatalog[name].__module__.startswith("detectron2."):
        load = partial(load_coco, name, facts.json_file, facts.image_root, paired=False)
        load.__module__ = __name__
        DatasetCatalog[name] = load
