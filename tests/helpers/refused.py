"""What the user reads where a config is refused."""

from __future__ import annotations

import os

import pytest

from ivtuning.config import load_config
from ivtuning.errors import UserError


def refused(file: str | os.PathLike, *changes: str) -> str:
    """The line that loading the config `file` with `changes` ends in."""
    with pytest.raises(UserError) as caught:
        load_config(file, changes)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1000
    return text
