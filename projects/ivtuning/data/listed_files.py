"""Which files a set's dicts name: those that are not there, and those that are in another set as well."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from .image_files import BadPair
from .modalities import FILE_KEYS, MODALITIES

# More files than this are looked for in a sample: on a network drive each may take a millisecond.
LOOKED_FOR = 20_000
_ROLES = {key: f"{role} image" for key, role in zip(FILE_KEYS, MODALITIES, strict=True)}
_ROLES["sem_seg_file_name"] = "label map"


def check_presence(dicts: Sequence[dict]) -> None:
    """Raise BadPair for the first dict that names an image or a label map which is no file."""
    for record in dicts[:: -(-len(dicts) // LOOKED_FOR) or 1]:
        for key, role in _ROLES.items():
            path = record.get(key)
            absent = record.get("missing") and role.startswith(record["missing"])
            if path and not absent and "://" not in path and not os.path.isfile(path):
                fault = "is not a file" if os.path.exists(path) else "is missing"
                advice = "restore it, or take it out of its set"
                if not os.path.isdir(os.path.dirname(path) or "."):
                    advice = (
                        "name the folder that paths begin in (info.image_root in its JSON, or data.images "
                        "where the set is named by its JSON)"
                    )
                raise BadPair(f"{role} {path} {fault}: {advice}", path)


def shared_files(training: Iterable[dict], test: Iterable[dict]) -> list[str]:
    """Image files, visible or infrared, that dicts of both sets name, in the order of `test`.

    Only paths are compared; ``check_pairs`` compares pixels.
    """
    trained = {path for record in training for path in _paths(record)}
    return list(dict.fromkeys(path for record in test for path in _paths(record) if path in trained))


def _paths(record: dict) -> list[str]:
    return [os.path.abspath(record[key]) for key in FILE_KEYS if record.get(key)]
