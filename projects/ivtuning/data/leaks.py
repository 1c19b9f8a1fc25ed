"""Images that are in a training set and in a test set, which makes the test's figures too good."""

from __future__ import annotations

import os
from collections.abc import Iterable

from .modalities import FILE_KEYS


def shared_files(training: Iterable[dict], test: Iterable[dict]) -> list[str]:
    """Image files, visible or infrared, that dicts of both sets name, in the order of `test`.

    Only paths are compared; ``check_pairs`` compares pixels.
    """
    trained = {path for record in training for path in _paths(record)}
    return list(dict.fromkeys(path for record in test for path in _paths(record) if path in trained))


def _paths(record: dict) -> list[str]:
    return [os.path.abspath(record[key]) for key in FILE_KEYS if record.get(key)]
