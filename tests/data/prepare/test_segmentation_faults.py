"""Faulty segmentation releases: the file is named, and nothing is written."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.segmentation_releases import RELEASES, WRITERS, colors, files, labels, mfnet, noise, save
from PIL import Image

from ivtuning.errors import UserError, run_tool


def change_label(change):
    def spoil(root):
        path = root / "test/Segmentation_labels/00002N.png"
        change(Image.open(path)).save(path)

    return spoil


def remove(*patterns):
    def spoil(root):
        for pattern in patterns:
            for path in sorted(root.glob(pattern), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()

    return spoil


def cut(pattern):
    def spoil(root):
        (path,) = root.glob(pattern)
        path.write_bytes(path.read_bytes()[:-60])

    return spoil


def set_value(value):
    return change_label(lambda image: Image.fromarray(np.where(np.asarray(image), value, 0).astype(np.uint8)))


def luminance(image):
    return colors(np.asarray(image), RELEASES["msrs"]).convert("L")


BAD = {
    "no label folder": (
        "msrs",
        remove("train/Segmentation_labels/*", "train/Segmentation_labels"),
        r"no file matches .*train/Segmentation_labels/\*.png: is --source the folder of the release",
    ),
    "no label": (
        "msrs",
        remove("test/Segmentation_labels/00002N.png"),
        r"test/vi/00002N.png has no label map .*test/Segmentation_labels/00002N.png: copy it there",
    ),
    "no infrared": ("msrs", remove("test/ir/00002N.png"), r"vi/00002N.png has no partner .*ir/00002N.png"),
    "unequal counts": ("fmb", remove("train/Visible/*1.png"), r"Infrared/00001.png has no partner"),
    "unknown value": ("msrs", set_value(9), r"00002N.png has 256 pixels of value 9, which the set does not"),
    "gray shades": ("msrs", change_label(luminance), r"00002N.png .* look like gray shades of the class"),
    "unknown color": ("msrs", change_label(lambda i: Image.new("RGB", i.size, (1, 2, 3))), "3 channels"),
    "label size": ("msrs", change_label(lambda i: i.resize((8, 8))), r"is 8x8 but its image 24x16"),
    "cut label": ("msrs", cut("test/Segmentation_labels/00001D.png"), "00001D.png cannot be read"),
    "unequal pair": (
        "pst900",
        lambda root: save(next(root.glob("test/thermal/*")), noise(0, 1)[:8]),
        r"rgb/.* and .*thermal/.* differ in size \(24x16 and 24x8\)",
    ),
    "swapped folders": (
        "msrs",
        lambda root: save(root / "test/vi/00001D.png", noise(0, 1)),
        r"visible image .*00001D.png is gray: are the folders",
    ),
    "three channels": (
        "mfnet",
        lambda root: save(root / "images/00002N.png", noise(0, 3)),
        r"00002N.png has 3 channels, 8 bits \(RGB\), not RGB and infrared in 4 channels",
    ),
    "cut image": ("mfnet", cut("images/00002N.png"), "00002N.png cannot be read"),
    "no list": ("mfnet", remove("val.txt"), r"val.txt is missing: it lists the images"),
    "empty list": ("mfnet", lambda root: (root / "val.txt").write_text("\n"), "val.txt lists no image"),
    "unknown name": (
        "mfnet",
        lambda root: (root / "val.txt").write_text("00003\n"),
        r"val.txt:1 lists '00003', which has no image; did you mean '00003D'",
    ),
    "another release": (
        "ade20k",
        remove("images/validation/*"),
        r"no file matches .*images/validation/\*.jpg",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_release_is_named_and_writes_nothing(case, prepare_segmentation, tmp_path):
    name, spoil, message = BAD[case]
    source = WRITERS[name](tmp_path / "release")
    spoil(source)
    before = files(source)
    with pytest.raises(UserError, match=message) as error:
        prepare_segmentation(["--set", name, "--source", str(source)])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "sets").exists() and files(source) == before
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match=message):  # a set that lies in its release is not touched either
        prepare_segmentation(["--set", name, "--source", str(source), "--output", str(source)])
    assert files(source) == before


def test_a_failing_run_keeps_what_was_there(prepare_segmentation, tmp_path, monkeypatch):
    source = mfnet(tmp_path / "release")
    arguments = ["--set", "mfnet", "--source", str(source)]
    prepare_segmentation(arguments)
    before = files(tmp_path / "sets")
    save(source / "images/00001D.png", noise(77, 4))  # would be replaced
    save(source / "labels/00004N.png", labels(9))  # ... were the last part's label not bad
    with pytest.raises(UserError, match="value 9"):
        prepare_segmentation(arguments)
    assert files(tmp_path / "sets") == before

    def refuse(*args, **kwargs):
        raise PermissionError(13, "denied", str(tmp_path / "sets"))

    save(source / "labels/00004N.png", labels(0, 1))
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match="cannot write .*sets.*: choose a writable place with --output"):
        prepare_segmentation(arguments)
    assert files(tmp_path / "sets") == before


def test_exit_code_and_line(prepare_segmentation, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run_tool(prepare_segmentation, ["--set", "msrs", "--source", str(tmp_path)])
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: no file matches") and shown.err.count("\n") == 1
