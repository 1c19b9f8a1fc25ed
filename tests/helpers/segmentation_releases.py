"""Segmentation releases in their true layouts, tiny, and what the script makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from PIL import Image

from ivtuning.data.datasets.segmentation_layouts import releases

W, H = 24, 16
RELEASES = releases()


def save(path: Path, pixels: np.ndarray, mode: str | None = None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def noise(seed: int, channels: int) -> np.ndarray:
    shape = (H, W, channels) if channels > 1 else (H, W)
    return np.random.default_rng(seed).integers(1, 255, shape, np.uint8)


def labels(*values: int) -> np.ndarray:
    """(H, W) uint8: equal upright stripes of the values."""
    return np.repeat(np.array(values, np.uint8), W // len(values))[None].repeat(H, 0)


def folders(root: Path, parts: dict, names: tuple[str, str, str], stems, *values):
    """Pairs of noise with label maps in folders of every part; returns the root."""
    for i, part in enumerate(parts):
        for j, stem in enumerate(stems):
            save(root / part / names[0] / f"{stem}.png", noise(10 * i + j, 3))
            save(root / part / names[1] / f"{stem}.png", noise(100 + 10 * i + j, 1))
            save(root / part / names[2] / f"{stem}.png", labels(*values))
    return root


def msrs(root: Path) -> Path:
    names = ("vi", "ir", "Segmentation_labels")
    return folders(root, RELEASES["msrs"].parts, names, ("00001D", "00002N"), 0, 1, 8)


def fmb(root: Path) -> Path:
    folders(root, RELEASES["fmb"].parts, ("Visible", "Infrared", "Label"), ("00001", "00002"), 0, 1, 14)
    save(root / "train/color/00001.png", noise(0, 3))
    return root


def pst900(root: Path) -> Path:
    names = ("rgb", "thermal", "labels")
    folders(root, RELEASES["pst900"].parts, names, ("31_bag1a_rect_rgb_frame0000000007",), 0, 4)
    save(root / "train/depth/31_bag1a_rect_rgb_frame0000000007.png", noise(0, 1))
    return root


def mfnet(root: Path) -> Path:
    lists = {"train": ["00001D", "00002N"], "val": ["00003D"], "test": ["00004N"]}
    for part, stems in lists.items():
        (root / f"{part}.txt").parent.mkdir(exist_ok=True)
        # make_flip.py of the release adds mirrored copies
        copies = [f"{stem}_flip" for stem in stems] if part == "train" else []
        (root / f"{part}.txt").write_text("".join(f"{stem}\n" for stem in stems + copies))
        for stem in stems + copies:
            save(root / f"images/{stem}.png", noise(int(stem[:5]), 4))
            save(root / f"labels/{stem}.png", labels(0, 2, 7))
    return root


def ade20k(root: Path) -> Path:
    for folder, stems in (("training", ("ADE_train_00000001", "ADE_train_00000002")), ("validation", "v")):
        for i, stem in enumerate(stems):
            # A few are gray; no image is in both parts.
            save(root / f"images/{folder}/{stem}.jpg", noise(i + len(folder), 1 if i else 3))
            save(root / f"annotations/{folder}/{stem}.png", labels(0, 1, 150))
    return root


WRITERS = {f.__name__: f for f in (msrs, mfnet, fmb, pst900, ade20k)}


def content(root: Path, part: str) -> dict:
    return json.loads((root / "segmentation" / f"{part}.json").read_text())


def files(root: Path) -> dict[str, int]:
    return {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def records(name: str) -> list[dict]:
    return DatasetCatalog.get(name)


def colors(values, layout):
    """A label map in the colors of the classes."""
    return Image.fromarray(np.array(list(layout.classes.values()), np.uint8)[values])
