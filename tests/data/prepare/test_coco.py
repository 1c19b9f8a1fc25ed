"""The scripts that prepare detection sets: splits, boxes, bad releases, and what they write."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.tools import MSRS, ROOT, help_without_packages
from PIL import Image

from ivtuning.data.image_files import image_size
from ivtuning.data.prepare.coco import count_warnings
from ivtuning.data.prepare.pairing import Pair, split_pairs
from ivtuning.errors import UserError


def image(path: Path, size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)


def voc(path: Path, *objects, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    items = []
    for name, *box in objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False)
        inside = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
        items.append(f"<object><name>{name}</name><bndbox>{inside}</bndbox></object>")
    stated = "<size><width>{}</width><height>{}</height></size>".format(*size)
    path.write_text(f"<annotation>{stated}{''.join(items)}</annotation>")


@pytest.fixture
def m3fd(tmp_path):
    root = tmp_path / "M3FD"
    for number in (110, 111, 112, 1300, 1301):
        size = (40, 30) if number != 112 else (24, 18)
        image(root / f"Vis/{number:05}.png", size)
        image(root / f"Ir/{number:05}.png", size, "L")
        voc(root / f"Annotation/{number:05}.xml", ("Car", 1, 2, 11, 8), ("people", 3, 3, 5, 9), size=size)
    return root


@pytest.fixture
def msrs(tmp_path):
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


@pytest.fixture
def llvip(tmp_path):
    root = tmp_path / "LLVIP"
    for part, stem in (("train", "010001"), ("train", "010002"), ("test", "190001")):
        image(root / f"visible/{part}/{stem}.jpg")
        image(root / f"infrared/{part}/{stem}.jpg")
        voc(root / f"Annotations/{stem}.xml", ("person", 5, 5, 15, 25))
    return root


def read(tmp_path, name):
    return json.loads((tmp_path / "sets" / name).read_text())


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


def test_shipped_scene_list_has_the_published_numbers():
    pairs = [Pair(f"{n:05}", Path(f"{n:05}"), Path(f"{n:05}"), None) for n in range(4200)]
    name, parts = split_pairs(pairs, f"scene={ROOT / 'datasets/splits/m3fd_scene_val.txt'}", Path("."))
    assert name == "scene" and {k: len(v) for k, v in parts.items()} == {"train": 3368, "val": 831}
    assert "01300" not in {p.stem for part in parts.values() for p in part}


def test_random_split_depends_on_the_seed_alone(script, m3fd, tmp_path):
    def val(*options):
        script("prepare_m3fd")(["--source", str(m3fd), "--split", "random", *options])
        return [i["file_name"] for i in read(tmp_path, "m3fd/annotations/random_val.json")["images"]]

    assert val() == val()
    assert len(val()) == 1
    assert len({tuple(val("--seed", str(seed))) for seed in range(8)}) > 1


def test_split_by_lists(script, m3fd, tmp_path):
    (tmp_path / "a.txt").write_text("00110\n01301.png  # a comment\n")
    (tmp_path / "b.txt").write_text("111-112\n!112\n")
    lists = f"mine={tmp_path}/a.txt,{tmp_path}/b.txt"
    script("prepare_m3fd")(["--source", str(m3fd), "--split", lists])
    parts = [read(tmp_path, f"m3fd/annotations/mine_{part}.json")["images"] for part in ("train", "val")]
    stems = [[i["file_name"][4:9] for i in images] for images in parts]
    assert stems == [["00110", "01301"], ["00111"]]


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


@pytest.mark.parametrize(
    "lists, message",
    [
        ({"b": "00111\n99999\n"}, "no pair is called '99999'"),
        ({"a": "00111\n00110\n", "b": "00111\n"}, "'00111' is in both lists"),
        ({"b": "5-9\n"}, "its val part has no pair"),
    ],
)
def test_bad_split_lists(lists, message, script, m3fd, tmp_path):
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    split = "mine=" + ",".join(f"{tmp_path}/{name}.txt" for name in lists)
    with pytest.raises(UserError, match=message):
        script("prepare_m3fd")(["--source", str(m3fd), "--split", split])


@pytest.mark.parametrize(
    "split, message", [("scenes", "neither known"), ("x=none.txt", "none.txt is missing")]
)
def test_bad_split_names(split, message, script, m3fd):
    with pytest.raises(UserError, match=message):
        script("prepare_m3fd")(["--source", str(m3fd), "--split", split])


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


def test_size_of_a_turned_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (30, 40)


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
