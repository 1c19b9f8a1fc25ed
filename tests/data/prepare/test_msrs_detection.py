"""prepare_msrs_detection.py: both splits, the labels of each camera, and faulty label files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.detection_releases import image, read
from helpers.tools import MSRS

from ivtuning.errors import UserError


@pytest.fixture
def msrs_official(tmp_path):
    """A release with the labels of both parts: three pairs in each, of which 00002N has no objects."""
    root = tmp_path / "MSRS"
    labels = root / "MSRS-detection-label"
    for part, stems in {
        "train": ("00001D", "00002N", "00005D"),
        "test": ("00003D", "00004N", "00006N"),
    }.items():
        for stem in stems:
            image(root / f"{part}/vi/{stem}.png")
            image(root / f"{part}/ir/{stem}.png", mode="L")
        for kind in ("fusion", "infrared", "visible"):
            (labels / kind / part).mkdir(parents=True)
            for stem in stems:
                lines = (
                    ""
                    if stem == "00002N"
                    else "0 0.5 0.5 0.25 0.2\n" + "2 0.3 0.3 0.1 0.1\n" * (kind == "fusion")
                )
                (labels / kind / part / f"{stem}.txt").write_text(lines)
    (labels / "classes.txt").write_text("0 person\n1 bicycle\n2 car\n")
    return root


def test_msrs(script, msrs, tmp_path):
    (msrs / "MSRS-detection-label/fusion/test/00004N.txt").unlink()
    script("prepare_msrs_detection")(["--source", str(msrs)])
    train, val = (read(tmp_path, f"msrs/annotations/det_{part}.json") for part in ("train", "val"))
    assert [(i["file_name"], i["time"]) for i in train["images"]] == [
        ("test/vi/00001D.png", "day"),
        ("test/vi/00002N.png", "night"),
    ]
    assert [i["file_name"] for i in val["images"]] == ["test/vi/00003D.png"]
    assert [(a["bbox"], a["category_id"]) for a in train["annotations"]] == [([15.0, 12.0, 10.0, 6.0], 3)]


def test_msrs_other_labels_make_another_split(script, msrs, tmp_path):
    labels = msrs / "MSRS-detection-label"
    (labels / "fusion").rename(labels / "infrared")
    script("prepare_msrs_detection")(["--source", str(msrs), "--labels", "infrared"])
    assert read(tmp_path, "msrs/annotations/det_infrared_val.json")["info"]["split"] == "det_infrared"


def test_msrs_official_split(script, msrs_official, tmp_path, capsys):
    script("prepare_msrs_detection")(["--source", str(msrs_official)])
    folder = tmp_path / "sets/msrs/annotations"
    assert sorted(p.name for p in folder.iterdir()) == ["official_test.json", "official_train.json"]
    train, test = (DatasetCatalog.get(f"msrs_official_{part}") for part in ("train", "test"))
    assert [Path(r["file_name"]).relative_to(msrs_official).as_posix() for r in train] == [
        "train/vi/00001D.png",
        "train/vi/00002N.png",
        "train/vi/00005D.png",
    ]
    assert [r["ir_file_name"] for r in test] == [
        str(msrs_official / f"test/ir/{stem}.png") for stem in ("00003D", "00004N", "00006N")
    ]
    assert [r["time"] for r in (*train, *test)] == ["day", "night", "day", "day", "night", "night"]
    assert [len(r["annotations"]) for r in (*train, *test)] == [2, 0, 2, 2, 2, 2]
    assert MetadataCatalog.get("msrs_official_train").thing_classes == ["person", "bicycle", "car"]
    assert read(tmp_path, "msrs/annotations/official_test.json")["info"]["split"] == "official"
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert lines[0].startswith(
        "warning: official_train has 3 images (1083 published), 2 person boxes (2925 published), "
        "0 bicycle boxes (641 published), 2 car boxes (1355 published)"
    )
    assert lines[1].startswith("warning: official_test has 3 images (361 published), 3 person boxes (893")
    assert len(lines) == 2


def test_msrs_official_split_of_one_modality(script, msrs_official, tmp_path, capsys):
    script("prepare_msrs_detection")(["--source", str(msrs_official), "--labels", "visible"])
    assert len(DatasetCatalog.get("msrs_official_visible_train")) == 3
    assert "0 car boxes (1286 published)" in capsys.readouterr().out


@pytest.mark.parametrize("absent", ["train", "MSRS-detection-label/fusion/train"])
def test_msrs_without_a_training_part_divides_the_test_part(absent, script, msrs_official, tmp_path, capsys):
    shutil.rmtree(msrs_official / absent)
    script("prepare_msrs_detection")(["--source", str(msrs_official)])
    assert [len(DatasetCatalog.get(f"msrs_det_{part}")) for part in ("train", "val")] == [2, 1]
    out = capsys.readouterr().out
    assert f"because {msrs_official / absent}" in out and "warning" not in out
    with pytest.raises(UserError, match=f"{absent}.* is missing, but the official split needs it"):
        script("prepare_msrs_detection")(["--source", str(msrs_official), "--split", "official"])


def test_msrs_split_can_be_chosen(script, msrs_official, tmp_path, capsys):
    script("prepare_msrs_detection")(["--source", str(msrs_official), "--split", "det"])
    files = (tmp_path / "sets/msrs/annotations").iterdir()
    assert sorted(p.name for p in files) == ["det_train.json", "det_val.json"]
    assert "split det: the labeled test pairs are divided\n" in capsys.readouterr().out


def test_msrs_official_split_needs_every_partner(script, msrs_official, tmp_path):
    (msrs_official / "train/ir/00005D.png").unlink()
    with pytest.raises(UserError, match="train/vi/00005D.png has no partner .*train/ir/00005D.png"):
        script("prepare_msrs_detection")(["--source", str(msrs_official)])
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize(
    "line, message",
    [
        ("3 0.5 0.5 0.1 0.1", r"00003D.txt:2: unknown class id 3; the nearest is 2 \(car\)"),
        ("0 0.5 0.5 0.1", r"00003D.txt:2: expected `class xc yc w h`"),
        ("0 0.5 0.5 0.1 nan", r"00003D.txt:2 is not four numbers"),
        ("0 20 10 5 5", r"00003D.txt:2: .* is in pixels"),
    ],
)
def test_bad_yolo_lines(line, message, script, msrs, tmp_path):
    (msrs / "MSRS-detection-label/fusion/test/00003D.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(UserError, match=message):
        script("prepare_msrs_detection")(["--source", str(msrs)])
    assert not (tmp_path / "sets").exists()


def test_missing_yolo_classes(script, msrs):
    (msrs / "MSRS-detection-label/classes.txt").unlink()
    with pytest.raises(UserError, match="classes.txt is missing"):
        script("prepare_msrs_detection")(["--source", str(msrs)])


@pytest.mark.skipif(not MSRS.is_dir(), reason="the MSRS pairs are not beside the repository")
def test_real_msrs_counts(script, tmp_path):
    script("prepare_msrs_detection")(["--source", str(MSRS)])
    train, val = (read(tmp_path, f"msrs/annotations/det_{part}.json") for part in ("train", "val"))
    both = train["annotations"] + val["annotations"]
    ids = [a["category_id"] for a in both]
    assert [ids.count(i) for i in (1, 2, 3)] == [319, 52, 162]
    images = train["images"] + val["images"]
    assert len(images) == 126
    boxed = sum(len({a["image_id"] for a in coco["annotations"]}) for coco in (train, val))
    assert len(images) - boxed == 12
    names = sorted(i["file_name"] for i in images)
    assert [i["file_name"] for i in val["images"]] == names[2::3]
    assert all(i["time"] == {"D": "day", "N": "night"}[i["file_name"][-5]] for i in images)
    corners = np.array([a["bbox"] for a in both])
    assert (corners[:, :2] >= 0).all() and (corners[:, :2] + corners[:, 2:] <= [640.01, 480.01]).all()
