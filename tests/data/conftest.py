"""The data root of the tests on data, and the scripts in datasets/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.tools import ROOT, load_tool


@pytest.fixture
def sets(tmp_path, monkeypatch) -> Path:
    """tmp_path/sets as $DETECTRON2_DATASETS, with all known sets registered there until the test ends."""
    from ivtuning.data.datasets import classification, detection

    def register_known():
        detection.register_known()
        classification.register_known()

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    register_known()
    yield tmp_path / "sets"
    monkeypatch.undo()
    register_known()


@pytest.fixture
def script(sets, monkeypatch) -> Callable[[str], Callable]:
    """Gives the main function of a script in datasets/, for the data root tmp_path/sets."""
    monkeypatch.syspath_prepend(ROOT / "datasets")  # where the scripts import their options from
    return lambda name: load_tool(name, "datasets").main
