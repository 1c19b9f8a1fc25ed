"""The scripts that prepare detection sets: boxes, counts, bad releases, and what they write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.detection_releases import image, read, voc
from helpers.tools import ROOT, help_without_packages

from ivtuning.data.prepare.coco import count_warnings
from ivtuning.errors import UserError


def test_m3fd_scene_split(script, m3fd, tmp_path, capsys):
    script("prepare_m3fd")(["--source", str(m3fd)])
    train, val = (read(tmp_path, f"m3fd/annotations/scene_{part}.json") for part in ("train", "val"))
    assert [i["file_name"] for i in val["images"]] == ["Vis/00111.png", "Vis/00112.png"]
    # 1300 belongs to neither part
    assert [i["ir_file_name"] for i in train["images"]] == ["Ir/00110.png", "Ir/01301.png"]
    assert [(i["id"], i["width"], i["height"]) for i in val["images"]] == [(1, 40, 30), (2, 24, 18)]
    assert val["info"]["split"] == "scene" and val["info"]["image_root"] == str(m3fd)
    names = [c["name"] for c in val["categories"]]
    assert names == ["People", "Car", "Bus", "Motorcycle", "Lamp", "Truck"]
    assert [c["id"] for c in val["categories"]] == [1, 2, 3, 4, 5, 6]
    first, second = val["annotations"][:2]
    assert first == {
        "id": 1,
        "image_id": 1,
        "category_id": 2,
        "bbox": [1.0, 2.0, 10.0, 6.0],
        "area": 60.0,
        "iscrowd": 0,
    }
    assert second["category_id"] == 1
    out = capsys.readouterr().out
    assert "size 24x18" in out and "boxes: Car" in out
    assert "warning: scene_val has 2 images (831 published), 4 boxes (7074 published)" in out


def test_equal_counts_give_no_warning():
    counts = {"train": {"images": 3, "boxes": 5, "car boxes": 5}}
    assert list(count_warnings(counts, {"train": {"images": 3, "car boxes": 5}})) == []
    (line,) = count_warnings(counts, {"train": {"images": 4, "car boxes": 5}})
    assert line.startswith("warning: train has 3 images (4 published): ")


LLVIP = ["--set", "llvip", "--vis", "visible/{part}/*.jpg", "--ir", "infrared/{part}/*.jpg"]
LLVIP += ["--labels", "Annotations"]


def test_llvip_in_the_layout_of_its_release(script, llvip, tmp_path):
    script("prepare_pairs")([*LLVIP, "--source", str(llvip)])
    train, val = (read(tmp_path, f"llvip/annotations/default_{part}.json") for part in ("train", "val"))
    assert [i["file_name"] for i in train["images"]] == [
        "visible/train/010001.jpg",
        "visible/train/010002.jpg",
    ]
    assert [i["ir_file_name"] for i in val["images"]] == ["infrared/test/190001.jpg"]
    assert val["annotations"][0]["bbox"] == [5.0, 5.0, 10.0, 20.0]


def test_llvip_by_its_own_script(script, llvip, tmp_path, capsys):
    script("prepare_pairs")([*LLVIP, "--source", str(llvip)])
    paths = [f"llvip/annotations/default_{part}.json" for part in ("train", "val")]
    general = [read(tmp_path, path) for path in paths]
    script("prepare_llvip")(["--source", str(llvip)])
    for path, other in zip(paths, general, strict=True):
        coco = read(tmp_path, path)
        assert [coco[key] for key in ("images", "annotations", "categories")] == [
            other[key] for key in ("images", "annotations", "categories")
        ]
    assert "warning: default_train has 2 images (12025 published)" in capsys.readouterr().out
    (llvip / "infrared/train/010002.jpg").unlink()
    with pytest.raises(UserError, match="visible/train/010002.jpg has no partner"):
        script("prepare_llvip")(["--source", str(llvip)])


def test_pairs_of_one_folder_by_patterns(script, tmp_path, capsys):
    root = tmp_path / "flir"
    for stem in ("F1", "F2"):
        image(root / f"all/{stem}_RGB.jpg")
        image(root / f"all/{stem}_IR.jpeg", mode="L")
        voc(root / f"xml/{stem}_IR.xml", ("car", 0, 0, 5, 5), ("dog", 1, 1, 9, 9))
    (tmp_path / "val.txt").write_text("F2_IR\n")
    options = ["--vis", "all/*_RGB.jpg", "--ir", "all/*_IR.jpeg", "--labels", "xml/*_IR.xml"]
    options += ["--classes", "person,car", "--ignore", "dog", "--set", "flir", "--source", str(root)]
    main = script("prepare_pairs")
    main([*options, "--split", f"own={tmp_path}/val.txt"])
    coco = read(tmp_path, "flir/annotations/own_val.json")
    assert coco["images"][0]["ir_file_name"] == "all/F2_IR.jpeg"
    assert [a["category_id"] for a in coco["annotations"]] == [2]
    assert "ignored class" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["m3fd", "msrs", "llvip"])
def test_dry_run_then_write_then_unchanged(name, script, request, tmp_path, capsys):
    source = request.getfixturevalue(name)
    tool = {"m3fd": "prepare_m3fd", "msrs": "prepare_msrs_detection", "llvip": "prepare_pairs"}[name]
    options = LLVIP if name == "llvip" else []

    def main(argv):
        script(tool)([*options, *argv])

    output = tmp_path / "sets"
    main(["--source", str(source), "--dry-run"])
    assert "would create" in capsys.readouterr().out and not output.exists()
    main(["--source", str(source)])
    assert "created" in capsys.readouterr().out
    files = sorted(p for p in output.rglob("*") if p.is_file())
    assert [p.suffix for p in files] == [".json", ".json"]
    times = [p.stat().st_mtime_ns for p in files]
    main(["--source", str(source)])
    out = capsys.readouterr().out
    assert out.count("unchanged: ") == 2 and "created" not in out and "replaced" not in out
    assert [p.stat().st_mtime_ns for p in files] == times
    main(["--source", str(source), "--output", str(source)])
    inside = json.loads((source / "annotations" / files[0].name).read_text())
    assert "image_root" not in inside["info"]


def test_boxes_are_clipped_or_dropped_and_counted(script, m3fd, tmp_path, capsys):
    bad = ("Car", -4, 5, 60, 12), ("Bus", 7, 7, 7, 20), ("Lamp", 50, 5, 60, 9)
    good = (("Bus", 1, 1, 9, 9), ("Lamp", 2, 2, 8, 8)) * 50  # 2 of 105 boxes may be dropped
    voc(m3fd / "Annotation/00111.xml", *bad, *good)
    script("prepare_m3fd")(["--source", str(m3fd)])
    coco = read(tmp_path, "m3fd/annotations/scene_val.json")
    boxes = [a["bbox"] for a in coco["annotations"] if a["image_id"] == 1]
    assert boxes == [[0.0, 5.0, 40.0, 7.0]] + [[1.0, 1.0, 8.0, 8.0], [2.0, 2.0, 6.0, 6.0]] * 50
    rows = {
        line.rsplit(maxsplit=2)[0].strip(): line.split()[-1]
        for line in capsys.readouterr().out.splitlines()
        if line
    }
    assert rows["boxes clipped to the image"] == "1"
    assert rows["boxes skipped: under 1 px wide or high"] == "1"
    assert rows["boxes skipped: outside the image"] == "1"


def no_infrared(root):
    (root / "Ir/00111.png").unlink()


def no_visible(root):
    (root / "Vis/00111.png").unlink()


def unequal(root):
    image(root / "Ir/00111.png", (20, 30), "L")


def cut_header(root):
    (root / "Vis/00111.png").write_bytes(b"\x89PNG")


def unknown_name(root):
    voc(root / "Annotation/00111.xml", ("Lampe", 1, 1, 5, 5))


def no_corner(root):
    voc(root / "Annotation/00111.xml", ("Car", 1, 1, "left"))


def broken_xml(root):
    (root / "Annotation/00111.xml").write_text("<annotation><object>")


def no_xml(root):
    for path in (root / "Annotation").iterdir():
        path.unlink()


BAD_M3FD = {
    no_infrared: r"Vis/00111.png has no partner .*Ir/00111.png",
    no_visible: r"Ir/00111.png has no partner .*Vis/00111.png",
    unequal: r"Vis/00111.png and .*Ir/00111.png differ in size \(40x30 and 20x30\)",
    cut_header: r"Vis/00111.png cannot be read",
    unknown_name: r"00111.xml: unknown class 'Lampe' .*did you mean 'Lamp'",
    no_corner: r"00111.xml: the box of a Car is not four numbers",
    broken_xml: r"00111.xml:1: not readable XML",
    no_xml: r"no file matches .*Annotation/\*.xml",
}


@pytest.mark.parametrize("spoil", BAD_M3FD, ids=lambda f: f.__name__)
def test_bad_m3fd_is_named_and_writes_nothing(spoil, script, m3fd, tmp_path):
    spoil(m3fd)
    with pytest.raises(UserError, match=BAD_M3FD[spoil]):
        script("prepare_m3fd")(["--source", str(m3fd)])
    assert not (tmp_path / "sets").exists()


def test_conflicting_voc_options(script, llvip):
    main = script("prepare_pairs")
    llvip_again = [*LLVIP, "--source", str(llvip)]
    with pytest.raises(UserError, match=r"needs a \*"):
        main([*llvip_again, "--labels", "{part}/labels.xml"])
    (llvip / "Annotations/190001.xml").unlink()
    with pytest.raises(UserError, match="no pair of the val part has a label file"):
        main(llvip_again)


def test_writing_is_all_or_nothing(script, m3fd, tmp_path, monkeypatch):
    output = tmp_path / "sets/m3fd/annotations"
    output.mkdir(parents=True)
    (output / "scene_val.json").write_text("old")
    main, written = script("prepare_m3fd"), []

    def refuse_the_second(self, data):
        written.append(self)
        if len(written) == 2:
            raise PermissionError(13, "denied", str(self))
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", refuse_the_second)
    with pytest.raises(UserError, match="cannot write .*scene_val.json .*--output"):
        main(["--source", str(m3fd)])
    assert len(written) == 2
    assert [p.name for p in output.iterdir()] == ["scene_val.json"]
    assert (output / "scene_val.json").read_text() == "old"


@pytest.mark.parametrize(
    "name",
    [
        "prepare_m3fd",
        "prepare_msrs_detection",
        "prepare_segmentation",
        "prepare_pairs",
        "check_pairs",
        "align_pairs",
    ],
)
def test_help_needs_nothing_heavy(name, tmp_path):
    shown = help_without_packages(name, "datasets", tmp_path)
    assert f"example:\n  python datasets/{name}.py" in shown


def test_a_missing_environment_is_one_line(tmp_path):
    command = [sys.executable, "-S", str(ROOT / "datasets/prepare_m3fd.py")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ivtuning is not installed for ")
    assert "`make setup`" in done.stderr and done.stderr.count("\n") == 1
