"""KAIST and CVC-14 from releases in their own layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog
from helpers.isolation import Case, refuse
from PIL import Image

from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.prepare.pedestrians import read_cvc14, read_kaist, read_kaist_pair
from ivtuning.errors import UserError

HEAD = "% bbGt version=3\n"
PERSON = "person 300 200 41 100 0 0 0 0 0 0 0\n"


def image(path: Path, size=(640, 512), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    fill = (90, 140, 30) if mode == "RGB" else 90
    Image.new(mode, size, fill).save(path)


def text(path: Path, content: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def make_kaist(root: Path) -> Path:
    """Sets 00 and 03 (train) and 06 and 09 (test) with all forms of labels that exist."""
    for video, frames in {
        "set00/V000": (18, 19),
        "set03/V001": (39,),
        "set06/V000": (18, 19),
        "set09/V002": (39, 59),
    }.items():
        for frame in frames:
            name = f"I{frame:05}"
            for kind in ("visible", "lwir"):
                image(root / f"images/{video}/{kind}/{name}.jpg")
            text(root / f"annotations/{video}/{name}.txt", HEAD + PERSON)
            flat = f"{video.replace('/', '_')}_{name}.txt"
            if video < "set06":
                text(root / "sanitized_annotations/sanitized_annotations" / flat, HEAD + PERSON)
                for shift, kind in enumerate(("visible", "lwir")):
                    paired = f"person {300 + shift} 200 41 100 1 0 0 0 0 0 0\n"
                    text(root / f"annotations_paired/{video}/{kind}/{name}.txt", HEAD + paired)
            elif frame % 20 == 19:
                text(root / "annotations_KAIST_test_set" / flat, HEAD + PERSON)
    return root


@pytest.fixture
def kaist(tmp_path):
    return make_kaist(tmp_path / "kaist-rgbt")


def read(tmp_path: Path, name: str) -> dict:
    return json.loads((tmp_path / "sets" / name).read_text())


def test_kaist(script, kaist, tmp_path, capsys):
    lines = "person 10 20 20 50 2 0 0 0 0 0 0\npeople 60 20 90 80 0 0 0 0 0 0 0\n"
    lines += "person? 200 20 20 50 0 0 0 0 0 0 0\nperson 400 20 20 50 1 0 0 0 0 1 0\n"
    text(kaist / "annotations_KAIST_test_set/set09_V002_I00059.txt", HEAD + lines)
    script("prepare_kaist")(["--source", str(kaist)])
    train, test = (read(tmp_path, f"kaist/annotations/sanitized_{part}.json") for part in ("train", "test"))
    assert [(i["file_name"], i["ir_file_name"], i["time"]) for i in train["images"]] == [
        ("images/set00/V000/visible/I00018.jpg", "images/set00/V000/lwir/I00018.jpg", "day"),
        ("images/set00/V000/visible/I00019.jpg", "images/set00/V000/lwir/I00019.jpg", "day"),
        ("images/set03/V001/visible/I00039.jpg", "images/set03/V001/lwir/I00039.jpg", "night"),
    ]
    # Every 20th frame is tested: I00018 of set06 is none.
    assert [i["file_name"][7:] for i in test["images"]] == [
        "set06/V000/visible/I00019.jpg",
        "set09/V002/visible/I00039.jpg",
        "set09/V002/visible/I00059.jpg",
    ]
    assert [c["name"] for c in test["categories"]] == ["person"]
    boxes = [(a["bbox"], a["iscrowd"], a["occlusion"]) for a in test["annotations"] if a["image_id"] == 3]
    assert boxes == [
        ([10, 20, 20, 50], 0, 2),
        ([60, 20, 90, 80], 1, 0),
        ([200, 20, 20, 50], 1, 0),
        ([400, 20, 20, 50], 1, 1),
    ]
    out = capsys.readouterr().out
    assert "sanitized_train has 3 images (7601 published)" in out
    records = DatasetCatalog.get("kaist_sanitized_test")
    assert [r["time"] for r in records] == ["day", "night", "night"]


@pytest.mark.parametrize(
    ("labels", "frames", "x"), [("paired_visible", 3, 300), ("paired_infrared", 3, 301), ("original", 2, 300)]
)
def test_kaist_with_other_labels(labels, frames, x, script, kaist, tmp_path):
    script("prepare_kaist")(["--source", str(kaist), "--labels", labels])
    train = read(tmp_path, f"kaist/annotations/{labels}_train.json")
    assert len(train["images"]) == frames
    assert {a["bbox"][0] for a in train["annotations"]} == {x}
    assert len(DatasetCatalog.get(f"kaist_{labels}_test")) == 3


def test_kaist_with_the_objects_of_both_cameras(script, kaist, tmp_path):
    """One object is a little apart in the two images, and each image has a person of its own."""
    labels = kaist / "annotations_paired/set00/V000"
    near = ("person 300 200 41 100 1 0 0 0 0 0 0\n", "person 310 204 41 100 0 0 0 0 0 0 0\n")
    alone = ("unpaired 20 30 20 50 0 0 0 0 0 0 0\n", "unpaired 500 30 20 50 0 0 0 0 0 0 0\n")
    crowd = ("people 100 200 60 100 0 0 0 0 0 0 0\n", "person 100 200 60 100 0 0 0 0 0 0 0\n")
    for k, camera in enumerate(("visible", "lwir")):
        text(labels / camera / "I00018.txt", HEAD + alone[k] + near[k] + crowd[k])
        text(labels / camera / "I00019.txt", HEAD + (alone[0] if k == 0 else ""))
    script("prepare_kaist")(["--source", str(kaist), "--labels", "paired_both"])
    train = read(tmp_path, "kaist/annotations/paired_both_train.json")
    boxes = [
        (a["image_id"], a["bbox"], a["modality"], a["occlusion"], a["iscrowd"]) for a in train["annotations"]
    ]
    assert boxes == [
        (1, [310, 204, 41, 100], "both", 0, 0),
        (1, [100, 200, 60, 100], "infrared", 0, 0),
        (1, [100, 200, 60, 100], "visible", 0, 1),
        (1, [500, 30, 20, 50], "infrared", 0, 0),
        (1, [20, 30, 20, 50], "visible", 0, 0),
        (2, [20, 30, 20, 50], "visible", 0, 0),
        (3, [301, 200, 41, 100], "both", 1, 0),
    ]
    records = DatasetCatalog.get("kaist_paired_both_train")
    assert [a["modality"] for a in records[1]["annotations"]] == ["visible"]
    test = read(tmp_path, "kaist/annotations/paired_both_test.json")
    assert len(test["images"]) == 3 and "modality" not in test["annotations"][0]
    for camera, other in (("lwir", "visible"), ("visible", "lwir")):
        moved = (labels / camera / "I00019.txt").rename(tmp_path / "moved.txt")
        with pytest.raises(
            UserError, match=f"{other}/I00019.txt has no partner .*{camera}/I00019.txt: fetch"
        ):
            script("prepare_kaist")(["--source", str(kaist), "--labels", "paired_both"])
        moved.rename(labels / camera / "I00019.txt")


def test_kaist_pairs_common_objects_by_their_order(tmp_path):
    """However far apart a narrow person is in the two images; unpaired persons are never joined."""
    rows = (
        "person 300 200 14 40 0\nunpaired 50 50 20 50 0\nperson 330 200 14 40 0\n",
        "unpaired 52 50 20 50 0\nperson 309 200 14 40 0\nperson 339 200 14 40 0\n",
    )
    for camera, lines in zip(("visible", "lwir"), rows, strict=True):
        text(tmp_path / camera / "I00019.txt", HEAD + lines)
    boxes = read_kaist_pair(tmp_path / "visible/I00019.txt")
    assert [(box[1], box.modality) for box in boxes] == [
        (309, "both"),
        (339, "both"),
        (52, "infrared"),
        (50, "visible"),
    ]


def test_kaist_names_what_is_missing(script, kaist, tmp_path):
    main = script("prepare_kaist")
    (kaist / "images/set03/V001/lwir/I00039.jpg").unlink()
    with pytest.raises(UserError, match=r"set03/V001/lwir/I00039.jpg"):
        main(["--source", str(kaist)])
    for path in (kaist / "annotations_KAIST_test_set").iterdir():
        path.rename(path.with_name("set00_" + path.name.partition("_")[2]))
    with pytest.raises(UserError, match="annotations_KAIST_test_set has no label of the test part"):
        main(["--source", str(kaist)])
    with pytest.raises(UserError, match="annotations_paired is missing: it has the labels of the train part"):
        (kaist / "annotations_paired").rename(kaist / "paired")
        main(["--source", str(kaist), "--labels", "paired_visible"])
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("horse 1 2 3 4 0", "unknown label 'horse'"),
        ("person 1 2 3", "is not `label x y width height occlusion"),
        ("person 1 2 -3 4 0", "is not `label x y width height occlusion"),
        ("person 1 2 3 x 0", "is not `label x y width height occlusion"),
        ("person 1 2 3 4 3", "an occlusion of 0, 1 or 2"),
    ],
)
def test_bad_lines_of_kaist(line, message, tmp_path):
    text(tmp_path / "a.txt", HEAD + line)
    with pytest.raises(UserError, match=rf"a.txt:2: .*{re.escape(message)}"):
        read_kaist(tmp_path / "a.txt")


def make_cvc14(root: Path) -> Path:
    """One pair with and one without pedestrians by day and by night, in train and test."""
    for time in ("Day", "Night"):
        for part in ("Train", "NewTest"):
            for camera in ("Visible", "FIR"):
                folder = root / time / camera / part
                for kind in ("FramesPos", "FramesNeg") if part == "Train" else ("FramesPos",):
                    image(folder / kind / f"2014_05_05_{kind}.tif", (640, 471), "L")
                x = 100 if camera == "Visible" else 110
                text(folder / "Annotations/2014_05_05_FramesPos.txt", f"{x} 200  40 100 1 0 0 0\n")
    return root


@pytest.fixture
def cvc14(tmp_path):
    return make_cvc14(tmp_path / "CVC-14")


@pytest.mark.parametrize(("labels", "x"), [("visible", 80), ("infrared", 90)])
def test_cvc14(labels, x, script, cvc14, tmp_path, capsys):
    image(cvc14 / "Day/FIR/Train/FramesNeg/alone.tif", (640, 471), "L")
    script("prepare_cvc14")(["--source", str(cvc14), "--labels", labels])
    train, test = (read(tmp_path, f"cvc14/annotations/{labels}_{part}.json") for part in ("train", "test"))
    assert [(i["file_name"], i["time"]) for i in train["images"]] == [
        ("Day/Visible/Train/FramesPos/2014_05_05_FramesPos.tif", "day"),
        ("Day/Visible/Train/FramesNeg/2014_05_05_FramesNeg.tif", "day"),
        ("Night/Visible/Train/FramesPos/2014_05_05_FramesPos.tif", "night"),
        ("Night/Visible/Train/FramesNeg/2014_05_05_FramesNeg.tif", "night"),
    ]
    assert [i["ir_file_name"] for i in test["images"]] == [
        f"{time}/FIR/NewTest/FramesPos/2014_05_05_FramesPos.tif" for time in ("Day", "Night")
    ]
    assert [(a["image_id"], a["bbox"]) for a in train["annotations"]] == [
        (1, [x, 150, 40, 100]),
        (3, [x, 150, 40, 100]),
    ]
    out = capsys.readouterr().out
    assert "train: 4 pairs; 1 frames of one camera alone are left out" in out
    assert f"{labels}_test has 2 images (1433 published)" in out
    record = DatasetCatalog.get(f"cvc14_{labels}_test")[0]
    sample = PairedDatasetMapper(is_train=False, augmentations=[], gray_visible=True)(record)
    assert sample["image"].shape == sample["image_ir"].shape == (3, 471, 640)
    sample = PairedDatasetMapper(is_train=False, augmentations=[], gray_visible=True, drop="visible")(record)
    assert "image" not in sample and sample["image_ir"].shape == (3, 471, 640)


@pytest.mark.parametrize("line", ["1 2 3", "1 2 -3 4", "1 2 nan 4", "1 2 x 4"])
def test_bad_lines_of_cvc14(line, tmp_path):
    text(tmp_path / "a.txt", f"10 20 3 4\n{line}\n")
    with pytest.raises(UserError, match=r"a.txt:2: .* does not begin with `xc yc width height`"):
        read_cvc14(tmp_path / "a.txt")


def kaist_without(folder: str):
    def prepare(root: Path) -> list[str]:
        make_kaist(root)
        (root / folder).rename(root / "moved")
        return ["--source", "."]

    return prepare


def cvc14_without(folder: str):
    def prepare(root: Path) -> list[str]:
        make_cvc14(root)
        (root / folder).rename(root / "moved")
        return ["--source", "."]

    return prepare


CASES = [
    Case(
        "KAIST without labels",
        "datasets/prepare_kaist.py",
        kaist_without("annotations_KAIST_test_set"),
        ["annotations_KAIST_test_set is missing", "--labels"],
    ),
    Case(
        "CVC-14 without infrared",
        "datasets/prepare_cvc14.py",
        cvc14_without("Night/FIR/NewTest/FramesPos"),
        ["Night/FIR/NewTest/FramesPos is missing", "--source"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_line(case, tmp_path):
    refuse(case, tmp_path)
