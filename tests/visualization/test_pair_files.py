"""Pairs of image files: what is matched with what, and what is no pair."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.drawings import write_pairs
from PIL import Image

from ivtuning.errors import UserError
from ivtuning.visualization.pair_files import file_records, pair_files


def test_pairs_are_matched_by_stem(tmp_path):
    vis, ir = write_pairs(tmp_path, ["b", "a"])
    (vis / "notes.txt").write_text("no image")
    assert [(v.name, i.name) for v, i in pair_files(vis, ir)] == [("a.png", "a.jpg"), ("b.png", "b.jpg")]
    assert pair_files(vis / "b.png", ir / "a.jpg") == [(vis / "b.png", ir / "a.jpg")]


def test_pairs_by_what_names_share_and_by_patterns(tmp_path):
    for name in ("vis/1_rgb.png", "vis/2_rgb.png", "ir/1_ir.JPG", "ir/2_ir.JPG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = [("1_rgb.png", "1_ir.JPG"), ("2_rgb.png", "2_ir.JPG")]
    for vis, ir in (("vis", "ir"), ("vis/*_rgb.png", "ir/*_ir.jpg")):
        found = pair_files(tmp_path / vis, tmp_path / ir)
        assert [(v.name, i.name) for v, i in found] == expected
    vis, ir = write_pairs(tmp_path / "mixed", ["a", "b"])
    assert pair_files(vis, f"{ir}/*.JPG") == pair_files(vis, ir)


def test_ids_of_nested_files_are_their_paths(tmp_path):
    for name in ("vis/day/1_rgb.JPG", "vis/night/1_rgb.JPG", "ir/day/1_ir.Tiff", "ir/night/1_ir.Tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    vis, ir = f"{tmp_path}/vis/*/*_rgb.jpg", f"{tmp_path}/ir/*/*_ir.tiff"
    records = file_records(vis, ir)
    assert [r["image_id"] for r in records] == ["day/1_rgb.JPG", "night/1_rgb.JPG"]
    assert [Path(r["ir_file_name"]).name for r in records] == ["1_ir.Tiff"] * 2
    assert [r["image_id"] for r in file_records(None, ir)] == ["day/1_ir.Tiff", "night/1_ir.Tiff"]
    assert [r["image_id"] for r in file_records(f"{tmp_path}/vis/day/*.jpg", None)] == ["1_rgb.JPG"]
    with pytest.raises(UserError, match="no images in .*vis.*give a pattern"):
        file_records(tmp_path / "vis", None)


def test_bad_pairs_are_reported(tmp_path):
    vis, ir = write_pairs(tmp_path, ["a", "b"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="gone"):
        pair_files(tmp_path / "gone", ir)
    with pytest.raises(UserError, match="two files or two folders"):
        pair_files(vis, ir / "a.jpg")
    with pytest.raises(UserError, match="no images in .*empty"):
        pair_files(vis, tmp_path / "empty")
    (ir / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"b\.png has no partner.*ir"):
        pair_files(vis, ir)
    (vis / "b.png").unlink()
    Image.new("L", (4, 4)).save(ir / "c.png")
    with pytest.raises(UserError, match=r"c\.png has no partner.*vis"):
        pair_files(vis, ir)
    (ir / "c.png").rename(ir / "a.png")
    with pytest.raises(UserError, match="share a stem"):
        pair_files(vis, ir)
