"""Releases of detection sets in their true layouts, tiny, and the script for segmentation sets."""

from __future__ import annotations

import pytest
from helpers.detection_releases import image, voc


@pytest.fixture
def m3fd(tmp_path):
    """Five pairs; the scene split takes two for validation, leaves one out, and one of the two is smaller."""
    root = tmp_path / "M3FD"
    for number in (110, 111, 112, 1300, 1301):
        size = (40, 30) if number != 112 else (24, 18)
        image(root / f"Vis/{number:05}.png", size)
        image(root / f"Ir/{number:05}.png", size, "L")
        voc(root / f"Annotation/{number:05}.xml", ("Car", 1, 2, 11, 8), ("people", 3, 3, 5, 9), size=size)
    return root


@pytest.fixture
def msrs(tmp_path):
    """Labels of the test part alone, for four pairs, of which 00002N has no objects."""
    root = tmp_path / "MSRS"
    labels = root / "MSRS-detection-label"
    (labels / "fusion/test").mkdir(parents=True)
    (labels / "classes.txt").write_text("0 person\n1 bicycle\n2 car\n")
    for stem in ("00001D", "00002N", "00003D", "00004N"):
        image(root / f"test/vi/{stem}.png")
        image(root / f"test/ir/{stem}.png", mode="L")
        (labels / f"fusion/test/{stem}.txt").write_text("2 0.5 0.5 0.25 0.2\n")
    (labels / "fusion/test/00002N.txt").write_text("\n")
    return root


@pytest.fixture
def llvip(tmp_path):
    """Two training pairs and one of the test part."""
    root = tmp_path / "LLVIP"
    for part, stem in (("train", "010001"), ("train", "010002"), ("test", "190001")):
        image(root / f"visible/{part}/{stem}.jpg")
        image(root / f"infrared/{part}/{stem}.jpg")
        voc(root / f"Annotations/{stem}.xml", ("person", 5, 5, 15, 25))
    return root


@pytest.fixture
def prepare_segmentation(script):
    """The main function of prepare_segmentation.py."""
    return script("prepare_segmentation")
