"""VT821, VT1000 and VT5000 from releases in their own layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.isolation import Case, refuse
from PIL import Image

from ivtuning.data.labels import read_labels
from ivtuning.data.verify.verification import verify
from ivtuning.errors import UserError

SIZE = (24, 16)
# Suffixes of visible images, thermal images and masks, as copies of the sets have them.
SUFFIXES = {
    "vt821": (".jpg", ".jpg", ".jpg"),
    "vt1000": (".jpg", ".bmp", ".jpg"),
    "vt5000": (".jpg", ".jpg", ".png"),
}


def mask() -> np.ndarray:
    values = np.zeros(SIZE[::-1], np.uint8)
    values[:, 8:16] = 255
    return values


def release(root: Path, name: str, thermal: str = "T") -> Path:
    """Two pairs in each part."""
    visible_suffix, thermal_suffix, mask_suffix = SUFFIXES[name]
    for i, part in enumerate(("Train", "Test") if name == "vt5000" else (".",)):
        for stem in ("1", "22"):
            rng = np.random.default_rng(int(stem) + i)
            files = {
                f"RGB/{stem}{visible_suffix}": rng.integers(0, 255, (*SIZE[::-1], 3), np.uint8),
                f"{thermal}/{stem}{thermal_suffix}": np.repeat(
                    rng.integers(0, 255, (*SIZE[::-1], 1), np.uint8), 3, 2
                ),
                f"GT/{stem}{mask_suffix}": mask(),
            }
            for file, pixels in files.items():
                path = root / part / file
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


@pytest.mark.parametrize(
    ("name", "thermal"), [("vt821", "T"), ("vt821", "thermal"), ("vt1000", "T"), ("vt5000", "T")]
)
def test_the_sets_become_label_maps(name, thermal, script, tmp_path, capsys):
    root = release(tmp_path / name.upper(), name, thermal)
    main = script("prepare_vt")
    main(["--set", name, "--source", str(root), "--dry-run"])
    assert "would create" in capsys.readouterr().out and not (tmp_path / "sets").exists()
    main(["--set", name, "--source", str(root)])
    out = capsys.readouterr().out
    parts = ("train", "test") if name == "vt5000" else ("test",)
    published = {"vt821": 821, "vt1000": 1000, "vt5000": 2500}[name]
    for part in parts:
        assert f"warning: {part} has 2 images ({published} published)" in out
        records = DatasetCatalog.get(f"{name}_seg_{part}")
        assert [Path(r["file_name"]).stem for r in records] == ["1", "22"]
        assert Path(records[0]["ir_file_name"]).parent.name == thermal
        # JPEG blurs a mask by some levels; the label map has two values.
        assert np.array_equal(read_labels(records[0]), mask() // 255)
        facts = MetadataCatalog.get(f"{name}_seg_{part}")
        assert facts.stuff_classes == ["background", "salient object"]
        assert verify({part: (facts.json_file, facts.image_root)}, sample=0).count("error") == 0
    main(["--set", name, "--source", str(root)])
    out = capsys.readouterr().out
    assert "unchanged: " in out and "created" not in out and "replaced" not in out


def test_pairs_without_mask_are_counted(script, tmp_path, capsys):
    root = release(tmp_path / "VT821", "vt821")
    (root / "GT/22.jpg").rename(root / "GT/other.jpg")
    script("prepare_vt")(["--set", "vt821", "--source", str(root)])
    out = capsys.readouterr().out
    assert "skipped: pairs without mask" in out and "skipped: masks without pair" in out
    content = json.loads((tmp_path / "sets/vt821/segmentation/test.json").read_text())
    assert [i["file_name"] for i in content["images"]] == ["RGB/1.jpg"]


def colored_mask(root: Path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), np.uint8)).save(
        root / "GT/1.jpg"
    )


def deep_mask(root: Path):
    (root / "GT/1.jpg").unlink()
    Image.fromarray(mask().astype(np.uint16) * 256).save(root / "GT/1.png")


def small_mask(root: Path):
    Image.fromarray(mask()[:8]).save(root / "GT/1.jpg")


def no_partner(root: Path):
    (root / "T/22.jpg").unlink()


def no_masks(root: Path):
    (root / "GT").rename(root / "masks")


def other_masks(root: Path):
    for path in (root / "GT").iterdir():
        path.rename(path.with_name(f"{path.stem}_gt.jpg"))


def two_suffixes(root: Path):
    Image.fromarray(mask()).save(root / "GT/1.png")


def swapped(root: Path):
    (root / "RGB").rename(root / "x")
    (root / "T").rename(root / "RGB")
    (root / "x").rename(root / "T")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (colored_mask, r"mask .*GT/1.jpg has colors"),
        (deep_mask, r"mask .*GT/1.png has .*16"),
        (small_mask, r"GT/1.jpg is 24x8 but its image 24x16"),
        (no_partner, r"RGB/22.jpg has no partner 22\.\* in the folder of infrared images"),
        (no_masks, r"VT821 has no folder GT"),
        (other_masks, r"no image of .*VT821 has a mask"),
        (two_suffixes, r"GT/1\.\w+ and .*GT/1\.\w+ have one name"),
        (swapped, r"swap the two folders"),
    ],
)
def test_bad_releases(spoil, message, script, tmp_path):
    root = release(tmp_path / "VT821", "vt821")
    spoil(root)
    with pytest.raises(UserError, match=message):
        script("prepare_vt")(["--set", "vt821", "--source", str(root)])
    assert not (tmp_path / "sets").exists()


def test_one_line(tmp_path):
    def prepare(root: Path) -> list[str]:
        release(root, "vt821")
        no_masks(root)
        return ["--set", "vt821", "--source", "."]

    refuse(Case("no masks", "datasets/prepare_vt.py", prepare, ["has no folder GT", "--source"]), tmp_path)
