"""The data root of the tests on data, the scripts in datasets/, and a pair of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.structures import BoxMode
from helpers.pairs import BOX, H, W, pattern, save
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


@pytest.fixture
def pair(tmp_path):
    """The same pattern in both images: whatever geometry does, they must stay equal."""
    gray = pattern()
    x0, y0, x1, y1 = BOX
    return {
        "file_name": save(np.stack([gray] * 3, 2), tmp_path / "v.png"),
        "ir_file_name": save(gray, tmp_path / "i.png"),
        "height": H,
        "width": W,
        "image_id": 7,
        "time": "day",
        "annotations": [
            {
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 2,
                "iscrowd": 0,
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            }
        ],
    }
