"""Images of odd kinds, given to the scripts that prepare sets."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.isolation import Case, refuse, run
from PIL import Image

W, H = 24, 16
TOOL = "datasets/prepare_segmentation.py"
ARGV = ["--set", "msrs", "--source", "MSRS", "--output", "out"]
COLOR = np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)


def release(folder: Path) -> Path:
    """An MSRS of two pairs, whose folder is returned."""
    root = folder / "MSRS"
    for part in ("train", "test"):
        for kind, pixels in (
            ("vi", COLOR),
            ("ir", COLOR[..., 0]),
            ("Segmentation_labels", COLOR[..., 0] % 9),
        ):
            path = root / part / kind / "00001D.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(path)
            # A Mac leaves such files beside others on foreign disks.
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    return root


def spoiled(name: str, write):
    """Prepare a release in which `write(path)` makes the file `name` of the test part."""

    def prepare(folder: Path) -> list[str]:
        path = release(folder) / "test" / name
        path.unlink()
        write(path)
        return ARGV

    return prepare


def swapped(folder: Path) -> list[str]:
    root = release(folder)
    for part in ("train", "test"):
        Image.fromarray(COLOR[..., 0]).convert("RGB").save(root / part / "vi/00001D.png")
        Image.fromarray(COLOR).save(root / part / "ir/00001D.png")
    return ARGV


def link_circle(path: Path) -> None:
    path.symlink_to(path.name)


def deep(path: Path) -> None:
    assert cv2.imwrite(str(path), COLOR.astype(np.uint16) * 200)


VISIBLE, INFRARED, LABELS = (f"{kind}/00001D.png" for kind in ("vi", "ir", "Segmentation_labels"))
CASES = [
    Case("16-bit colors", TOOL, spoiled(VISIBLE, deep), [VISIBLE, "16 bits", "8-bit RGB"]),
    Case("16-bit colors as infrared", TOOL, spoiled(INFRARED, deep), [INFRARED, "16 bits"]),
    Case("palette", TOOL, spoiled(INFRARED, Image.fromarray(COLOR).quantize(9).save), [INFRARED, "(P)"]),
    Case("named pipe", TOOL, spoiled(VISIBLE, os.mkfifo), [VISIBLE, "not a file"]),
    Case("named pipe of labels", TOOL, spoiled(LABELS, os.mkfifo), [LABELS, "not a file"]),
    Case("circle of links", TOOL, spoiled(INFRARED, link_circle), [INFRARED, "symbolic links"]),
    Case("empty file", TOOL, spoiled(INFRARED, Path.touch), [INFRARED, "fetch it again"]),
    Case("strip", TOOL, spoiled(VISIBLE, Image.new("RGB", (1, 60000)).save), [VISIBLE, "1x60000"]),
    Case("folders swapped", TOOL, swapped, [VISIBLE, INFRARED, "swap the two folders"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_images_that_training_would_refuse(case, tmp_path):
    refuse(case, tmp_path)


def test_a_release_from_a_mac(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    release(folder)
    outcome = run(TOOL, ARGV, folder)
    assert outcome.code == 0, outcome.err
    assert "label maps without image" not in outcome.out
