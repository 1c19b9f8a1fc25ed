"""Own pairs: two folders, however their files are called and labeled, become a set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from helpers.isolation import Case, refuse
from helpers.own_pairs import BOX, YOLO, H, W, coco, images, names, prepare, voc, write
from PIL import Image

from ivtuning.data.catalog import unregister
from ivtuning.data.own import find_set
from ivtuning.data.prepare.folders import find_files, without_common
from ivtuning.errors import UserError

TOOL = "datasets/prepare_pairs.py"
FOLDERS = ["--set", "own", "--vis", "vis", "--ir", "ir", "--labels", "labels", "--output", "out"]


@pytest.mark.parametrize(
    "visible, infrared, label",
    [
        ("{}.png", "{}.png", "labels/{}.xml"),
        ("{}_RGB.jpg", "{}_thermal.jpeg", "labels/{}_RGB.xml"),
        ("{}_RGB.JPG", "{}_thermal.JPEG", "labels/{}_thermal.XML"),
        ("RGB_0{}.png", "IR_0{}.png", "labels/0{}.xml"),
        ("FLIR_0{}.jpg", "FLIR_0{}_PreviewData.jpg", "labels/FLIR_0{}_PreviewData.xml"),
        ("a/b/{}_vis.png", "a/b/{}_ir.png", "labels/a/b/{}_vis.xml"),
        ("a/{}_vis.png", "a/{}_ir.png", "labels/{}.xml"),
    ],
)
def test_files_pair_by_what_their_names_share(visible, infrared, label, tmp_path):
    voc(images(tmp_path, visible, infrared), name=label)
    made = prepare(tmp_path)
    together = made["train"]["images"] + made["val"]["images"]
    assert (len(made["train"]["images"]), len(made["val"]["images"])) == (4, 1)
    pairs = {(image["file_name"], image["ir_file_name"]) for image in together}
    assert pairs == {(f"vis/{visible}".format(i), f"ir/{infrared}".format(i)) for i in range(1, 6)}
    assert names(made["train"]) == names(made["val"]) == ["car", "person"]
    boxes = made["train"]["annotations"] + made["val"]["annotations"]
    assert [box["bbox"] for box in boxes] == [BOX] * 5
    kinds = {
        image["file_name"]: made[part]["annotations"][i]["category_id"]
        for part in made
        for i, image in enumerate(made[part]["images"])
    }
    assert kinds == {f"vis/{visible}".format(i): 1 if i % 2 == 0 else 2 for i in range(1, 6)}


def test_labels_may_be_beside_the_images(tmp_path):
    voc(images(tmp_path), name="vis/{}.xml")
    assert len(prepare(tmp_path, "vis")["train"]["annotations"]) == 4


def test_numbers_are_never_cut_from_names():
    assert without_common(["x_10_a", "x_20_a"]) == {"10": "x_10_a", "20": "x_20_a"}
    assert without_common(["apple", "avocado"]) == {"apple": "apple", "avocado": "avocado"}
    assert without_common(["t/RGB001", "v/RGB002"]) == {"t/001": "t/RGB001", "v/002": "v/RGB002"}
    assert without_common(["1_a"]) == {"1_a": "1_a"}


def test_a_pattern_has_several_wildcards_and_any_case_of_its_suffix(tmp_path):
    for name in ("set0/V1/visible/I1.JPG", "set0/V1/lwir/I1.jpg", "set1/V0/visible/I1.jpg"):
        write(tmp_path, name, "")
    found = find_files(f"{tmp_path}/set*/V*/visible/*.jpg", (), "--vis")
    assert list(found) == ["0/1/I1", "1/0/I1"]
    write(tmp_path, "set1/V0/visible/I1.JPG", "")
    with pytest.raises(UserError, match="both called '1/0/I1'"):
        find_files(f"{tmp_path}/set*/V*/visible/*.jpg", (), "--vis")


@pytest.mark.parametrize("where", ["labels/classes.txt", "classes.txt", "labels/data.yaml"])
def test_yolo_takes_its_classes_from_beside(where, tmp_path):
    images(tmp_path)
    for stem in "12345":
        write(tmp_path, f"labels/{stem}.txt", YOLO.format(2) + YOLO.format(0))
    write(
        tmp_path, where, "names: {0: dog, 1: bus, 2: car}\n" if where.endswith("yaml") else "dog\nbus\ncar\n"
    )
    made = prepare(tmp_path, ignore="dog")["train"]
    assert names(made) == ["bus", "car"]
    assert {(box["category_id"], *box["bbox"]) for box in made["annotations"]} == {(2, *BOX)}


def test_labels_in_folders_like_those_of_the_images(tmp_path):
    stems = ("a/1", "a/2", "b/1", "b/2")
    for stem in stems:
        folder, name = stem.split("/")
        images(tmp_path / folder, "{}.jpg", "{}.jpg", (name,))
    voc(tmp_path, stems)
    made = prepare(tmp_path, visible="*/vis/*.jpg", infrared="*/ir/*.jpg", split=".5")
    assert {i["file_name"] for part in made.values() for i in part["images"]} == {
        stem.replace("/", "/vis/") + ".jpg" for stem in stems
    }
    assert sum(len(part["annotations"]) for part in made.values()) == 4


@pytest.mark.parametrize("labels", ["labels", "instances_{part}.json"])
def test_labels_of_another_part_belong_to_no_pair(tmp_path, labels, capsys):
    """A part that was not taken counts its images from 1 as well."""
    labeled = [f"train/{number}" for number in (2, 3, 4, 5)]
    images(tmp_path, stems=("train/1", *labeled))
    voc(tmp_path, (*labeled, "val/1"))
    for part, numbers in (("train", (1, 2, 3, 4)), ("val", (0,))):
        content = coco({"category_id": 7, "bbox": BOX}, name="{}.png")
        content["images"] = [content["images"][number] for number in numbers]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        write(tmp_path, f"instances_{part}.json", json.dumps(content))
    made = prepare(tmp_path, labels, split="0.4")
    named = {image["file_name"] for content in made.values() for image in content["images"]}
    assert named == {f"vis/{stem}.png" for stem in labeled}
    assert "belong to no pair, left out: 1" in capsys.readouterr().out


def test_a_list_means_no_pair_of_another_folder(tmp_path):
    stems = ("a/1", "a/2", "b/1", "b/3")
    voc(images(tmp_path, stems=stems), stems)
    write(tmp_path, "val.txt", "b/3\nvis/a/2.png\n")
    assert len(prepare(tmp_path, split="mine=val.txt")["val"]["images"]) == 2
    for line, words in (("b/2", "no pair is called 'b/2'"), ("1.png", "may be a/1 or b/1: write its folder")):
        write(tmp_path, "val.txt", line)
        with pytest.raises(UserError, match=words):
            prepare(tmp_path, split="mine=val.txt")


def test_a_second_run_leaves_label_maps_and_copies_alone(tmp_path):
    for number in "12345":
        for folder, mode in (("vis", "RGBA"), ("ir", "L"), ("labels", "L")):
            (tmp_path / "out" / folder).mkdir(parents=True, exist_ok=True)
            Image.new(mode, (W, H), 1).save(tmp_path / "out" / folder / f"{number}.png")
    places = {"visible": "out/vis", "infrared": "out/ir", "labels": "out/labels"}
    first = prepare(tmp_path, classes="ground,car", **places)
    assert first["val"]["images"][0]["file_name"].startswith("out/copies/vis/random_val/")
    assert prepare(tmp_path, classes="ground,car", **places) == first


def test_hidden_folders_hold_no_images(tmp_path):
    voc(images(tmp_path))
    for folder in ("vis/.ipynb_checkpoints", "ir/.Trash-1", "__MACOSX"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (W, H)).save(tmp_path / folder / "1-checkpoint.png")
    assert sum(len(content["images"]) for content in prepare(tmp_path).values()) == 5


def test_label_maps_become_a_segmentation_set(tmp_path):
    images(tmp_path, "{}_rgb.png", "{}_ir.png")
    (tmp_path / "labels").mkdir()
    for stem in "12345":
        values = np.zeros((H, W), np.uint8)
        values[:5], values[5:9] = 2, 255
        Image.fromarray(values).save(tmp_path / f"labels/{stem}_label.png")
    made = prepare(tmp_path, classes="background,person,car")
    assert [(c["id"], c["name"]) for c in made["val"]["categories"]] == [
        (0, "background"),
        (1, "person"),
        (2, "car"),
    ]
    file = str(tmp_path / "out/segmentation/random_val.json")
    try:
        (record,) = DatasetCatalog.get(find_set(file))
    finally:
        unregister(file)
    assert record["sem_seg_file_name"].endswith("_label.png") and record["label_ids"][2] == 2
    with pytest.raises(UserError, match="--classes is missing"):
        prepare(tmp_path)


def test_label_maps_are_read_as_they_are_stored(tmp_path):
    """An orientation in EXIF data does not turn them: training would read them as stored, too."""
    images(tmp_path)
    (tmp_path / "labels").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for stem in "12345":
        Image.new("L", (W, H), 1).save(tmp_path / f"labels/{stem}.png", exif=exif)
    assert len(prepare(tmp_path, classes="ground,car")["train"]["images"]) == 4


def test_parts_are_folders_lists_or_a_share(tmp_path):
    stems = ("train/1", "train/2", "valid/1", "test/9")
    voc(images(tmp_path, "{}.png", "{}.png", stems), stems)
    made = prepare(tmp_path)
    assert {part: len(content["images"]) for part, content in made.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    write(tmp_path, "val.txt", "train/2\n9.png\n")
    made = prepare(tmp_path, split="mine=val.txt")
    assert [image["file_name"] for image in made["val"]["images"]] == ["vis/test/9.png", "vis/train/2.png"]
    write(tmp_path, "val.txt", "1\n")  # which of the two is not known, so it is a number, and means both
    assert len(prepare(tmp_path, split="mine=val.txt")["val"]["images"]) == 2
    assert len(prepare(tmp_path, split=".5")["val"]["images"]) == 2


def test_folders_of_parts_may_be_at_any_level(tmp_path):
    stems = ("day/train/1", "day/val/1", "night/train/2")
    voc(images(tmp_path, stems=stems), stems)
    made = prepare(tmp_path)
    assert [image["file_name"] for image in made["val"]["images"]] == ["vis/day/val/1.png"]
    assert (tmp_path / "out/annotations/default_train.json").is_file()


def spoiled(change=None, *options: str, **layout):
    """Prepare pairs with VOC labels, which `change(folder)` spoils."""

    def make(folder: Path) -> list[str]:
        voc(images(folder, **layout))
        if change:
            change(folder)
        return [*FOLDERS, *options]

    return make


def swap(folder: Path) -> None:
    (folder / "vis").rename(folder / "x")
    (folder / "ir").rename(folder / "vis")
    (folder / "x").rename(folder / "ir")


def resized(folder: Path) -> None:
    Image.new("L", (80, 60)).save(folder / "ir/3.png")


CASES = [
    Case("folders swapped", TOOL, spoiled(swap), ["vis/1.png", "gray"]),
    Case("another size", TOOL, spoiled(resized), ["vis/3.png", "ir/3.png", "40x30 and 80x60"]),
    Case(
        "no partner", TOOL, spoiled(lambda f: (f / "ir/3.png").unlink()), ["vis/3.png", "no partner", "/ir"]
    ),
    Case("no folder", TOOL, spoiled(None, "--ir", "infra"), ["--ir", "infra", "correct"]),
    Case("empty folder", TOOL, spoiled(lambda f: (f / "none").mkdir(), "--vis", "none"), ["none", ".png"]),
    Case("one folder twice", TOOL, spoiled(None, "--ir", "vis"), ["--vis and --ir", "'vis'"]),
    Case(
        "labels of others",
        TOOL,
        spoiled(lambda f: voc(f, ("a", "b"), "others/{}.xml"), "--labels", "others"),
        ["--labels", "others", "a.xml"],
    ),
    Case("two formats", TOOL, spoiled(lambda f: write(f, "labels/1.txt", "")), ["--labels", ".txt, .xml"]),
    Case(
        "no classes",
        TOOL,
        spoiled(lambda f: write(f, "yolo/1.txt", YOLO), "--labels", "yolo"),
        ["classes.txt", "--classes"],
    ),
    Case("no part", TOOL, spoiled(None, "--split", "folders"), ["--split folders", "vis/1.png"]),
    Case("a share of all", TOOL, spoiled(None, "--split", "1.5"), ["'1.5'", "0.3"]),
    Case(
        "broken COCO",
        TOOL,
        spoiled(lambda f: write(f, "all.json", '{"images": 1}'), "--labels", "all.json"),
        ["all.json", "images"],
    ),
    Case(
        "COCO of others",
        TOOL,
        spoiled(lambda f: write(f, "all.json", json.dumps(coco(name="a{}.png"))), "--labels", "all.json"),
        ["all.json", "pair", "'a5'"],
    ),
    Case(
        "a misspelt class",
        TOOL,
        spoiled(None, "--ignore", "persn"),
        ["--ignore persn", "did you mean 'person'"],
    ),
    Case(
        "key points",
        TOOL,
        spoiled(
            lambda f: (
                write(f, "yolo/data.yaml", "names: [a]\nkpt_shape: [1, 3]\n")
                or write(f, "yolo/1.txt", "0 .5 .5 .2 .2 .5 .5 2\n")
            ),
            "--labels",
            "yolo",
        ),
        ["data.yaml", "kpt_shape"],
    ),
    Case("no set", TOOL, lambda folder: FOLDERS[2:], ["--set", "--help"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input_is_one_line(case, tmp_path):
    refuse(case, tmp_path)
