"""The two images of a pair: their names, the keys they are stored under, and which one a record lacks."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import UserError, nearest

MODALITIES = ("visible", "infrared")
# In the order of MODALITIES: keys of the files in a dataset dict, of images in memory that take the place of
# these files, and of the images in a mapped sample.
FILE_KEYS = ("file_name", "ir_file_name")
PIXEL_KEYS = ("pixels", "ir_pixels")
IMAGE_KEYS = ("image", "image_ir")
# Which images show an annotated object, its `modality`.
SHOWN_IN = ("both", *MODALITIES)
# When a pair was taken, the `time` of a dataset dict.
TIMES = ("day", "night")


def check_modality(name: str | None, where: str) -> None:
    """Raise UserError if `name` is neither None nor a modality; `where` begins the message."""
    if name is not None and name not in MODALITIES:
        known = " or ".join(MODALITIES)
        raise UserError(f"{where}={name!r}: give {known}{nearest(str(name), MODALITIES)}")


def absent_modality(record: Mapping) -> str | None:
    """The modality that a dataset dict or an image of a JSON has no image of; None for a complete pair.

    It is the one that ``missing`` declares. Without ``ir_file_name`` it is infrared.
    """
    return record.get("missing") or (None if record.get("ir_file_name") else "infrared")


def time_of(stem: str) -> str | None:
    """The time of day from the last letter of a file's stem, D or N in MSRS and MFNet; None for others."""
    return {time[0].upper(): time for time in TIMES}.get(stem[-1:])
