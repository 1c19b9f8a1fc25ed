"""Sets of visible images that detectron2 registers, such as COCO and Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import get_detection_dataset_dicts

from ...errors import UserError
from ..catalog import metadata


def visible_dicts(names: str | Sequence[str], filter_empty: bool = True) -> list[dict]:
    """Dicts of one or several registered sets, without ``ir_file_name``.

    Args:
        names: such as "coco_2017_train", or ["voc_2007_trainval", "voc_2012_trainval"].
        filter_empty: leave out images without objects.

    Raises:
        UserError: an unknown name, or a set whose files are missing.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        metadata(name)
    try:
        return get_detection_dataset_dicts(names, filter_empty=filter_empty)
    except FileNotFoundError as error:
        raise UserError(
            f"{', '.join(names)}: {error.filename} is missing: unpack the release there, or set "
            "DETECTRON2_DATASETS to its root"
        ) from error
